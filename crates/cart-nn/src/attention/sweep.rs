//! One pass over keys and values for the query heads that share them, with a running softmax
//! (Milakov & Gimelshein, 2018; Dao et al., `FlashAttention`, 2022).

use std::ops::Range;

use half::f16;

use super::panel::{Left, multiply};
use crate::kernel::Kernels;
use crate::kernel::floats::{Element, Lanes, SIDE_BY_SIDE, Work};
use crate::kernel::vector::{exp, soft_cap};
use crate::kv::{BLOCK, HeadBlock, KvCache, LANE_PAD};

/// From this many rows on, stored numbers are made floats once for all of them.
const WIDEN: usize = 9;

/// The score of a position that a row does not see. What was summed up under it counts nothing as
/// soon as there is a real score, and each row sees itself.
const UNSEEN: f32 = -1e30;

/// What a pass has summed up for each row, so far or over its range of positions.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// `[rows, padded]`: `Σ e^(score − largest) · value`.
    pub(super) mixed: Vec<f32>,
    /// The largest score.
    pub(super) largest: Vec<f32>,
    /// `Σ e^(score − largest)`.
    pub(super) total: Vec<f32>,
}

impl Sums {
    /// Sums over no position.
    pub(super) fn reset(&mut self, rows: usize, padded: usize) {
        self.mixed.clear();
        self.mixed.resize(rows * padded, 0.0);
        self.largest.clear();
        self.largest.resize(rows, UNSEEN);
        self.total.clear();
        self.total.resize(rows, 0.0);
    }

    /// The sums of all ranges, in the first.
    pub(super) fn merge(ranges: &mut [Self]) -> &Self {
        let (merged, others) = ranges.split_first_mut().expect("merged sums come from a range");
        let padded = merged.mixed.len() / merged.total.len();
        for other in others {
            for row in 0..merged.total.len() {
                let most = merged.largest[row].max(other.largest[row]);
                let own = exp::<false>(merged.largest[row] - most);
                let added = exp::<false>(other.largest[row] - most);
                merged.largest[row] = most;
                merged.total[row] = merged.total[row] * own + other.total[row] * added;
                let mixed = &mut merged.mixed[row * padded..][..padded];
                for (mixed, other) in mixed.iter_mut().zip(&other.mixed[row * padded..]) {
                    *mixed = *mixed * own + other * added;
                }
            }
        }
        merged
    }
}

/// Room that passes use again.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows, head_dim]`, scaled.
    pub(super) queries: Vec<f32>,
    /// `[rows, BLOCK]`.
    scores: Vec<f32>,
    /// A block's keys or values as floats.
    wide: Vec<f32>,
    /// What the sums so far are multiplied with.
    factors: Vec<f32>,
}

/// A pass over some positions.
pub(super) struct Sweep<'a> {
    pub(super) kernels: Kernels,
    pub(super) cache: &'a KvCache,
    pub(super) kv_head: usize,
    /// Positions of the pass.
    pub(super) positions: Range<usize>,
    /// The position of the first row.
    pub(super) first: usize,
    /// Rows of a position.
    pub(super) group: usize,
    /// Rows in all.
    pub(super) rows: usize,
    /// Positions that a row sees, itself included.
    pub(super) window: Option<usize>,
    pub(super) score_softcap: Option<f32>,
    /// For every position.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) sums: &'a mut Sums,
}

impl Work for Sweep<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        self.scratch.scores.resize(self.rows * BLOCK, 0.0);
        self.scratch.factors.resize(self.rows, 0.0);
        let blocks = self.positions.start / BLOCK..self.positions.end.div_ceil(BLOCK);
        for block in blocks {
            let rows = self.rows_that_see(block);
            if rows.is_empty() {
                continue;
            }
            let count = (self.positions.end - block * BLOCK).min(BLOCK);
            let stored = self.cache.block(block).head(self.cache.shape(), self.kv_head);
            // SAFETY: passed on to the caller.
            unsafe {
                match stored {
                    HeadBlock::F16 { keys, values } if rows.len() < WIDEN => {
                        self.score::<L, f16>(rows.clone(), count, keys);
                        self.weigh::<L>(block, rows.clone(), count);
                        self.mix::<L, f16>(rows, count, values);
                    }
                    stored => self.floats::<L>(block, rows, count, stored),
                }
            }
        }
    }
}

