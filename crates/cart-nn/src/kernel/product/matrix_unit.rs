//! Products of whole blocks of rows by a unit for small matrices (Intel AMX): 16 rows of activations with 16
//! outputs in one instruction. What comes out are the same whole numbers as from dot products one by one, and
//! what is done with them is the same too, so a row's result is that of AVX-512, bit for bit.

#[allow(clippy::wildcard_imports, reason = "intrinsics by name say nothing")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::group::Group;
use super::{Job, WholeBlock};
use crate::kernel::activations::BLOCK;
use crate::kernel::format::Format;
use crate::kernel::lanes::Lanes;
use crate::kernel::lanes::avx512::Avx512;
use crate::kernel::packed::{LINE, OUTPUTS, QUADS};

/// Sums of 16 rows and 16 outputs.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Sums(pub(crate) [[i32; OUTPUTS]; BLOCK]);

/// Weights of a group as bytes: eight quads.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Quads(pub(crate) [[u8; LINE]; QUADS]);

/// A unit that multiplies 16 rows of signed bytes with 16 outputs of unsigned ones.
///
/// # Safety
/// Methods need the unit's instructions, and between [`MatrixUnit::begin`] and [`MatrixUnit::end`] the thread does
/// nothing else with the unit.
pub(crate) trait MatrixUnit {
    /// Makes the unit ready for parts of a group: a whole one of 8 quads, or half of 4.
    unsafe fn begin(quads: usize) -> Self;

    /// Writes the sums of the products of 16 rows with both bytes of their codes; with the second one only
    /// where `RESTS`.
    ///
    /// * `weights`: quads `[quads, 16 outputs, 4 inputs]`
    /// * `x`, `rests`: the first row's codes of the part; rows follow at the distance of [`Codes`](crate::kernel::activations::Codes)
    unsafe fn products<const RESTS: bool>(
        &mut self,
        weights: *const u8,
        x: *const i8,
        rests: *const i8,
        out: &mut [Sums; 2],
    );

    /// Gives the unit back.
    unsafe fn end(self);
}

/// Whole blocks by a unit.
pub(super) struct ByUnit<U>(PhantomData<U>);

impl<U: MatrixUnit> WholeBlock for ByUnit<U> {
    #[inline(always)]
    unsafe fn sums<F: Format>(job: &Job<'_>) -> Option<[[f32; OUTPUTS]; BLOCK]> {
        let (groups, block) = (job.input.groups, job.input.block(job.block));
        assert!(block.codes.len() == groups * BLOCK && block.rests.len() == block.codes.len());
        assert!(block.scales.len() == block.codes.len());
        let quads = QUADS / F::PARTS;
        let mut products = [Sums([[0; OUTPUTS]; BLOCK]); 2];
        let mut out = [[0.0; OUTPUTS]; BLOCK];
        // SAFETY: the caller has the instructions. Activations are `[groups, 16]`, as asserted.
        unsafe {
            let mut unit = U::begin(quads);
            let mut sums = [Avx512::zeros(); BLOCK];
            for group in 0..groups {
                let weights = Group::<Avx512>::new::<F>(job.tile, groups, group, 0);
                let bytes = quads_of(&weights);
                let x = block.codes.as_ptr().add(group * BLOCK).cast::<i8>();
                let rests = block.rests.as_ptr().add(group * BLOCK).cast::<i8>();
                let with_rests = block.wide(group) != 0;
                let shared = &block.scales[group * BLOCK..][..BLOCK];
                for part in 0..F::PARTS {
                    let first = part * quads;
                    let at = bytes.0.as_ptr().add(first).cast();
                    let (x, rests) = (x.add(first * 4), rests.add(first * 4));
                    if with_rests {
                        unit.products::<true>(at, x, rests, &mut products);
                    } else {
                        unit.products::<false>(at, x, rests, &mut products);
                    }
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let load = |sums: &Sums| _mm512_load_si512(sums.0[row].as_ptr().cast());
                        let low =
                            if with_rests { load(&products[1]) } else { _mm512_setzero_si512() };
                        let dots = Avx512::both(load(&products[0]), low);
                        let of_part = shared[row].of_part(part, F::PARTS);
                        weights.add_dots::<F>(&mut sum.as_mut()[0], part, dots, of_part);
                    }
                }
            }
            unit.end();
            for (out, sum) in out.iter_mut().zip(&sums) {
                Avx512::store(sum[0], out.as_mut_ptr());
            }
        }
        Some(out)
    }
}

/// The bytes of a group's weights.
#[inline(always)]
unsafe fn quads_of(weights: &Group<Avx512>) -> Quads {
    let mut quads = Quads([[0; LINE]; QUADS]);
    for (line, codes) in quads.0.iter_mut().zip(weights.codes) {
        // SAFETY: the caller has the instructions; a line has 64 bytes, aligned.
        unsafe { _mm512_store_si512(line.as_mut_ptr().cast(), codes) };
    }
    quads
}
