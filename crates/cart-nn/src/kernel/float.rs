//! Products of float weights with `f32` activations.
//!
//! Products are summed up side by side, each sixteenth input in one sum, and the sums as [`Lanes::sum`]
//! does: the same at every level and for any number of rows. 16-bit floats become `f32` on the way
//! into a register.

use std::ops::Range;

use crate::kernel::Kernels;
use crate::kernel::floats::{Element, Lanes, SIDE_BY_SIDE, Work, at_level};
use crate::kernel::product::Target;

/// Bytes of weights that stay near while all rows are multiplied with them.
const NEAR: usize = 1 << 18;

/// Outputs whose sums are in registers together.
const OUTPUTS: usize = 3;

/// Writes `input · weightsᵀ` of the given outputs to their columns.
///
/// * `weights`: `[outputs, width]`, `input`: `[rows, width]`
///
/// # Safety
/// Nobody else calls it with any of these outputs for this target.
pub(crate) unsafe fn product<T: Element>(
    kernels: Kernels,
    weights: &[T],
    width: usize,
    outputs: Range<usize>,
    input: &[f32],
    target: Target<'_>,
) {
    assert!(outputs.end * width <= weights.len() && input.len().is_multiple_of(width));
    let near = (NEAR / (width * size_of::<T>())).next_multiple_of(OUTPUTS);
    let first = outputs.start;
    for start in outputs.clone().step_by(near) {
        let outputs = start..outputs.end.min(start + near);
        let target = Target { column: target.column + start - first, ..target };
        at_level(kernels, Product { weights, width, outputs, input, target });
    }
}

/// Writes `values` as `f32`.
pub(crate) fn widen<T: Element>(kernels: Kernels, values: &[T], wide: &mut [f32]) {
    assert_eq!(values.len(), wide.len());
    at_level(kernels, Widen { values, wide });
}

struct Widen<'a, T> {
    values: &'a [T],
    wide: &'a mut [f32],
}

impl<T: Element> Work for Widen<'_, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let whole = self.values.len() / L::COUNT * L::COUNT;
        for at in (0..whole).step_by(L::COUNT) {
            // SAFETY: as many are there; the instructions are the caller's promise.
            unsafe {
                T::lanes::<L>(self.values.as_ptr().add(at)).store(self.wide.as_mut_ptr().add(at));
            }
        }
        for (value, wide) in self.values[whole..].iter().zip(&mut self.wide[whole..]) {
            *wide = value.wide();
        }
    }
}

struct Product<'a, T> {
    weights: &'a [T],
    width: usize,
    outputs: Range<usize>,
    input: &'a [f32],
    target: Target<'a>,
}

impl<T: Element> Work for Product<'_, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let rows = self.input.len() / self.width;
        let mut row = 0;
        while row < rows {
            // SAFETY: passed on to the caller.
            row += unsafe {
                match rows - row {
                    8.. if L::COUNT == SIDE_BY_SIDE => self.rows::<L, 8>(row),
                    4.. if L::COUNT == SIDE_BY_SIDE => self.rows::<L, 4>(row),
                    2.. => self.rows::<L, 2>(row),
                    _ => self.rows::<L, 1>(row),
                }
            };
        }
    }
}

impl<T: Element> Product<'_, T> {
    /// All outputs of `R` rows from `row` on; returns `R`.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const R: usize>(&self, row: usize) -> usize {
        let mut output = self.outputs.start;
        while output < self.outputs.end {
            // SAFETY: passed on to the caller.
            output += unsafe {
                if self.outputs.end - output >= OUTPUTS {
                    self.tile::<L, R, OUTPUTS>(row, output)
                } else {
                    self.tile::<L, R, 1>(row, output)
                }
            };
        }
        R
    }

    /// `O` outputs of `R` rows; returns `O`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize, const O: usize>(
        &self,
        row: usize,
        output: usize,
    ) -> usize {
        let width = self.width;
        let weights = &self.weights[output * width..(output + O) * width];
        let input = &self.input[row * width..(row + R) * width];
        let whole = width / SIDE_BY_SIDE * SIDE_BY_SIDE;
        // SAFETY: the slices have `O` and `R` rows; the rest is the caller's promise.
        unsafe {
            let mut sums = [[[L::splat(0.0); 2]; O]; R];
            for at in (0..whole).step_by(SIDE_BY_SIDE) {
                for part in 0..SIDE_BY_SIDE / L::COUNT {
                    let at = at + part * L::COUNT;
                    let mut factors = [L::splat(0.0); O];
                    for (output, factors) in factors.iter_mut().enumerate() {
                        *factors = T::lanes(weights.as_ptr().add(output * width + at));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let input = L::load(input.as_ptr().add(row * width + at));
                        for (sums, factors) in sums.iter_mut().zip(factors) {
                            sums[part] = factors.mul_add(input, sums[part]);
                        }
                    }
                }
            }
            for (index, sums) in sums.into_iter().enumerate() {
                let input = &input[index * width..][..width];
                let mut out = [0.0; O];
                // No closures here: they don't take over the instructions that this may use.
                for (output, (out, parts)) in out.iter_mut().zip(sums).enumerate() {
                    *out = L::sum_of(parts);
                    for (weight, input) in weights[output * width + whole..][..width - whole]
                        .iter()
                        .zip(&input[whole..])
                    {
                        *out += weight.wide() * input;
                    }
                }
                let column = self.target.column + output - self.outputs.start;
                self.target.rows.write(row + index, column, &out);
            }
        }
        O
    }
}
