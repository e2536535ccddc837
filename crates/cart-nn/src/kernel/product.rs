//! Products of packed weights with quantized activations.
//!
//! The arithmetic of a row is the same however many rows there are: whole numbers within a group,
//! then a float sum, group after group, and one of the rests of the wide groups. So a row's result
//! does not depend on its neighbours.

use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::kernel::activations::{BLOCK, Codes, GroupScale, Quantized};
use crate::kernel::format::{Factors, Format, GROUP};
#[cfg(target_arch = "aarch64")]
use crate::kernel::lanes::neon::Neon;
use crate::kernel::lanes::{Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::kernel::lanes::{avx2::Avx2, avx512::Avx512};
use crate::kernel::packed::{
    LINE, OUTPUTS, Packed, QUADS, code_bytes, codes_start, factor_bytes, shared_bytes, tile_bytes,
};
use crate::kernel::{Activations, KernelLevel, Kernels};
use crate::parallel::Rows;

/// How far ahead memory is asked for, in bytes.
const AHEAD: usize = 4096;

/// Rows whose products are taken turn about, where activations are exact.
const FEW: usize = 4;

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
                        4.. if L::ROWS >= 4 => job.rows::<L, F, 4>(place),
                        2.. if L::ROWS == 2 => job.rows::<L, F, 2>(place),
                        _ => job.rows::<L, F, 1>(place),
                    }
                };
            }
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
        let sums = unsafe {
            match self.input.activations {
                Activations::Exact => self.sums::<L, F, R, true>(),
                Activations::Mixed => self.sums::<L, F, R, false>(),
            }
        };
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
        R
    }

    #[inline(always)]
    unsafe fn sums<L: Lanes, F: Format, const R: usize, const EXACT: bool>(
        &self,
    ) -> [[f32; OUTPUTS]; R] {
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
            let mut rests = L::zeros();
            let ahead = self.tile.as_ptr().wrapping_add(AHEAD);
            let step = self.tile.len() / groups;
            for group in 0..groups {
                let x = block.codes.as_ptr().add(group * count + self.at);
                let low = block.rests.as_ptr().cast::<Codes>().add(group * count + self.at);
                let scales = block.scales.as_ptr().add(group * count + self.at);
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
                    if EXACT {
                        each_row!(ROW < R {
                            let at = (x.add(ROW), low.add(ROW), scales.add(ROW));
                            if R < FEW {
                                weights.add_exact::<F, 1>(&mut sums[ROW..][..1], vector, at);
                            } else if ROW.is_multiple_of(FEW) {
                                weights.add_exact::<F, FEW>(&mut sums[ROW..][..FEW], vector, at);
                            }
                        });
                        continue;
                    }
                    // A loop over rows would keep the sums in memory.
                    each_row!(ROW < R {
                        let sum = &mut sums[ROW].as_mut()[vector];
                        *sum = weights.add_to::<F>(*sum, x.add(ROW), &*scales.add(ROW));
                    });
                    // One row's weights are not unpacked twice.
                    if R == 1 && block.wide(group) >> self.at & 1 == 1 {
                        let x = block.rests(group * count + self.at);
                        let sum = &mut rests.as_mut()[vector];
                        *sum = weights.add_to::<F>(*sum, x, &(*scales).of_rests());
                    }
                }
            }
            let mut all_rests = [rests; R];
            if R > 1 && !EXACT {
                self.rests::<L, F, R>(&mut all_rests);
            }
            if EXACT {
                for (out, sums) in out.iter_mut().zip(&sums) {
                    for (vector, sum) in sums.as_ref().iter().enumerate() {
                        L::store(*sum, out.as_mut_ptr().add(vector * L::LANES));
                    }
                }
                return out;
            }
            for (out, (sums, rests)) in out.iter_mut().zip(sums.iter().zip(&all_rests)) {
                let parts = sums.as_ref().iter().zip(rests.as_ref());
                for (vector, (sum, rest)) in parts.enumerate() {
                    L::store(L::add(*sum, *rest), out.as_mut_ptr().add(vector * L::LANES));
                }
            }
        }
        out
    }

    /// Adds up the products of the wide groups' rests.
    ///
    /// # Safety
    /// As [`Self::sums`].
    #[inline(always)]
    unsafe fn rests<L: Lanes, F: Format, const R: usize>(&self, sums: &mut [L::Tile; R]) {
        let groups = self.input.groups;
        let count = self.input.block_rows(self.block).len();
        let block = self.input.block(self.block);
        for group in 0..groups {
            let wide = block.wide(group) >> self.at & ((1 << R) - 1);
            if wide == 0 {
                continue;
            }
            for vector in 0..OUTPUTS / L::LANES {
                // SAFETY: passed on to the caller.
                let weights = unsafe { Group::<L>::new::<F>(self.tile, groups, group, vector) };
                let mut left = wide;
                while left != 0 {
                    let row = left.trailing_zeros() as usize;
                    left &= left - 1;
                    let at = group * count + self.at + row;
                    let shared = block.scales[at].of_rests();
                    let sum = &mut sums[row].as_mut()[vector];
                    // SAFETY: the caller has the instructions.
                    *sum = unsafe { weights.add_to::<F>(*sum, block.rests(at), &shared) };
                }
            }
        }
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
    /// Vector `vector` of group `group` of a tile of as many groups.
    #[inline(always)]
    unsafe fn new<F: Format>(tile: &[u8], groups: usize, group: usize, vector: usize) -> Self {
        let first = vector * L::LANES;
        let index = group % F::GROUPS;
        // SAFETY: the caller has the instructions, and the bytes are those of `packed`.
        unsafe {
            let shared = tile.as_ptr().add(group / F::GROUPS * shared_bytes::<F>());
            let codes = tile.as_ptr().add(codes_start::<F>(groups) + group * code_bytes::<F>());
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
            let step = factor_bytes::<F>();
            let at = factors.add(index * F::PARTS * step);
            let a = Self::factors::<F>(at, scale, min);
            let b = Self::factors::<F>(at.add((F::PARTS - 1) * step), scale, min);
            Self { codes, scales: [a.0, b.0], mins: [a.1, b.1] }
        }
    }

    /// Scales and minimums of a part, from its factors and those of the block.
    #[inline(always)]
    unsafe fn factors<F: Format>(
        at: *const u8,
        scale: L::Floats,
        min: L::Floats,
    ) -> (L::Floats, L::Floats) {
        // SAFETY: passed on to the caller.
        unsafe {
            let [scales, mins] = match F::FACTORS {
                Factors::Nibbles => L::nibbles(at),
                _ if F::MINS => [L::bytes(at), L::bytes(at.add(OUTPUTS))],
                _ => [L::bytes(at), min],
            };
            let mins = if F::MINS { L::multiply(min, mins) } else { min };
            (L::multiply(scale, scales), mins)
        }
    }

    /// Adds the products with a group of `N` rows' activations, of two bytes each, to vector
    /// `vector` of the rows' sums.
    ///
    /// * `at`: codes, rests and what the groups share, `[N]` each
    #[inline(always)]
    unsafe fn add_exact<F: Format, const N: usize>(
        &self,
        sums: &mut [L::Tile],
        vector: usize,
        (x, rests, shared): (*const Codes, *const Codes, *const GroupScale),
    ) {
        // SAFETY: the caller has the instructions; the pointers are to groups.
        unsafe {
            if F::PARTS == 1 {
                let dots = match F::BITS {
                    4 => L::both_dots::<4, QUADS, N>(&self.codes, 0, x, rests),
                    5 => L::both_dots::<5, QUADS, N>(&self.codes, 0, x, rests),
                    _ => L::both_dots::<8, QUADS, N>(&self.codes, 0, x, rests),
                };
                for (row, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let shared = &*shared.add(row);
                    let codes = shared.halves[0].wrapping_add(shared.halves[1]);
                    let of_group = (codes, shared.scale, shared.sum);
                    self.add_dots::<F>(&mut sum.as_mut()[vector], 0, dots, of_group);
                }
                return;
            }
            for half in 0..2 {
                let first = half * (QUADS / 2);
                let dots = match F::BITS {
                    2 | 3 => L::both_dots::<3, { QUADS / 2 }, N>(&self.codes, first, x, rests),
                    _ => L::both_dots::<6, { QUADS / 2 }, N>(&self.codes, first, x, rests),
                };
                for (row, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let shared = &*shared.add(row);
                    let of_half = (shared.halves[half], shared.scale, shared.half_sums[half]);
                    self.add_dots::<F>(&mut sum.as_mut()[vector], half, dots, of_half);
                }
            }
        }
    }

    /// `sum` plus the dots with a part of exact activations, as floats.
    ///
    /// * `codes`, `scale`, `scaled`: the sum of the activations' codes, their scale, the sum times the scale
    #[inline(always)]
    unsafe fn add_dots<F: Format>(
        &self,
        sum: &mut L::Floats,
        part: usize,
        dots: L::Ints,
        (codes, scale, scaled): (i32, f32, f32),
    ) {
        // SAFETY: the caller has the instructions.
        unsafe {
            let products = L::multiply(less_zero::<L, F>(dots, codes), L::splat(scale));
            *sum = L::multiply_add(products, self.scales[part], *sum);
            if F::MINS {
                *sum = L::multiply_add(self.mins[part], L::splat(scaled), *sum);
            }
        }
    }

    /// `sum` plus the products with a group of activations.
    #[inline(always)]
    unsafe fn add_to<F: Format>(
        &self,
        mut sum: L::Floats,
        x: *const Codes,
        shared: &GroupScale,
    ) -> L::Floats {
        let x = x.cast::<i8>();
        // SAFETY: the caller has the instructions; the pointer is to a group.
        unsafe {
            let scale = L::splat(shared.scale);
            if F::PARTS == 1 {
                let dots = match F::BITS {
                    4 => L::dots::<4, QUADS>(&self.codes, 0, x),
                    5 => L::dots::<5, QUADS>(&self.codes, 0, x),
                    _ => L::dots::<8, QUADS>(&self.codes, 0, x),
                };
                let dots = less_zero::<L, F>(dots, shared.halves[0].wrapping_add(shared.halves[1]));
                sum = L::multiply_add(L::multiply(dots, scale), self.scales[0], sum);
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
                let dots = less_zero::<L, F>(dots, shared.halves[half]);
                sum = L::multiply_add(L::multiply(dots, scale), self.scales[half], sum);
                if F::MINS {
                    let x = L::splat(shared.half_sums[half]);
                    sum = L::multiply_add(self.mins[half], x, sum);
                }
            }
            sum
        }
    }
}

