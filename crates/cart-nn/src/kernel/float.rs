//! Products of float weights with `f32` activations.

use std::ops::Range;

use half::{bf16, f16};

use crate::kernel::product::Target;
use crate::kernel::vector::{lane_sum, multiply_add};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::Rows;

/// Up to this many activation rows, each weight row is read once and multiplied with all of them.
const FEW: usize = 4;

/// Weight rows that are multiplied with many activation rows at a time. `gemm` may order its sums
/// by the shape of a product, so panels start at multiples of this, whatever task they fall to.
const PANEL: usize = 64;

/// A stored float.
pub(crate) trait Float: Copy + Send + Sync + 'static {
    /// Eight of them as `f32`; `VECTOR` where AVX2 and F16C, or NEON, may be used.
    ///
    /// # Safety
    /// The processor has these where `VECTOR`.
    unsafe fn eight<const VECTOR: bool>(values: &[Self; 8]) -> [f32; 8];

    /// One as `f32`.
    fn one(self) -> f32;

    /// The values themselves, where they are `f32` already.
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        let _ = values;
        None
    }
}

impl Float for f32 {
    #[inline(always)]
    unsafe fn eight<const VECTOR: bool>(values: &[Self; 8]) -> [f32; 8] {
        *values
    }

    #[inline(always)]
    fn one(self) -> f32 {
        self
    }

    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Float for bf16 {
    #[inline(always)]
    unsafe fn eight<const VECTOR: bool>(values: &[Self; 8]) -> [f32; 8] {
        values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }

    #[inline(always)]
    fn one(self) -> f32 {
        self.to_f32()
    }
}

impl Float for f16 {
    #[inline(always)]
    unsafe fn eight<const VECTOR: bool>(values: &[Self; 8]) -> [f32; 8] {
        #[cfg(target_arch = "x86_64")]
        if VECTOR {
            use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
            let mut wide = [0.0; 8];
            // SAFETY: eight values are 16 bytes; the caller has F16C.
            unsafe {
                let packed = _mm_loadu_si128(values.as_ptr().cast());
                _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(packed));
            }
            return wide;
        }
        values.map(f16::to_f32)
    }

    #[inline(always)]
    fn one(self) -> f32 {
        self.to_f32()
    }
}

/// Writes `input · weightsᵀ` of the given outputs to their columns.
///
/// * `weights`: `[outputs, width]`, `input`: `[rows, width]`
///
/// # Safety
/// Nobody else calls it with any of these outputs for this target.
pub(crate) unsafe fn product<T: Float>(
    kernels: Kernels,
    weights: &[T],
    width: usize,
    outputs: Range<usize>,
    input: &[f32],
    target: Target<'_>,
) {
    let rows = input.len() / width;
    let (out, column) = (target.rows, target.column);
    let weights_of = |range: &Range<usize>| &weights[range.start * width..range.end * width];
    let columns_of = |range: &Range<usize>| column + range.start..column + range.end;
    if rows <= FEW || kernels.is_by_row() || kernels.level() == KernelLevel::Portable {
        few_rows(kernels, weights_of(&outputs), width, input, out, columns_of(&outputs));
        return;
    }
    let all = weights.len() / width;
    let mut wide = Vec::new();
    // A panel is the task's that has its first output; the others leave it alone.
    for start in (outputs.start.next_multiple_of(PANEL)..outputs.end).step_by(PANEL) {
        let range = start..all.min(start + PANEL);
        let weights = weights_of(&range);
        if let Some(weights) = T::as_f32(weights) {
            panel_product(weights, width, input, out, columns_of(&range));
            continue;
        }
        wide.resize(weights.len(), 0.0);
        widen(kernels, weights, &mut wide);
        panel_product(&wide, width, input, out, columns_of(&range));
    }
}

