//! Activations in 16 bits, in groups of 32, for products with quantized weights.
//!
//! Eight bits, as llama.cpp takes them, leave nothing for the neighbours of a few far larger values
//! and move SmolLM2's log-probabilities by 0.1 to 0.2. A second byte costs one more instruction a
//! group where weights are read from memory, and makes the products those of `f32`.

use std::ops::Range;

use crate::kernel::Kernels;
use crate::kernel::format::GROUP;
#[cfg(target_arch = "x86_64")]
use crate::kernel::{KernelLevel, x86};
use crate::parallel::{Rows, split};

/// Rows whose groups lie beside each other, so that a product of many rows reads on and on.
pub(crate) const BLOCK: usize = 16;

/// The codes of a group: `256 · high + low`, each byte from −127 to 127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct GroupCodes {
    pub(crate) high: [i8; GROUP],
    pub(crate) low: [i8; GROUP],
}

impl GroupCodes {
    /// Code `index`.
    #[inline(always)]
    pub(crate) fn code(&self, index: usize) -> i32 {
        256 * i32::from(self.high[index]) + i32::from(self.low[index])
    }
}

/// What a group of 32 activation codes shares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct GroupScale {
    /// `value ≈ scale · code`.
    pub(crate) scale: f32,
    /// `scale · Σ codes`, for the minimum of the weights.
    pub(crate) sum: f32,
    /// Sums of the first and of the second 16 codes.
    pub(crate) halves: [i32; 2],
}

impl GroupScale {
    #[inline(always)]
    pub(crate) fn new(scale: f32, halves: [i32; 2]) -> Self {
        Self { scale, sum: scale * (halves[0] + halves[1]) as f32, halves }
    }
}

/// Rows of activations, `[rows, groups · 32]`, in blocks of [`BLOCK`] rows (the last may have fewer):
/// `[blocks, groups, rows of the block]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantized {
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    codes: Vec<GroupCodes>,
    scales: Vec<GroupScale>,
}

impl Quantized {
    /// Quantizes `values`, `[rows, width]` with `width` whole groups: the largest magnitude of a
    /// group becomes 127 · 256.
    pub(crate) fn new(kernels: Kernels, values: &[f32], width: usize) -> Self {
        let groups = width / GROUP;
        let rows = values.len() / width;
        let mut codes = vec![GroupCodes::default(); rows * groups];
        let mut scales = vec![GroupScale::default(); rows * groups];
        {
            let codes = Rows::new(&mut codes, rows * groups);
            let scales = Rows::new(&mut scales, rows * groups);
            split(rows.div_ceil(BLOCK), 1, &|blocks| {
                for first in blocks.map(|block| block * BLOCK) {
                    let count = (rows - first).min(BLOCK);
                    let part = first * groups..(first + count) * groups;
                    // SAFETY: each block is in one range of the split, so nobody else has it.
                    let (codes, scales) =
                        unsafe { (codes.part(0, part.clone()), scales.part(0, part)) };
                    for row in 0..count {
                        let values = &values[(first + row) * width..][..width];
                        quantize(kernels, values, (row, count), codes, scales);
                    }
                }
            });
        }
        Self { rows, groups, codes, scales }
    }

    /// Blocks of rows.
    pub(crate) fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK)
    }

    /// The rows of a block.
    #[inline(always)]
    pub(crate) fn block_rows(&self, block: usize) -> Range<usize> {
        block * BLOCK..self.rows.min((block + 1) * BLOCK)
    }

    /// Codes and scales of a block, `[groups, rows of the block]`.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> (&[GroupCodes], &[GroupScale]) {
        let rows = self.block_rows(block);
        let part = rows.start * self.groups..rows.end * self.groups;
        (&self.codes[part.clone()], &self.scales[part])
    }

    /// Codes and scale of group `group` of row `row`.
    #[cfg(test)]
    pub(crate) fn group(&self, row: usize, group: usize) -> (&GroupCodes, &GroupScale) {
        let rows = self.block_rows(row / BLOCK);
        let (codes, scales) = self.block(row / BLOCK);
        let at = group * rows.len() + row % BLOCK;
        (&codes[at], &scales[at])
    }
}

/// Quantizes a row: the groups go to every `count`th place from `row` on.
fn quantize(
    kernels: Kernels,
    values: &[f32],
    (row, count): (usize, usize),
    codes: &mut [GroupCodes],
    scales: &mut [GroupScale],
) {
    let codes = codes[row..].iter_mut().step_by(count);
    let places = codes.zip(scales[row..].iter_mut().step_by(count));
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni => unsafe { x86::quantize(values, places) },
        _ => quantize_portable(values, places),
    }
}

fn quantize_portable<'a>(
    values: &[f32],
    places: impl Iterator<Item = (&'a mut GroupCodes, &'a mut GroupScale)>,
) {
    for (values, (codes, shared)) in values.as_chunks::<GROUP>().0.iter().zip(places) {
        // As bits, so that a value that is no number is the largest and is not lost.
        let largest = values.iter().map(|value| value.abs().to_bits()).fold(0, u32::max);
        let (scale, inverse) = steps(f32::from_bits(largest));
        let mut halves = [0_i32; 2];
        for (index, value) in values.iter().enumerate() {
            let steps = value * inverse;
            let whole = steps.round_ties_even();
            codes.high[index] = whole as i8;
            let rest = ((steps - whole) * 256.0).round_ties_even();
            // Kernels turn signs around, so there is no −128.
            codes.low[index] = rest.clamp(-127.0, 127.0) as i8;
            halves[index / 16] += codes.code(index);
        }
        *shared = GroupScale::new(scale, halves);
    }
}

/// The scale of a group with this largest magnitude, and codes' high bytes for each unit.
#[inline(always)]
pub(crate) fn steps(largest: f32) -> (f32, f32) {
    // The inverse of something smaller is no finite number; its codes are zero.
    const SMALLEST: f32 = 1e-30;
    (largest / (127.0 * 256.0), if largest > SMALLEST { 127.0 / largest } else { 0.0 })
}