/// `dots` as if the codes of the weights were less by the format's zero.
///
/// * `codes`: the sum of the activations' codes
#[inline(always)]
unsafe fn less_zero<L: Lanes, F: Format>(dots: L::Ints, codes: i32) -> L::Floats {
    // SAFETY: passed on to the caller.
    unsafe {
        match F::ZERO {
            0 => L::floats::<0>(dots, 0),
            4 => L::floats::<2>(dots, codes),
            8 => L::floats::<3>(dots, codes),
            16 => L::floats::<4>(dots, codes),
            32 => L::floats::<5>(dots, codes),
            128 if L::SIGNED_BYTES => L::floats::<0>(dots, 0),
            128 => L::floats::<7>(dots, codes),
            zero => unreachable!("no format has {zero} for zero"),
        }
    }
}

/// The eight quads of some outputs, out of their planes; see `packed`.
///
/// Here and around it are functions and no closures: a closure does not take over the instructions
/// that its caller may use, so what the compiler leaves as a call costs ten times the product.
#[inline(always)]
unsafe fn unpack<L: Lanes, F: Format>(at: *const u8) -> [L::Codes; QUADS] {
    // SAFETY: passed on to the caller.
    unsafe {
        [
            quad::<L, F, 0>(at),
            quad::<L, F, 1>(at),
            quad::<L, F, 2>(at),
            quad::<L, F, 3>(at),
            quad::<L, F, 4>(at),
            quad::<L, F, 5>(at),
            quad::<L, F, 6>(at),
            quad::<L, F, 7>(at),
        ]
    }
}

