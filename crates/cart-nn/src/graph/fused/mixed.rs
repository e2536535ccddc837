//! Products of a training step, in the precision of the step.
//!
//! In `bf16` both sides are rounded to it and multiplied, and what is added up, read and written is
//! `f32`. Where the processor has instructions for that, it is by a kernel of ours ([`dots`]); elsewhere
//! the rounded numbers are multiplied in `f32`, which costs more than not to round them.

#[cfg(target_arch = "x86_64")]
mod dots;

use std::cell::Cell;

use half::bf16;
use rayon::prelude::*;

use super::matrix::{By, Matrix, Out, fill};
#[cfg(target_arch = "x86_64")]
use crate::kernel::bf16::Bf16Dots;

/// In what the products of a training step are computed. All else, also what is learned, is `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// 32-bit floats.
    #[default]
    F32,
    /// Both sides are rounded to `bf16` (to the nearest, of two as near to the even one), and their products
    /// added up in `f32`.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Products> = const { Cell::new(Products::F32) };
}

impl Products {
    /// The name: `f32` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this processor has instructions for it. Elsewhere `bf16` is slower than `f32`, not quicker.
    pub fn is_native(self) -> bool {
        self == Self::F32 || !matches!(Multiplier::detect(), Multiplier::Portable)
    }

    /// Does some work on this thread whose products of activations with weights, and whose gradients, are
    /// computed so, where they are `f32` on the CPU. An operation keeps what it was made in: its gradient
    /// may be asked for later.
    ///
    /// What attention multiplies stays `f32`, and so do products that are too small for rounding to pay.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        /// Sets what was before, also where the work panics.
        struct Before(Products);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _before = Before(CURRENT.replace(self));
        work()
    }

    /// What this thread's operations are made in now.
    pub(super) fn current() -> Self {
        CURRENT.get()
    }

    /// `a · b`, by all threads.
    ///
    /// * `a`: `[rows, inner]`, `b`: `[inner, columns]`, to `[rows, columns]`, row after row
    pub(super) fn of(self, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
        let len = a.rows * b.columns;
        let mut product = Vec::with_capacity(len);
        let out = Out::new(product.spare_capacity_mut().as_mut_ptr().cast());
        // SAFETY: there is room for as many, and all are written.
        unsafe {
            self.fill(a, b, out, false);
            product.set_len(len);
        }
        product
    }

    /// `out ← a · b`, or `out ← out + a · b` where `added`, by all threads.
    ///
    /// * `a`: `[rows, inner]`, `b`: `[inner, columns]`, `out`: `[rows, columns]`, row after row
    pub(super) fn multiply(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], added: bool) {
        assert_eq!(out.len(), a.rows * b.columns, "a product fills what it is written to");
        // SAFETY: `out` is borrowed for writing, and there are numbers in all of it.
        unsafe { self.fill(a, b, Out::new(out.as_mut_ptr()), added) };
    }

    /// # Safety
    /// As [`fill`].
    unsafe fn fill(self, a: Matrix<'_>, b: Matrix<'_>, out: Out, added: bool) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::Bf16 if pays(a.rows, a.columns, b.columns) => {
                    Multiplier::detect().fill(a, b, out, added);
                }
                _ => fill(a, b, out, 1.0, added, By::All),
            }
        }
    }
}

/// Fewest numbers on a side of a product that is worth rounding both sides for.
const LEAST: usize = 32;

/// Whether a product of these sizes is computed in `bf16`: what is rounded is used often enough.
fn pays(rows: usize, inner: usize, columns: usize) -> bool {
    rows.min(inner).min(columns) >= LEAST
}

/// Who multiplies numbers that are rounded to `bf16`.
#[derive(Clone, Copy, Debug)]
enum Multiplier {
    #[cfg(target_arch = "x86_64")]
    Dots(Bf16Dots),
    Portable,
}

impl Multiplier {
    /// The best that the processor has.
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(dots) = Bf16Dots::detect() {
            return Self::Dots(dots);
        }
        Self::Portable
    }

    /// # Safety
    /// As [`fill`].
    unsafe fn fill(self, a: Matrix<'_>, b: Matrix<'_>, out: Out, added: bool) {
        assert_eq!(a.columns, b.rows, "the inner sides of a product are equal");
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Dots(of) => dots::fill(of, a, b, out, added),
                Self::Portable => {
                    let sides = [rounded(a), rounded(b)];
                    fill(a.with(&sides[0]), b.with(&sides[1]), out, 1.0, added, By::All);
                }
            }
        }
    }
}

/// The numbers of a matrix, rounded, where they lie.
fn rounded(of: Matrix<'_>) -> Vec<f32> {
    of.data.par_iter().with_min_len(1 << 14).map(|&x| to_bf16(x)).collect()
}

/// The nearest number of `bf16`, of two as near the even one. What is under the smallest normal number
/// becomes 0, as it does where processors have instructions for this.
fn to_bf16(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { bf16::from_f32(x).to_f32() }
}

#[cfg(test)]
mod tests;
