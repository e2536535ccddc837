//! Products of packed weights with quantized activations.
//!
//! The arithmetic of a row is the same however many rows there are, and at every level: whole numbers
//! within a group, then a float sum, group after group. So a row's result depends neither on its
//! neighbours nor on the processor.

mod group;
#[cfg(target_arch = "x86_64")]
pub(crate) mod matrix_unit;

use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::kernel::activations::{BLOCK, Quantized};
#[cfg(target_arch = "x86_64")]
use crate::kernel::amx::Amx;
use crate::kernel::format::{Format, GROUP};
#[cfg(target_arch = "aarch64")]
use crate::kernel::lanes::neon::Neon;
use crate::kernel::lanes::{Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::kernel::lanes::{avx2::Avx2, avx512::Avx512};
use crate::kernel::packed::{LINE, OUTPUTS, Packed, tile_bytes};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::Rows;
use group::Group;
#[cfg(target_arch = "x86_64")]
use matrix_unit::ByUnit;

/// How far ahead memory is asked for, in bytes.
const AHEAD: usize = 4096;

/// Rows whose products are taken turn about; with rests where one of them is wide.
const FEW: usize = 4;

/// Where a product's results go: its first output to `column`, the others after it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) rows: Rows<'a, f32>,
    pub(crate) column: usize,
}