/// Quad `QUAD` of some outputs.
#[inline(always)]
unsafe fn quad<L: Lanes, F: Format, const QUAD: usize>(at: *const u8) -> L::Codes {
    // SAFETY: the caller has the instructions, and a group has `BITS` lines.
    unsafe {
        match F::BITS {
            2 => pair::<L>(at, 0, QUAD, 0),
            3 => L::or(pair::<L>(at, 0, QUAD, 0), bit::<L>(at, 2, QUAD, 2)),
            4 => nibble::<L>(at, QUAD),
            5 => L::or(nibble::<L>(at, QUAD), bit::<L>(at, 4, QUAD, 4)),
            6 => L::or(nibble::<L>(at, QUAD), pair::<L>(at, 4, QUAD, 4)),
            _ => L::load(at.add(QUAD * LINE)),
        }
    }
}

/// Four bits of a quad, from one of four lines.
#[inline(always)]
unsafe fn nibble<L: Lanes>(at: *const u8, quad: usize) -> L::Codes {
    // SAFETY: passed on to the caller.
    unsafe { L::shift_and(L::load(at.add(quad % 4 * LINE)), if quad < 4 { 0 } else { -4 }, 15) }
}

/// Two bits of a quad, from one of the two lines from `first` on, moved to bit `to`.
#[inline(always)]
unsafe fn pair<L: Lanes>(at: *const u8, first: usize, quad: usize, to: i32) -> L::Codes {
    // SAFETY: passed on to the caller.
    unsafe {
        let line = L::load(at.add((first + quad / 4) * LINE));
        L::shift_and(line, to - (quad as i32 % 4 * 2), 3 << to)
    }
}

/// One bit of a quad, from line `plane`, moved to bit `to`.
#[inline(always)]
unsafe fn bit<L: Lanes>(at: *const u8, plane: usize, quad: usize, to: i32) -> L::Codes {
    // SAFETY: passed on to the caller.
    unsafe { L::shift_and(L::load(at.add(plane * LINE)), to - quad as i32, 1 << to) }
}
