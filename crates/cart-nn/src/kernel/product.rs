//! Products of packed weights with activations in 16 bits.
//!
//! The arithmetic of a row is the same however many rows there are: whole numbers within a group,
//! then one float sum, group after group. So a row's result does not depend on its neighbours.

use std::ops::Range;

use crate::kernel::activations::{GroupCodes, GroupScale, Quantized};
use crate::kernel::format::{Factors, Format, GROUP};
#[cfg(target_arch = "aarch64")]
use crate::kernel::lanes::neon::Neon;
use crate::kernel::lanes::{Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::kernel::lanes::{avx2::Avx2, avx512::Avx512};
use crate::kernel::packed::{
    LINE, OUTPUTS, Packed, QUADS, code_bytes, codes_start, factor_bytes, shared_bytes, tile_bytes,
};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::Rows;

/// How far ahead memory is asked for, in bytes.
const AHEAD: usize = 4096;

/// Where a product's results go: columns from `column` on.
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
            KernelLevel::Avx512Vnni => run_avx512::<F>(weights, tiles, input, target),
            #[cfg(target_arch = "aarch64")]
            KernelLevel::Neon => run::<Neon, F>(weights, tiles, input, target),
            _ => run::<Portable, F>(weights, tiles, input, target),
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
    unsafe { run::<Avx2, F>(weights, tiles, input, target) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_avx512<F: Format>(
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    // SAFETY: this function has the instructions; the rest is the caller's promise.
    unsafe { run::<Avx512, F>(weights, tiles, input, target) }
}

/// # Safety
/// As [`product`], and the processor has the instructions of `L`.
#[inline(always)]
unsafe fn run<L: Lanes, F: Format>(
    weights: &Packed,
    tiles: Range<usize>,
    input: &Quantized,
    target: Target<'_>,
) {
    for index in tiles {
        let tile = weights.tile::<F>(index);
        let outputs = index * OUTPUTS..weights.outputs.min((index + 1) * OUTPUTS);
        let columns = target.column + outputs.start..target.column + outputs.end;
        for block in 0..input.blocks() {
            let rows = input.block_rows(block);
            let mut at = 0;
            while at < rows.len() {
                let job = Job { tile, input, block, at };
                let place = (target.rows, rows.start + at, &columns);
                // SAFETY: passed on to the caller.
                at += unsafe {
                    match rows.len() - at {
                        16.. if L::ROWS >= 16 => job.rows::<L, F, 16>(place),
                        8.. if L::ROWS >= 8 => job.rows::<L, F, 8>(place),
                        4.. if L::ROWS >= 4 => job.rows::<L, F, 4>(place),
                        2.. if L::ROWS >= 2 => job.rows::<L, F, 2>(place),
                        _ => job.rows::<L, F, 1>(place),
                    }
                };
            }
        }
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
    /// Writes the products of `R` rows, and returns `R`.
    #[inline(always)]
    unsafe fn rows<L: Lanes, F: Format, const R: usize>(
        &self,
        (rows, first, columns): (Rows<'_, f32>, usize, &Range<usize>),
    ) -> usize {
        // SAFETY: passed on to the caller.
        let sums = unsafe { self.sums::<L, F, R>() };
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller has these columns alone.
            let out = unsafe { rows.part(first + row, columns.clone()) };
            if let Ok(out) = <&mut [f32; OUTPUTS]>::try_from(&mut *out) {
                *out = *sums;
            } else {
                out.copy_from_slice(&sums[..columns.len()]);
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn sums<L: Lanes, F: Format, const R: usize>(&self) -> [[f32; OUTPUTS]; R] {
        let groups = self.input.groups;
        let count = self.input.block_rows(self.block).len();
        let (codes, scales) = self.input.block(self.block);
        assert!(self.at + R <= count && codes.len() == groups * count);
        assert!(self.tile.len() == tile_bytes::<F>(groups));
        let mut out = [[0.0; OUTPUTS]; R];
        // SAFETY: the caller has the instructions. Activations are `[groups, count]`, as asserted,
        // and a tile has the bytes that `packed` says for as many groups.
        unsafe {
            let mut sums = [L::zeros(); R];
            let shared = self.tile.as_ptr();
            let weights = shared.add(codes_start::<F>(groups));
            let step = self.tile.len() / groups;
            for group in 0..groups {
                let weights = weights.add(group * code_bytes::<F>());
                let shared_at = shared.add(group / F::GROUPS * shared_bytes::<F>());
                let x = codes.as_ptr().add(group * count + self.at);
                let scales = scales.as_ptr().add(group * count + self.at);
                if R == 1 {
                    let ahead = shared.wrapping_add(AHEAD + group * step);
                    for line in 0..=F::BITS {
                        L::prefetch(ahead.wrapping_add(line * LINE));
                    }
                }
                for vector in 0..OUTPUTS / L::LANES {
                    let first = vector * L::LANES;
                    let weights =
                        Group::<L>::new::<F>(weights, shared_at, group % F::GROUPS, first);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let sum = &mut sums.as_mut()[vector];
                        *sum = weights.add_to::<F>(*sum, x.add(row), &*scales.add(row));
                    }
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

/// A group of some outputs' weights in registers.
struct Group<L: Lanes> {
    codes: [L::Codes; QUADS],
    /// For each half; the first for both where the group has one part.
    scales: [L::Floats; 2],
    mins: [L::Floats; 2],
}

impl<L: Lanes> Group<L> {
    /// Outputs from `first` on of group `index` of a block.
    #[inline(always)]
    unsafe fn new<F: Format>(
        codes: *const u8,
        shared: *const u8,
        index: usize,
        first: usize,
    ) -> Self {
        // SAFETY: the caller has the instructions, and the bytes are those of `packed`.
        unsafe {
            let codes = unpack::<L, F>(codes.add(first * 4));
            let scale = L::halves(shared.add(first * 2));
            let min = if F::MINS {
                L::halves(shared.add(2 * OUTPUTS + first * 2))
            } else {
                L::splat(0.0)
            };
            if F::FACTORS == Factors::One {
                return Self { codes, scales: [scale; 2], mins: [min; 2] };
            }
            let kinds = if F::MINS { 2 } else { 1 };
            let factors = shared.add(kinds * 2 * OUTPUTS + first);
            let part = |part: usize| {
                let at = factors.add((index * F::PARTS + part % F::PARTS) * factor_bytes::<F>());
                let [scales, mins] = match F::FACTORS {
                    Factors::Nibbles => L::nibbles(at),
                    _ if F::MINS => [L::bytes(at), L::bytes(at.add(OUTPUTS))],
                    _ => [L::bytes(at), min],
                };
                let mins = if F::MINS { L::multiply(min, mins) } else { min };
                (L::multiply(scale, scales), mins)
            };
            let (a, b) = (part(0), part(1));
            Self { codes, scales: [a.0, b.0], mins: [a.1, b.1] }
        }
    }

    /// `sum` plus the products with a group of activations.
    #[inline(always)]
    unsafe fn add_to<F: Format>(
        &self,
        mut sum: L::Floats,
        x: *const GroupCodes,
        shared: &GroupScale,
    ) -> L::Floats {
        let zero = if F::BITS == 8 && L::SIGNED_BYTES { 0 } else { -F::ZERO };
        // SAFETY: the caller has the instructions; the pointer is to a group.
        unsafe {
            let scale = L::splat(shared.scale);
            if F::PARTS == 1 {
                let halves = shared.halves[0] + shared.halves[1];
                let dots = match F::BITS {
                    4 => L::dots::<4, QUADS>(&self.codes, 0, x),
                    5 => L::dots::<5, QUADS>(&self.codes, 0, x),
                    _ => L::dots::<8, QUADS>(&self.codes, 0, x),
                };
                let dots = L::multiply(L::floats(dots, zero * halves), scale);
                sum = L::multiply_add(dots, self.scales[0], sum);
                if F::MINS {
                    sum = L::multiply_add(self.mins[0], L::splat(shared.sum), sum);
                }
                return sum;
            }
            for half in 0..2 {
                let first = half * (QUADS / 2);
                let dots = match F::BITS {
                    2 | 3 => L::dots::<3, { QUADS / 2 }>(&self.codes, first, x),
                    _ => L::dots::<6, { QUADS / 2 }>(&self.codes, first, x),
                };
                let dots = L::multiply(L::floats(dots, zero * shared.halves[half]), scale);
                sum = L::multiply_add(dots, self.scales[half], sum);
                if F::MINS {
                    let x = L::splat(shared.scale * shared.halves[half] as f32);
                    sum = L::multiply_add(self.mins[half], x, sum);
                }
            }
            sum
        }
    }
}

/// The eight quads of some outputs, out of their planes; see `packed`.
#[inline(always)]
unsafe fn unpack<L: Lanes, F: Format>(at: *const u8) -> [L::Codes; QUADS] {
    // SAFETY: the caller has the instructions, and a group has `BITS` lines.
    unsafe {
        let line = |line: usize| L::load(at.add(line * LINE));
        let nibble = |quad: usize| L::shift_and(line(quad % 4), if quad < 4 { 0 } else { -4 }, 15);
        let pair = |first: usize, quad: usize, to: i32| {
            L::shift_and(line(first + quad / 4), to - (quad as i32 % 4 * 2), 3 << to)
        };
        let bit = |plane: usize, quad: usize, to: i32| {
            L::shift_and(line(plane), to - quad as i32, 1 << to)
        };
        std::array::from_fn(|quad| match F::BITS {
            2 => pair(0, quad, 0),
            3 => L::or(pair(0, quad, 0), bit(2, quad, 2)),
            4 => nibble(quad),
            5 => L::or(nibble(quad), bit(4, quad, 4)),
            6 => L::or(nibble(quad), pair(4, quad, 4)),
            _ => line(quad),
        })
    }
}