/// Writes `values` as `f32`.
pub(crate) fn widen<T: Float>(kernels: Kernels, values: &[T], wide: &mut [f32]) {
    #[inline(always)]
    unsafe fn body<T: Float, const VECTOR: bool>(values: &[T], wide: &mut [f32]) {
        let (values, rest) = values.as_chunks::<8>();
        let (wide, wide_rest) = wide.as_chunks_mut::<8>();
        for (values, wide) in values.iter().zip(wide) {
            // SAFETY: as the caller promises.
            *wide = unsafe { T::eight::<VECTOR>(values) };
        }
        for (value, wide) in rest.iter().zip(wide_rest) {
            *wide = value.one();
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<T: Float>(values: &[T], wide: &mut [f32]) {
        // SAFETY: this function has the instructions.
        unsafe { body::<T, true>(values, wide) }
    }
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni | KernelLevel::Amx => unsafe {
            avx2(values, wide);
        },
        // SAFETY: plain Rust.
        _ => unsafe { body::<T, false>(values, wide) },
    }
}

fn panel_product(
    weights: &[f32],
    width: usize,
    input: &[f32],
    out: Rows<'_, f32>,
    columns: Range<usize>,
) {
    let rows = input.len() / width;
    let stride = out.width() as isize;
    assert!(columns.end <= out.width() && weights.len() == columns.len() * width);
    // SAFETY: this call alone has this panel's columns; the part of the last row checks the extent.
    let first = unsafe {
        let _ = out.part(rows - 1, columns.clone());
        out.part(0, columns.clone()).as_mut_ptr()
    };
    // SAFETY: `first` is `[rows, columns]` with the given stride; the operands are whole matrices.
    unsafe {
        gemm::gemm(
            rows,
            columns.len(),
            width,
            first,
            1,
            stride,
            false,
            input.as_ptr(),
            1,
            width as isize,
            weights.as_ptr(),
            width as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn few_rows<T: Float>(
    kernels: Kernels,
    weights: &[T],
    width: usize,
    input: &[f32],
    out: Rows<'_, f32>,
    columns: Range<usize>,
) {
    // SAFETY: `product` gives these columns to this task only.
    let part = |row| unsafe { out.part(row, columns.clone()) };
    let rows = input.len() / width;
    let mut row = 0;
    while row < rows {
        let input = &input[row * width..];
        row += match rows - row {
            1 => few::<T, 1>(kernels, weights, width, input, [part(row)]),
            2 | 3 => few::<T, 2>(kernels, weights, width, input, [0, 1].map(|at| part(row + at))),
            _ => few::<T, 4>(kernels, weights, width, input, [0, 1, 2, 3].map(|at| part(row + at))),
        };
    }
}

fn few<T: Float, const R: usize>(
    kernels: Kernels,
    weights: &[T],
    width: usize,
    input: &[f32],
    out: [&mut [f32]; R],
) -> usize {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<T: Float, const R: usize>(
        weights: &[T],
        width: usize,
        input: &[f32],
        out: [&mut [f32]; R],
    ) {
        // SAFETY: this function has the instructions.
        unsafe { few_body::<T, true, R>(weights, width, input, out) }
    }
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni | KernelLevel::Amx => unsafe {
            avx2(weights, width, input, out);
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of every such processor.
        KernelLevel::Neon => unsafe { few_body::<T, true, R>(weights, width, input, out) },
        // SAFETY: plain Rust.
        _ => unsafe { few_body::<T, false, R>(weights, width, input, out) },
    }
    R
}

/// # Safety
/// The processor has AVX2, FMA and F16C, or NEON, where `VECTOR`.
#[inline(always)]
unsafe fn few_body<T: Float, const VECTOR: bool, const R: usize>(
    weights: &[T],
    width: usize,
    input: &[f32],
    mut out: [&mut [f32]; R],
) {
    let inputs: [&[f32]; R] = std::array::from_fn(|row| &input[row * width..][..width]);
    for (output, weights) in weights.chunks_exact(width).enumerate() {
        let (chunks, rest) = weights.as_chunks::<8>();
        let (pairs, odd) = chunks.as_chunks::<2>();
        let mut lanes = [[[0.0_f32; 8]; 2]; R];
        for (at, pair) in pairs.iter().enumerate() {
            for (side, chunk) in pair.iter().enumerate() {
                // SAFETY: as the caller promises.
                let chunk = unsafe { T::eight::<VECTOR>(chunk) };
                for (lanes, input) in lanes.iter_mut().zip(inputs) {
                    let input = &input[at * 16 + side * 8..][..8];
                    for (index, lane) in lanes[side].iter_mut().enumerate() {
                        *lane = multiply_add::<VECTOR>(chunk[index], input[index], *lane);
                    }
                }
            }
        }
        let done = pairs.len() * 16;
        let rest = odd.iter().flatten().chain(rest);
        let mut sums: [f32; R] = lanes
            .map(|[even, odd]| lane_sum(std::array::from_fn(|index| even[index] + odd[index])));
        for (index, weight) in rest.enumerate() {
            for (sum, input) in sums.iter_mut().zip(inputs) {
                *sum += weight.one() * input[done + index];
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            out[output] = sum;
        }
    }
}
