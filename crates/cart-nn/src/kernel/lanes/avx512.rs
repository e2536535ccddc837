//! AVX-512 with 8-bit dot products (VNNI).

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::kernel::activations::Codes;
use crate::kernel::lanes::Lanes;
use crate::kernel::packed::{OUTPUTS, QUADS};

/// 64-byte registers.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY, for every block below: the processor has AVX-512 F, BW, VL and VNNI, and pointers have
// the bytes that `Lanes` says.

impl Lanes for Avx512 {
    const LANES: usize = OUTPUTS;
    const SIGNED_BYTES: bool = false;
    const ROWS: usize = 16;

    type Codes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    type Tile = [__m512; 1];

    #[inline(always)]
    unsafe fn zeros() -> Self::Tile {
        // SAFETY: see above.
        unsafe { [Self::splat(0.0); 1] }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn shift_and(a: __m512i, by: i32, mask: u8) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let shifted = match by {
                0 => a,
                1 => _mm512_slli_epi16::<1>(a),
                2 => _mm512_slli_epi16::<2>(a),
                3 => _mm512_slli_epi16::<3>(a),
                4 => _mm512_slli_epi16::<4>(a),
                -1 => _mm512_srli_epi16::<1>(a),
                -2 => _mm512_srli_epi16::<2>(a),
                -3 => _mm512_srli_epi16::<3>(a),
                -4 => _mm512_srli_epi16::<4>(a),
                -5 => _mm512_srli_epi16::<5>(a),
                -6 => _mm512_srli_epi16::<6>(a),
                other => unreachable!("no plane is shifted by {other}"),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn dots<const BITS: usize, const COUNT: usize>(
        codes: &[__m512i; QUADS],
        first: usize,
        x: *const i8,
    ) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let mut dots = _mm512_setzero_si512();
            for quad in first..first + COUNT {
                let four = x.add(quad * 4).cast::<i32>().read_unaligned();
                dots = _mm512_dpbusd_epi32(dots, codes[quad], _mm512_set1_epi32(four));
            }
            dots
        }
    }

    #[inline(always)]
    unsafe fn both(high: __m512i, low: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low) }
    }

    /// One sum for both bytes of a row, and quad after quad for all rows: a product waits four
    /// cycles for the one before it in its sum, and the processor looks for others to start not
    /// far ahead.
    #[inline(always)]
    unsafe fn both_dots<
        const BITS: usize,
        const COUNT: usize,
        const N: usize,
        const RESTS: bool,
    >(
        codes: &[__m512i; QUADS],
        first: usize,
        x: *const Codes,
        rests: *const Codes,
    ) -> [__m512i; N] {
        // SAFETY: see above.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); N];
            if N == 1 && RESTS {
                let low = add_dots::<COUNT, N>(sums, codes, first, rests);
                compiler_fence(Ordering::SeqCst);
                let high = add_dots::<COUNT, N>(sums, codes, first, x);
                sums[0] = Self::both(high[0], low[0]);
                return sums;
            }
            sums = add_dots::<COUNT, N>(sums, codes, first, x);
            for sum in &mut sums {
                *sum = _mm512_slli_epi32::<8>(*sum);
            }
            if RESTS {
                sums = add_dots::<COUNT, N>(sums, codes, first, rests);
            }
            // The compiler would go on to further rows, and keep their sums in memory.
            compiler_fence(Ordering::SeqCst);
            sums
        }
    }

    #[inline(always)]
    unsafe fn floats<const SHIFT: u32>(ints: __m512i, value: i32) -> __m512 {
        // SAFETY: see above.
        unsafe {
            if SHIFT == 0 {
                return _mm512_cvtepi32_ps(ints);
            }
            let value = _mm512_slli_epi32::<SHIFT>(_mm512_set1_epi32(value));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(ints, value))
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
            let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, floats) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// `sums` plus the products of `COUNT` quads from `first` on with the codes of as many rows.
#[inline(always)]
unsafe fn add_dots<const COUNT: usize, const N: usize>(
    mut sums: [__m512i; N],
    codes: &[__m512i; QUADS],
    first: usize,
    x: *const Codes,
) -> [__m512i; N] {
    for quad in first..first + COUNT {
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: see above.
            unsafe {
                let four = x.add(row).cast::<i32>().add(quad).read();
                *sum = _mm512_dpbusd_epi32(*sum, codes[quad], _mm512_set1_epi32(four));
            }
        }
    }
    sums
}
