//! Activations in groups of 32 for products with quantized weights: a byte, and a second one for what
//! rounding left.
//!
//! Eight bits for all, as llama.cpp takes them, leave nothing for the neighbours of a few far larger
//! values. [`Activations::Mixed`] keeps the second byte for the *wide* groups alone, whose largest
//! magnitude stands out of their row. It is rounding still, but every level rounds alike. On 250
//! positions of a licence's text (`cart bench kernels`), the distance from sixteen bits for all
//! (mean Kullback–Leibler divergence, nats), and how much faster a prompt was read with 2 threads:
//!
//! | wide from | SmolLM2-135M | Gemma-3-270M |
//! |---|---|---|
//! | never | 4.5e-3 | 8.4e-3 |
//! | 3 times the row's middle | 1.7e-3, 1.35 × | 3.3e-3, 1.42 × |
//! | 2 times | 1.4e-3 | 2.8e-3 |
//! | 1.6 times, as here | 9.8e-4, 1.31 × | 2.4e-3, 1.26 × |
//! | 1.3 times | 8.0e-4 | 1.9e-3 |
//! | once | 5.1e-4, 1.04 to 1.15 × | 1.3e-3, 1.08 to 1.13 × |

use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::kernel::format::GROUP;
use crate::kernel::{Activations, Kernels};
#[cfg(target_arch = "x86_64")]
use crate::kernel::{KernelLevel, x86};
use crate::parallel::{Rows, split};

/// Rows whose groups lie beside each other, so that a product of many rows reads on and on.
pub(crate) const BLOCK: usize = 16;

/// The codes of a group, from −127 to 127; or what their rounding left, in 256ths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub(crate) struct Codes(pub(crate) [i8; GROUP]);

/// What a group of 32 activation codes shares: `value ≈ scale · (256 · code + rest)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct GroupScale {
    pub(crate) scale: f32,
    /// `scale · Σ halves`, for the minimum of the weights.
    pub(crate) sum: f32,
    /// `scale · halves`, the same for formats with a minimum for each half.
    pub(crate) half_sums: [f32; 2],
    /// Sums of the first and of the second 16 of what is in the brackets.
    pub(crate) halves: [i32; 2],
}

impl GroupScale {
    /// * `step`: of the codes
    /// * `codes`, `rests`: their sums, by halves
    #[inline(always)]
    pub(crate) fn new(step: f32, codes: [i32; 2], rests: [i32; 2]) -> Self {
        let scale = step / 256.0;
        let halves = [0, 1].map(|half| {
            let codes: i32 = codes[half];
            codes.wrapping_mul(256).wrapping_add(rests[half])
        });
        let sum = scale * halves[0].wrapping_add(halves[1]) as f32;
        Self { scale, sum, half_sums: halves.map(|half| scale * half as f32), halves }
    }

    /// Sum of the codes, scale, and the sum times the scale, of a part: the whole group, or a half.
    #[inline(always)]
    pub(crate) fn of_part(&self, part: usize, parts: usize) -> (i32, f32, f32) {
        match parts {
            1 => (self.halves[0].wrapping_add(self.halves[1]), self.scale, self.sum),
            _ => (self.halves[part], self.scale, self.half_sums[part]),
        }
    }
}

/// Rows of activations, `[rows, groups · 32]`, in blocks of [`BLOCK`] rows (the last may have fewer):
/// `[blocks, groups, rows of the block]`.
#[derive(Debug)]
pub(crate) struct Quantized {
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    codes: Box<[Codes]>,
    scales: Box<[GroupScale]>,
    /// Zeros where the group is not wide.
    rests: Box<[Codes]>,
    /// For each group of each block a bit for each row: whether it is wide; all are where they are exact.
    wide: Vec<AtomicU16>,
}

/// A block of rows: `[groups, rows]`, but `wide`, which is `[groups]`.
pub(crate) struct Block<'a> {
    pub(crate) codes: &'a [Codes],
    pub(crate) scales: &'a [GroupScale],
    pub(crate) rests: &'a [Codes],
    wide: &'a [AtomicU16],
}

impl Block<'_> {
    /// For each row of the block a bit: whether group `group` is wide. The rests of the others are zeros.
    #[inline(always)]
    pub(crate) fn wide(&self, group: usize) -> u32 {
        self.wide[group].load(Ordering::Relaxed).into()
    }
}

/// A row that is being written.
pub(super) struct Places<'a> {
    /// The row in its block.
    row: usize,
    /// Rows of the block.
    rows: usize,
    /// Place of the block's first row and group.
    first: usize,
    codes: Rows<'a, Codes>,
    scales: Rows<'a, GroupScale>,
    rests: Rows<'a, Codes>,
    /// Those of the block.
    wide: &'a [AtomicU16],
    /// Whether every group is wide.
    pub(super) exact: bool,
}

impl Places<'_> {
    /// * `rests`: none where the group is not wide
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        group: usize,
        codes: Codes,
        scale: GroupScale,
        rests: Option<Codes>,
    ) {
        let at = self.first + group * self.rows + self.row;
        // SAFETY: each row is written by one task, so nobody else has its places.
        unsafe {
            self.codes.write(at, 0, &[codes]);
            self.scales.write(at, 0, &[scale]);
            self.rests.write(at, 0, &[rests.unwrap_or_default()]);
        }
        // Lines of these words are shared between cores, so they are left alone where all is known.
        if rests.is_some() && !self.exact {
            self.wide[group].fetch_or(1 << self.row, Ordering::Relaxed);
        }
    }
}

