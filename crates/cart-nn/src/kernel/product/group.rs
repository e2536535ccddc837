//! A group of a tile's weights in registers, and its products with a group of activations.

use crate::kernel::activations::{Codes, GroupScale};
use crate::kernel::format::{Factors, Format};
use crate::kernel::lanes::Lanes;
use crate::kernel::packed::{
    LINE, OUTPUTS, QUADS, code_bytes, codes_start, factor_bytes, shared_bytes,
};

/// A group of some outputs' weights in registers.
pub(super) struct Group<L: Lanes> {
    pub(super) codes: [L::Codes; QUADS],
    /// For each half; the first for both where the group has one part.
    scales: [L::Floats; 2],
    mins: [L::Floats; 2],
}

impl<L: Lanes> Group<L> {
    /// Vector `vector` of group `group` of a tile of as many groups.
    #[inline(always)]
    pub(super) unsafe fn new<F: Format>(
        tile: &[u8],
        groups: usize,
        group: usize,
        vector: usize,
    ) -> Self {
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

    /// Adds the products with a group of `N` rows' activations to vector `vector` of the rows' sums.
    ///
    /// * `RESTS`: whether there are rests; what comes out without them is what zeros give
    /// * `at`: codes, rests and what the groups share, `[N]` each
    #[inline(always)]
    pub(super) unsafe fn add<F: Format, const N: usize, const RESTS: bool>(
        &self,
        sums: &mut [L::Tile],
        vector: usize,
        (x, rests, shared): (*const Codes, *const Codes, *const GroupScale),
    ) {
        // SAFETY: the caller has the instructions; the pointers are to groups.
        unsafe {
            for part in 0..F::PARTS {
                let dots = self.dots::<F, N, RESTS>(part, x, rests);
                for (row, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let of_part = (*shared.add(row)).of_part(part, F::PARTS);
                    self.add_dots::<F>(&mut sum.as_mut()[vector], part, dots, of_part);
                }
            }
        }
    }

    /// The dots of a part with `N` rows.
    #[inline(always)]
    unsafe fn dots<F: Format, const N: usize, const RESTS: bool>(
        &self,
        part: usize,
        x: *const Codes,
        rests: *const Codes,
    ) -> [L::Ints; N] {
        const HALF: usize = QUADS / 2;
        let (codes, first) = (&self.codes, part * HALF);
        // SAFETY: passed on to the caller.
        unsafe {
            match (F::BITS, F::PARTS) {
                (4, 1) => L::both_dots::<4, QUADS, N, RESTS>(codes, 0, x, rests),
                (5, 1) => L::both_dots::<5, QUADS, N, RESTS>(codes, 0, x, rests),
                (_, 1) => L::both_dots::<8, QUADS, N, RESTS>(codes, 0, x, rests),
                (2 | 3, _) => L::both_dots::<3, HALF, N, RESTS>(codes, first, x, rests),
                _ => L::both_dots::<6, HALF, N, RESTS>(codes, first, x, rests),
            }
        }
    }

    /// `sum` plus the dots with a part of the activations, as floats.
    ///
    /// * `codes`, `scale`, `scaled`: the sum of the activations' codes, their scale, the sum times the scale
    #[inline(always)]
    pub(super) unsafe fn add_dots<F: Format>(
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
