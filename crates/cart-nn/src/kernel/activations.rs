//! Activations in 16 bits, in groups of 32, for products with quantized weights.
//!
//! Eight bits, as llama.cpp takes them, leave nothing for the neighbours of a few far larger values
//! and move SmolLM2's log-probabilities by 0.1 to 0.2. A second byte costs one more instruction a
//! group where weights are read from memory, and makes the products those of `f32`.

use crate::kernel::format::GROUP;
#[cfg(target_arch = "x86_64")]
use crate::kernel::x86;
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};

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

/// Rows of activations, `[rows, groups · 32]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantized {
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    /// `[rows, groups]`.
    pub(crate) codes: Vec<GroupCodes>,
    /// `[rows, groups]`.
    pub(crate) scales: Vec<GroupScale>,
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
            let codes = Rows::new(&mut codes, groups);
            let scales = Rows::new(&mut scales, groups);
            split(rows, 16, &|range| {
                for row in range {
                    // SAFETY: each row is in one range of the split, so nobody else has it.
                    let (codes, scales) = unsafe { (codes.row(row), scales.row(row)) };
                    quantize(kernels, &values[row * width..][..width], codes, scales);
                }
            });
        }
        Self { rows, groups, codes, scales }
    }

    #[inline(always)]
    pub(crate) fn row_codes(&self, row: usize) -> &[GroupCodes] {
        &self.codes[row * self.groups..][..self.groups]
    }

    #[inline(always)]
    pub(crate) fn row_scales(&self, row: usize) -> &[GroupScale] {
        &self.scales[row * self.groups..][..self.groups]
    }
}

fn quantize(kernels: Kernels, values: &[f32], codes: &mut [GroupCodes], scales: &mut [GroupScale]) {
    match kernels.level() {
        KernelLevel::Portable => quantize_portable(values, codes, scales),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni => unsafe {
            x86::quantize(values, codes, scales);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => quantize_portable(values, codes, scales),
    }
}

fn quantize_portable(values: &[f32], codes: &mut [GroupCodes], scales: &mut [GroupScale]) {
    let groups = values.as_chunks::<GROUP>().0.iter().zip(codes);
    for ((values, codes), shared) in groups.zip(scales) {
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
