//! Attention against plain arithmetic, at every level and in every format.

use std::num::NonZeroUsize;

use super::*;
use crate::kernel::KernelLevel;
use crate::kv::{KvFormat, KvShape};
use crate::threads::Threads;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Numbers that every format stores exactly, and scores that matter: keys and values are multiples
/// of 1/8 with a 127/8 in each group.
fn exact(len: usize, seed: u32) -> Vec<f32> {
    let numbers = numbers(len, seed).into_iter().enumerate();
    let number = |(at, number): (usize, f32)| match at % 32 {
        0 => 127.0 / 8.0,
        _ => (number * 10.0).round() / 8.0,
    };
    numbers.map(number).collect()
}

fn attention(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    Attention {
        heads,
        kv_heads,
        head_dim,
        scale: 0.1,
        window: None,
        score_softcap: None,
        query_norm: None,
        key_norm: None,
        rope: None,
    }
}

/// * `qkv`: of all positions
fn plain(attention: &Attention, qkv: &[f32], bias: &[f32]) -> Vec<f64> {
    let &Attention { heads, kv_heads, head_dim, .. } = attention;
    let width = (heads + 2 * kv_heads) * head_dim;
    let part = |position: usize, head: usize| {
        qkv[position * width + head * head_dim..][..head_dim].iter().map(|x| f64::from(*x))
    };
    let mut out = Vec::new();
    for row in 0..qkv.len() / width {
        let start = attention.window.map_or(0, |window| (row + 1).saturating_sub(window));
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let score = |position: usize| {
                let dot: f64 =
                    part(row, head).zip(part(position, heads + kv_head)).map(|(a, b)| a * b).sum();
                let score = dot * f64::from(attention.scale);
                let capped = attention
                    .score_softcap
                    .map_or(score, |cap| (score / f64::from(cap)).tanh() * f64::from(cap));
                capped + f64::from(bias[position])
            };
            let scores: Vec<f64> = (start..=row).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; head_dim];
            for (position, weight) in (start..).zip(weights) {
                let value = part(position, heads + kv_heads + kv_head);
                mixed.iter_mut().zip(value).for_each(|(mixed, x)| *mixed += x * weight / total);
            }
            out.extend(mixed);
        }
    }
    out
}

/// Appends the rows of `qkv` in `pieces` and gives all rows of the result.
fn in_pieces(
    attention: &Attention,
    kernels: Kernels,
    format: KvFormat,
    qkv: &[f32],
    bias: Option<&[f32]>,
    pieces: &[usize],
) -> Vec<f32> {
    let &Attention { heads, kv_heads, head_dim, .. } = attention;
    let width = (heads + 2 * kv_heads) * head_dim;
    let mut cache = KvCache::new(KvShape { kv_heads, head_dim, format });
    let mut out = Vec::new();
    let mut past = 0;
    for &piece in pieces {
        let rows = &qkv[past * width..(past + piece) * width];
        let bias = bias.map(|bias| &bias[..past + piece]);
        let segment = Segment { rows: 0..piece, past, cache: &mut cache, bias };
        out.extend(attention.apply(kernels, rows, None, &mut [segment]));
        past += piece;
    }
    assert_eq!(past * width, qkv.len());
    out
}

#[test]
fn every_level_gives_the_same_and_every_format_is_near_plain_arithmetic() {
    let mut windowed = attention(4, 1, 32);
    windowed.window = Some(70);
    let mut capped = attention(2, 2, 96);
    capped.score_softcap = Some(3.0);
    for attention in [attention(6, 2, 32), attention(7, 1, 64), windowed, capped] {
        let total = 700;
        let width = (attention.heads + 2 * attention.kv_heads) * attention.head_dim;
        let mut qkv = exact(total * width, 9);
        let keys = attention.query_width();
        for row in qkv.chunks_exact_mut(width) {
            row[..keys].iter_mut().for_each(|number| *number /= 40.0);
        }
        let bias: Vec<f32> = numbers(total, 11).iter().map(|number| number * 2.0).collect();
        let expected = plain(&attention, &qkv, &bias);
        let mut first = Vec::new();
        for level in KernelLevel::ALL.into_iter().filter(|level| level.is_supported()) {
            let kernels = Kernels::new(level).unwrap();
            let mut all = Vec::new();
            for format in KvFormat::ALL {
                for pieces in [vec![total], vec![300, 1, 256, 8, 135], vec![641, 1, 58]] {
                    let found = in_pieces(&attention, kernels, format, &qkv, Some(&bias), &pieces);
                    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error < 2e-4, "{level} {format} {pieces:?} {at}: {error}");
                    }
                    all.push(found);
                }
            }
            if first.is_empty() {
                first = all;
            } else {
                assert!(first == all, "{level} differs from portable");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let attention = attention(6, 2, 32);
    let qkv = numbers(1300 * 10 * 32, 21);
    let pieces = [1200, 1, 3, 96];
    let run = || in_pieces(&attention, Kernels::detect(), KvFormat::F16, &qkv, None, &pieces);
    let on = |threads| Threads::new(NonZeroUsize::new(threads).unwrap()).unwrap().run(run);
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn what_was_forgotten_is_not_seen_even_where_it_was_no_number() {
    let attention = attention(2, 1, 16);
    let width = 4 * 16;
    let qkv = numbers(80 * width, 31);
    let mut cache = KvCache::new(KvShape { kv_heads: 1, head_dim: 16, format: KvFormat::F32 });
    let kernels = Kernels::detect();
    let step = |cache: &mut KvCache, rows: &[f32]| {
        let past = cache.len();
        let segment = Segment { rows: 0..rows.len() / width, past, cache, bias: None };
        attention.apply(kernels, rows, None, &mut [segment])
    };
    let (before, after) = qkv.split_at(70 * width);
    step(&mut cache, before);
    let mut spoiled = cache.clone();
    let next = step(&mut cache, after);
    assert!(step(&mut spoiled, &vec![f32::NAN; 9 * width]).iter().all(|number| number.is_nan()));
    spoiled.truncate(70);
    assert_eq!(step(&mut spoiled, after), next);
}