impl Sweep<'_> {
    /// Rows that see a position of the block.
    fn rows_that_see(&self, block: usize) -> Range<usize> {
        let positions = self.rows / self.group;
        let start = (block * BLOCK).saturating_sub(self.first).min(positions);
        // Row `r` sees from `first + r + 1 − window` on.
        let last = (block + 1) * BLOCK - 1;
        let end = self
            .window
            .map_or(positions, |window| (last + window).saturating_sub(self.first).min(positions));
        start * self.group..end.max(start) * self.group
    }

    /// Lanes of the block that row `row` sees.
    fn lanes_seen(&self, block: usize, row: usize, count: usize) -> Range<usize> {
        let end = self.first + row / self.group + 1;
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        let lane = |position: usize| position.saturating_sub(block * BLOCK).min(count);
        lane(start)..lane(end)
    }

    /// Adds a block to the sums, with keys and values made floats first.
    #[inline(always)]
    unsafe fn floats<L: Lanes>(
        &mut self,
        block: usize,
        rows: Range<usize>,
        count: usize,
        stored: HeadBlock<'_>,
    ) {
        let mut wide = std::mem::take(&mut self.scratch.wide);
        // SAFETY: passed on to the caller.
        unsafe {
            self.score::<L, f32>(rows.clone(), count, float_keys::<L>(stored, &mut wide));
            self.weigh::<L>(block, rows.clone(), count);
            let padded = self.cache.shape().padded();
            self.mix::<L, f32>(rows, count, float_values::<L>(stored, padded, &mut wide));
        }
        self.scratch.wide = wide;
    }

    /// Scores of the rows over the first `count` positions of the block.
    #[inline(always)]
    unsafe fn score<L: Lanes, E: Element>(&mut self, rows: Range<usize>, count: usize, keys: &[E]) {
        let depth = self.cache.shape().head_dim;
        let numbers = &self.scratch.queries[rows.start * depth..rows.end * depth];
        let left = Left { numbers, stride: depth, rows: rows.len(), depth };
        let scores = &mut self.scratch.scores[rows.start * BLOCK..rows.end * BLOCK];
        // SAFETY: passed on to the caller.
        unsafe {
            let columns = (count.next_multiple_of(LANE_PAD), BLOCK);
            multiply::<L, E>(left, keys, columns, scores, None);
        }
    }

    /// Makes scores weights, and counts them.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&mut self, block: usize, rows: Range<usize>, count: usize) {
        for row in rows {
            let seen = self.lanes_seen(block, row, count);
            let scores = &mut self.scratch.scores[row * BLOCK..][..BLOCK];
            if let Some(cap) = self.score_softcap {
                soft_cap(self.kernels, scores, cap);
            }
            if let Some(bias) = self.bias {
                let bias = &bias[block * BLOCK + seen.start..block * BLOCK + seen.end];
                scores[seen.clone()].iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            scores[..seen.start].fill(UNSEEN);
            scores[seen.end..].fill(UNSEEN);
            let (largest, total) = (self.sums.largest[row], self.sums.total[row]);
            // SAFETY: passed on to the caller.
            let (new_largest, sum, factor) = unsafe { exponentials::<L>(scores, largest) };
            self.sums.largest[row] = new_largest;
            self.sums.total[row] = total * factor + sum;
            self.scratch.factors[row] = factor;
        }
    }

    /// Adds the weighted values of the block.
    #[inline(always)]
    unsafe fn mix<L: Lanes, E: Element>(&mut self, rows: Range<usize>, count: usize, values: &[E]) {
        let width = self.cache.shape().padded();
        let numbers = &self.scratch.scores[rows.start * BLOCK..rows.end * BLOCK];
        let left = Left { numbers, stride: BLOCK, rows: rows.len(), depth: count };
        let mixed = &mut self.sums.mixed[rows.start * width..rows.end * width];
        let factors = &self.scratch.factors[rows];
        // SAFETY: passed on to the caller.
        unsafe { multiply::<L, E>(left, values, (width, width), mixed, Some(factors)) };
    }
}

