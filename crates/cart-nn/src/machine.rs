//! What a machine can do at best: the bounds that the decoder's speed is held against.
//!
//! Decoding one token reads every weight once, so it is bounded by [`read_bandwidth`]; reading a
//! prompt multiplies every weight with every token, so it is bounded by [`int8_throughput`].

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::kernel::KernelLevel;
#[cfg(target_arch = "x86_64")]
use crate::kernel::amx;

/// Bytes that [`read_bandwidth`] reads in one pass: several times the caches of today.
const BUFFER: usize = 256 << 20;
/// Passes, of which the best counts.
const PASSES: usize = 5;
/// Turns of the loop in one pass of [`int8_throughput`].
const STEPS: usize = 4 << 20;

/// Bytes a second that `threads` threads read from memory, each its own part.
pub fn read_bandwidth(threads: usize) -> f64 {
    let threads = threads.max(1);
    let words = vec![1_u64; BUFFER / size_of::<u64>()];
    let parts: Vec<&[u64]> = words.chunks(words.len().div_ceil(threads)).collect();
    let seconds = best_pass(parts.len(), |thread| {
        black_box(sum(parts[thread]));
    });
    BUFFER as f64 / seconds
}

/// Integer operations a second (a multiplication and an addition are two) of 8-bit dot products at
/// a kernel level with `threads` threads, from registers. A level that the processor lacks counts
/// as portable.
pub fn int8_throughput(level: KernelLevel, threads: usize) -> f64 {
    let threads = threads.max(1);
    let level = if level.is_supported() { level } else { KernelLevel::Portable };
    let steps = match level {
        KernelLevel::Portable | KernelLevel::Neon => STEPS / 16,
        _ => STEPS,
    };
    let seconds = best_pass(threads, |_| {
        black_box(products(level, black_box(steps)));
    });
    (2 * products_of_a_step(level) * steps * threads) as f64 / seconds
}

/// The processor's name, as the system tells it.
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Seconds of the fastest pass of `work` on all threads at once.
fn best_pass(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let passes = std::thread::scope(|scope| {
        let workers = (0..threads).map(|thread| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                (0..PASSES)
                    .map(|_| {
                        barrier.wait();
                        let began = Instant::now();
                        work(thread);
                        began.elapsed().as_secs_f64()
                    })
                    .collect::<Vec<f64>>()
            })
        });
        let workers: Vec<_> = workers.collect();
        let joined = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        joined.collect::<Vec<_>>()
    });
    let slowest = |pass: usize| passes.iter().map(|thread| thread[pass]).fold(0.0, f64::max);
    (0..PASSES).map(slowest).fold(f64::INFINITY, f64::min)
}

/// A sum that reads as fast as it can: eight chains, so that no addition waits.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for chunk in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// 8-bit products in one turn of a level's loop: accumulators × lanes.
fn products_of_a_step(level: KernelLevel) -> usize {
    match level {
        // NEON is not measured for itself yet: the plain loop runs.
        KernelLevel::Portable | KernelLevel::Neon => 4 * 16,
        KernelLevel::Avx2 => 8 * 32,
        KernelLevel::Avx512Vnni => 12 * 64,
        KernelLevel::Amx => 4 * 16 * 16 * 64,
    }
}

#[cfg(target_arch = "x86_64")]
fn products(level: KernelLevel, steps: usize) -> i32 {
    match level {
        KernelLevel::Portable | KernelLevel::Neon => portable(steps),
        // SAFETY: `int8_throughput` saw that the processor has the level.
        KernelLevel::Avx2 => unsafe { avx2(steps) },
        // SAFETY: as above.
        KernelLevel::Avx512Vnni => unsafe { vnni(steps) },
        // SAFETY: as above.
        KernelLevel::Amx => unsafe { amx::products(steps) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn products(_: KernelLevel, steps: usize) -> i32 {
    portable(steps)
}

fn portable(steps: usize) -> i32 {
    let (weights, activations) = ([3_i8; 16], black_box([5_i8; 16]));
    let mut sums = [[0_i32; 16]; 4];
    for _ in 0..steps {
        for sums in &mut sums {
            // The compiler must not take the products out of the loop.
            let weights = black_box(&weights);
            for (sum, (weight, activation)) in sums.iter_mut().zip(weights.iter().zip(&activations))
            {
                *sum = sum.wrapping_add(i32::from(*weight) * i32::from(*activation));
            }
        }
    }
    sums.as_flattened().iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Eight accumulators, four weights and two activations: as many as the sixteen registers hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(steps: usize) -> i32 {
    use std::arch::x86_64::{
        _mm256_add_epi8, _mm256_add_epi32, _mm256_extract_epi32, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_si256,
    };
    let (ones, step) = (black_box(_mm256_set1_epi16(1)), black_box(_mm256_set1_epi8(1)));
    let weights = black_box([3, 4, 5, 6].map(|weight| _mm256_set1_epi8(weight)));
    let mut activations = black_box([7, 8].map(|activation| _mm256_set1_epi8(activation)));
    let mut sums = [[_mm256_setzero_si256(); 4]; 2];
    for _ in 0..steps {
        for (sums, activation) in sums.iter_mut().zip(&mut activations) {
            // A new value in each turn, or the products would be taken out of the loop.
            *activation = _mm256_add_epi8(*activation, step);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                let pairs = _mm256_maddubs_epi16(weight, *activation);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    let zero = _mm256_setzero_si256();
    let all = sums.as_flattened().iter().fold(zero, |all, sum| _mm256_add_epi32(all, *sum));
    _mm256_extract_epi32::<0>(all)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni(steps: usize) -> i32 {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512,
    };
    let (weights, activations) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
    let mut sums = black_box([_mm512_setzero_si512(); 12]);
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, weights, activations);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_epi32(sum)).fold(0, i32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_counts_the_products_it_did() {
        let count = |level| 7 * products_of_a_step(level) as i32;
        assert_eq!(portable(7), 3 * 5 * count(KernelLevel::Portable));
        #[cfg(target_arch = "x86_64")]
        if KernelLevel::Avx512Vnni.is_supported() {
            let level = KernelLevel::Avx512Vnni;
            assert_eq!(products(level, 7), 3 * 5 * count(level));
        }
        #[cfg(target_arch = "x86_64")]
        if KernelLevel::Avx2.is_supported() {
            // One lane of eight 32-bit lanes: four products for each weight and activation.
            let activations: i32 = (1..=7).map(|step| 7 + step + 8 + step).sum();
            assert_eq!(products(KernelLevel::Avx2, 7), 4 * (3 + 4 + 5 + 6) * activations);
        }
    }

    #[test]
    fn the_words_are_all_read() {
        let words: Vec<u64> = (0..320).collect();
        assert_eq!(sum(&words), 319 * 320 / 2);
    }
}