impl Quantized {
    /// Quantizes `values`, `[rows, width]` with `width` whole groups: the largest magnitude of a
    /// group becomes 127.
    pub(crate) fn new(kernels: Kernels, values: &[f32], width: usize) -> Self {
        let groups = width / GROUP;
        let rows = values.len() / width;
        let mut codes = Box::new_uninit_slice(rows * groups);
        let mut scales = Box::new_uninit_slice(rows * groups);
        let mut rests = Box::new_uninit_slice(rows * groups);
        let exact = kernels.activations() == Activations::Exact;
        let mut wide = Vec::new();
        wide.resize_with(rows.div_ceil(BLOCK) * groups, || {
            AtomicU16::new(if exact { u16::MAX } else { 0 })
        });
        {
            let codes = Rows::empty(&mut codes, 1);
            let scales = Rows::empty(&mut scales, 1);
            let rests = Rows::empty(&mut rests, 1);
            split(rows, 4, &|range| {
                let mut largest = vec![0.0; groups];
                for index in range {
                    let (block, row) = (index / BLOCK, index % BLOCK);
                    let first = block * BLOCK;
                    let mut places = Places {
                        row,
                        rows: (rows - first).min(BLOCK),
                        first: first * groups,
                        codes,
                        scales,
                        rests,
                        wide: &wide[block * groups..][..groups],
                        exact,
                    };
                    let values = &values[index * width..][..width];
                    quantize(kernels, values, &mut largest, &mut places);
                }
            });
        }
        // SAFETY: every group of every row was written.
        let (codes, scales, rests) =
            unsafe { (codes.assume_init(), scales.assume_init(), rests.assume_init()) };
        Self { rows, groups, codes, scales, rests, wide }
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

    /// A block of rows.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> Block<'_> {
        let rows = self.block_rows(block);
        let part = rows.start * self.groups..rows.end * self.groups;
        Block {
            codes: &self.codes[part.clone()],
            scales: &self.scales[part.clone()],
            rests: &self.rests[part],
            wide: &self.wide[block * self.groups..][..self.groups],
        }
    }

    /// Codes, scale and rests of group `group` of row `row`, and whether it is wide.
    #[cfg(test)]
    pub(crate) fn group(&self, row: usize, group: usize) -> (&Codes, &GroupScale, &Codes, bool) {
        let rows = self.block_rows(row / BLOCK);
        let block = self.block(row / BLOCK);
        let at = group * rows.len() + row % BLOCK;
        let wide = block.wide(group) >> (row % BLOCK) & 1 == 1;
        (&block.codes[at], &block.scales[at], &block.rests[at], wide)
    }
}

/// Quantizes a row. Every level takes the same sums in the same order.
///
/// * `largest`: room for a number for each group
fn quantize(kernels: Kernels, values: &[f32], largest: &mut [f32], places: &mut Places<'_>) {
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni | KernelLevel::Amx => unsafe {
            x86::quantize(values, largest, places);
        },
        _ => quantize_portable(values, largest, places),
    }
}

/// How far above its row's middle a wide group's largest magnitude is.
const WIDE_FROM: f32 = 1.6;

/// From what largest magnitude on a group of a row is wide. The middle is the square of the mean of their roots,
/// which a single far larger one does not lift out of the others' reach. NaN, which no group reaches, where a value is no
/// number.
#[inline(always)]
pub(super) fn wide_from(largest: &[f32]) -> f32 {
    let mean = largest.iter().map(|largest| largest.sqrt()).sum::<f32>() / largest.len() as f32;
    WIDE_FROM * mean * mean
}

fn quantize_portable(values: &[f32], largest: &mut [f32], places: &mut Places<'_>) {
    let (groups, _) = values.as_chunks::<GROUP>();
    for (values, largest) in groups.iter().zip(&mut *largest) {
        // As bits, so that a value that is no number is the largest and is not lost.
        let bits = values.iter().map(|value| value.abs().to_bits()).fold(0, u32::max);
        *largest = f32::from_bits(bits);
    }
    let wide_from = wide_from(largest);
    for (group, (values, &largest)) in groups.iter().zip(&*largest).enumerate() {
        let (scale, inverse) = steps(largest);
        let is_wide = places.exact || largest >= wide_from;
        let (mut codes, mut rests) = (Codes::default(), Codes::default());
        let (mut halves, mut rest_halves) = ([0_i32; 2], [0_i32; 2]);
        for (index, value) in values.iter().enumerate() {
            let steps = value * inverse;
            let whole = steps.round_ties_even();
            codes.0[index] = whole as i8;
            halves[index / 16] += i32::from(codes.0[index]);
            if is_wide {
                let rest = ((steps - whole) * 256.0).round_ties_even();
                // Kernels turn signs around, so there is no −128.
                rests.0[index] = rest.clamp(-127.0, 127.0) as i8;
                rest_halves[index / 16] += i32::from(rests.0[index]);
            }
        }
        let shared = GroupScale::new(scale, halves, rest_halves);
        places.put(group, codes, shared, is_wide.then_some(rests));
    }
}

/// The scale of a group with this largest magnitude, and its inverse.
#[inline(always)]
pub(crate) fn steps(largest: f32) -> (f32, f32) {
    // The inverse of something smaller is no finite number; its codes are zero.
    const SMALLEST: f32 = 1e-30;
    (largest / 127.0, if largest > SMALLEST { 127.0 / largest } else { 0.0 })
}