/// Replaces scores by `e^(score − largest)`, where `largest` counts too. Returns the largest, the
/// sum, and `e^(largest before − largest)`.
#[inline(always)]
unsafe fn exponentials<L: Lanes>(scores: &mut [f32], largest: f32) -> (f32, f32, f32) {
    assert!(scores.len() == BLOCK && BLOCK.is_multiple_of(L::COUNT));
    let start = scores.as_mut_ptr();
    // SAFETY: `BLOCK` numbers are there; the rest is passed on to the caller.
    unsafe {
        let mut most = L::splat(largest);
        for at in (0..BLOCK).step_by(L::COUNT) {
            most = most.max(L::load(start.add(at)));
        }
        let most = most.largest();
        let shift = L::splat(most);
        let mut sums = [L::splat(0.0); 2];
        for at in (0..BLOCK).step_by(L::COUNT) {
            let weights = L::load(start.add(at)).sub(shift).exp();
            weights.store(start.add(at));
            let sum = &mut sums[at % SIDE_BY_SIDE / L::COUNT];
            *sum = sum.add(weights);
        }
        let factor = L::splat(largest - most).exp().spread()[0];
        (most, L::sum_of(sums), factor)
    }
}

/// Keys as floats, `[head_dim, BLOCK]`.
#[inline(always)]
unsafe fn float_keys<'a, L: Lanes>(stored: HeadBlock<'a>, wide: &'a mut Vec<f32>) -> &'a [f32] {
    // SAFETY: passed on to the caller.
    unsafe {
        match stored {
            HeadBlock::F32 { keys, .. } => return keys,
            HeadBlock::F16 { keys, .. } => widen_f16::<L>(keys, wide),
            HeadBlock::Q8 { keys: (codes, scales), .. } => {
                wide.resize(codes.len(), 0.0);
                for (dim, (codes, wide)) in
                    codes.chunks_exact(BLOCK).zip(wide.chunks_exact_mut(BLOCK)).enumerate()
                {
                    let scales = &scales[dim / 32 * BLOCK..][..BLOCK];
                    for at in (0..BLOCK).step_by(L::COUNT) {
                        let scales = L::load_f16(scales.as_ptr().add(at));
                        let codes = L::load_i8(codes.as_ptr().add(at));
                        codes.mul(scales).store(wide.as_mut_ptr().add(at));
                    }
                }
            }
        }
    }
    wide
}

/// Values as floats, `[BLOCK, padded]`.
#[inline(always)]
unsafe fn float_values<'a, L: Lanes>(
    stored: HeadBlock<'a>,
    padded: usize,
    wide: &'a mut Vec<f32>,
) -> &'a [f32] {
    // SAFETY: passed on to the caller.
    unsafe {
        match stored {
            HeadBlock::F32 { values, .. } => return values,
            HeadBlock::F16 { values, .. } => widen_f16::<L>(values, wide),
            HeadBlock::Q8 { values: (codes, scales), .. } => {
                wide.resize(codes.len(), 0.0);
                // Heads of codes are whole groups, so nothing is padded.
                let rows = codes.chunks_exact(padded).zip(wide.chunks_exact_mut(padded));
                for ((codes, wide), scales) in rows.zip(scales.chunks_exact(padded / 32)) {
                    for at in (0..padded).step_by(L::COUNT) {
                        let scale = L::splat(scales[at / 32].to_f32());
                        let codes = L::load_i8(codes.as_ptr().add(at));
                        codes.mul(scale).store(wide.as_mut_ptr().add(at));
                    }
                }
            }
        }
    }
    wide
}

#[inline(always)]
unsafe fn widen_f16<L: Lanes>(numbers: &[f16], wide: &mut Vec<f32>) {
    wide.resize(numbers.len(), 0.0);
    assert!(numbers.len().is_multiple_of(L::COUNT));
    for at in (0..numbers.len()).step_by(L::COUNT) {
        // SAFETY: `COUNT` numbers are there, as asserted; the rest is passed on to the caller.
        unsafe { L::load_f16(numbers.as_ptr().add(at)).store(wide.as_mut_ptr().add(at)) };
    }
}
