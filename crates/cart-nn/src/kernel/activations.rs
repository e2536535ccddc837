//! Activations in 8 bits, in groups of 32, for products with quantized weights.

use crate::kernel::format::GROUP;
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};

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

/// Rows of activations, `[rows, groups · 32]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantized {
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    /// `[rows, groups, 32]`, each from −127 to 127.
    pub(crate) codes: Vec<i8>,
    /// `[rows, groups]`.
    pub(crate) scales: Vec<GroupScale>,
}

impl Quantized {
    /// Quantizes `values`, `[rows, width]` with `width` whole groups: the largest magnitude of a
    /// group becomes 127.
    pub(crate) fn new(kernels: Kernels, values: &[f32], width: usize) -> Self {
        let groups = width / GROUP;
        let rows = values.len() / width;
        let mut codes = vec![0; values.len()];
        let mut scales = vec![GroupScale::default(); rows * groups];
        {
            let codes = Rows::new(&mut codes, width);
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

    /// Quantizes `values` twice as finely: to the rows of [`Quantized::new`] come as many again,
    /// which are what those left over. The product of a row is the sum of its two.
    pub(crate) fn fine(kernels: Kernels, values: &[f32], width: usize) -> Self {
        let coarse = Self::new(kernels, values, width);
        let groups = coarse.codes.as_chunks::<GROUP>().0.iter().zip(&coarse.scales);
        let mut both = Vec::with_capacity(2 * values.len());
        both.extend_from_slice(values);
        for ((codes, shared), values) in groups.zip(values.as_chunks::<GROUP>().0) {
            let left = codes.iter().zip(values);
            both.extend(left.map(|(code, value)| value - shared.scale * f32::from(*code)));
        }
        Self::new(kernels, &both, width)
    }

    #[inline(always)]
    pub(crate) fn row_codes(&self, row: usize) -> &[i8] {
        &self.codes[row * self.groups * GROUP..][..self.groups * GROUP]
    }

    #[inline(always)]
    pub(crate) fn row_scales(&self, row: usize) -> &[GroupScale] {
        &self.scales[row * self.groups..][..self.groups]
    }
}

fn quantize(kernels: Kernels, values: &[f32], codes: &mut [i8], scales: &mut [GroupScale]) {
    match kernels.level() {
        KernelLevel::Portable => quantize_row(values, codes, scales),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni => unsafe {
            quantize_avx2(values, codes, scales);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => quantize_row(values, codes, scales),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_avx2(values: &[f32], codes: &mut [i8], scales: &mut [GroupScale]) {
    quantize_row(values, codes, scales);
}

#[inline(always)]
fn quantize_row(values: &[f32], codes: &mut [i8], scales: &mut [GroupScale]) {
    // Adding and subtracting this rounds to the nearest whole number, as a vector instruction.
    const ROUND: f32 = 12_582_912.0;
    let groups = values.as_chunks::<GROUP>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0);
    for ((values, codes), shared) in groups.zip(scales) {
        let mut lanes = [0.0_f32; 8];
        for chunk in values.as_chunks::<8>().0 {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if value.abs() > *lane { value.abs() } else { *lane };
            }
        }
        let largest = lanes.into_iter().fold(0.0_f32, f32::max);
        let scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut halves = [0_i32; 2];
        for half in 0..2 {
            for index in half * 16..half * 16 + 16 {
                let rounded = values[index] * inverse + ROUND;
                let code = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
                codes[index] = code as i8;
                halves[half] += code;
            }
        }
        let sum = scale * (halves[0] + halves[1]) as f32;
        *shared = GroupScale { scale, sum, halves };
    }
}