/// Writes products of `input` with the outputs of `tiles`.
///
/// # Safety
/// Nobody else has these outputs' columns of the target.
pub(crate) unsafe fn product<F: Format>(
    kernels: Kernels,
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    assert_eq!(weights.groups, input.groups, "{} inputs", input.groups * GROUP);
    // SAFETY: the columns are the caller's promise; `Kernels` says that the processor has the
    // instructions of the level.
    unsafe {
        match kernels.level() {
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx2 => run_avx2::<F>(weights, tiles, input, target),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx512Vnni => run_avx512::<OneByOne, F>(weights, tiles, input, target),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Amx => run_avx512::<ByUnit<Amx>, F>(weights, tiles, input, target),
            #[cfg(target_arch = "aarch64")]
            KernelLevel::Neon => run::<Neon, OneByOne, F>(weights, tiles, input, target),
            _ => run::<Portable, OneByOne, F>(weights, tiles, input, target),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<F: Format>(
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    // SAFETY: this function has the instructions; the rest is the caller's promise.
    unsafe { run::<Avx2, OneByOne, F>(weights, tiles, input, target) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_avx512<W: WholeBlock, F: Format>(
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    // SAFETY: this function has the instructions; the rest is the caller's promise.
    unsafe { run::<Avx512, W, F>(weights, tiles, input, target) }
}

/// # Safety
/// As [`product`], and the processor has the instructions of `L` and `W`.
#[inline(always)]
unsafe fn run<L: Lanes, W: WholeBlock, F: Format>(
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    let begin = tiles.start * OUTPUTS;
    for index in tiles {
        let tile = weights.tile::<F>(index);
        let outputs = index * OUTPUTS..weights.outputs.min((index + 1) * OUTPUTS);
        let at = |output: usize| target.column + output - begin;
        let columns = at(outputs.start)..at(outputs.end);
        for block in 0..input.blocks() {
            let job = Job { tile, input, block, at: 0 };
            let first = input.block_rows(block).start;
            // SAFETY: passed on to the caller.
            unsafe { job.block::<L, W, F>((target.rows, first, &columns)) };
        }
    }
}

/// The body for each row under `$count`, with the row as a constant.
macro_rules! each_row {
    ($row:ident < $count:ident $body:block) => {
        each_row!($row < $count $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($row:ident < $count:ident $body:block, $($index:literal)*) => {
        $(if $index < $count {
            const $row: usize = $index;
            $body
        })*
    };
}

/// Rows of the target, the first of them, and its columns.
type Place<'a> = (Rows<'a, f32>, usize, &'a Range<usize>);

/// Writes the sums of some rows.
///
/// # Safety
/// Nobody else has these columns.
#[inline(always)]
unsafe fn put(sums: &[[f32; OUTPUTS]], (rows, first, columns): Place<'_>) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the caller has these columns alone.
        unsafe {
            if columns.len() == OUTPUTS {
                rows.write(first + row, columns.start, sums);
            } else {
                rows.write(first + row, columns.start, &sums[..columns.len()]);
            }
        }
    }
}

/// How blocks of [`BLOCK`] rows are multiplied.
trait WholeBlock {
    /// The sums of a block's rows; none where rows are multiplied by [`Job::rows`].
    ///
    /// # Safety
    /// As [`product`], and the processor has the instructions.
    unsafe fn sums<F: Format>(job: &Job<'_>) -> Option<[[f32; OUTPUTS]; BLOCK]>;
}

/// As blocks of fewer rows.
struct OneByOne;

impl WholeBlock for OneByOne {
    #[inline(always)]
    unsafe fn sums<F: Format>(_job: &Job<'_>) -> Option<[[f32; OUTPUTS]; BLOCK]> {
        None
    }
}

/// A tile and some rows of a block.
struct Job<'a> {
    tile: &'a [u8],
    input: &'a Quantized,
    block: usize,
    /// First row in the block.
    at: usize,
}

impl Job<'_> {
    /// Writes the products of the block's rows.
    #[inline(always)]
    unsafe fn block<L: Lanes, W: WholeBlock, F: Format>(
        mut self,
        (rows, first, columns): Place<'_>,
    ) {
        let count = self.input.block_rows(self.block).len();
        if count == BLOCK {
            // SAFETY: passed on to the caller.
            let sums = unsafe { W::sums::<F>(&self) };
            if let Some(sums) = sums {
                // SAFETY: passed on to the caller.
                return unsafe { put(&sums, (rows, first, columns)) };
            }
        }
        while self.at < count {
            let place = (rows, first + self.at, columns);
            // SAFETY: passed on to the caller.
            self.at += unsafe {
                match count - self.at {
                    16.. if L::ROWS >= 16 => self.rows::<L, F, 16>(place),
                    4.. if L::ROWS >= 4 => self.rows::<L, F, 4>(place),
                    2.. if L::ROWS == 2 => self.rows::<L, F, 2>(place),
                    _ => self.rows::<L, F, 1>(place),
                }
            };
        }
    }

    /// Writes the products of `R` rows, and returns `R`.
    #[inline(always)]
    unsafe fn rows<L: Lanes, F: Format, const R: usize>(&self, place: Place<'_>) -> usize {
        // SAFETY: passed on to the caller.
        unsafe { put(&self.sums::<L, F, R>(), place) };
        R
    }

    #[inline(always)]
    unsafe fn sums<L: Lanes, F: Format, const R: usize>(&self) -> [[f32; OUTPUTS]; R] {
        const { assert!(R <= BLOCK) };
        let groups = self.input.groups;
        let count = self.input.block_rows(self.block).len();
        let block = self.input.block(self.block);
        assert!(self.at + R <= count && block.codes.len() == groups * count);
        assert!(block.rests.len() == block.codes.len() && block.scales.len() == block.codes.len());
        assert!(self.tile.len() == tile_bytes::<F>(groups));
        let mut out = [[0.0; OUTPUTS]; R];
        // SAFETY: the caller has the instructions. Activations are `[groups, count]`, as asserted,
        // and a tile has the bytes that `packed` says for as many groups.
        unsafe {
            let mut sums = [L::zeros(); R];
            let ahead = self.tile.as_ptr().wrapping_add(AHEAD);
            let step = self.tile.len() / groups;
            for group in 0..groups {
                let first = group * count + self.at;
                let x = block.codes.as_ptr().add(first);
                let rests = block.rests.as_ptr().add(first);
                let scales = block.scales.as_ptr().add(first);
                let wide = block.wide(group) >> self.at;
                if R == 1 {
                    for line in 0..=F::BITS {
                        L::prefetch(ahead.wrapping_add(group * step + line * LINE));
                    }
                    // All of them before the first load: among the products they come too late.
                    compiler_fence(Ordering::SeqCst);
                }
                for vector in 0..OUTPUTS / L::LANES {
                    let weights = Group::<L>::new::<F>(self.tile, groups, group, vector);
                    if R == 1 {
                        compiler_fence(Ordering::SeqCst);
                    }
                    // A loop over rows would keep the sums in memory.
                    each_row!(ROW < R {
                        let at = (x.add(ROW), rests.add(ROW), scales.add(ROW));
                        if R < FEW {
                            let sums = &mut sums[ROW..][..1];
                            if wide >> ROW & 1 == 0 {
                                weights.add::<F, 1, false>(sums, vector, at);
                            } else {
                                weights.add::<F, 1, true>(sums, vector, at);
                            }
                        } else if ROW.is_multiple_of(FEW) {
                            let sums = &mut sums[ROW..][..FEW];
                            if wide >> ROW & ((1 << FEW) - 1) == 0 {
                                weights.add::<F, FEW, false>(sums, vector, at);
                            } else {
                                weights.add::<F, FEW, true>(sums, vector, at);
                            }
                        }
                    });
                }
            }
            for (out, sums) in out.iter_mut().zip(&sums) {
                for (vector, sum) in sums.as_ref().iter().enumerate() {
                    L::store(*sum, out.as_mut_ptr().add(vector * L::LANES));
                }
            }
        }
        out
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) use of_tests::product_by_model;

#[cfg(all(test, target_arch = "x86_64"))]
mod of_tests {
    use super::*;
    use crate::kernel::amx::Model;

    /// [`product`] at the level of AMX, with the model for the unit.
    ///
    /// # Safety
    /// As there, and the processor has AVX-512.
    pub(crate) unsafe fn product_by_model<F: Format>(
        weights: &Packed,
        tiles: Range<usize>,
        input: &Quantized,
        target: Target<'_>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { run_avx512::<ByUnit<Model>, F>(weights, tiles, input, target) }
    }
}
