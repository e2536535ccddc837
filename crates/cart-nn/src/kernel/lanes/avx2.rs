//! AVX2 with FMA and F16C.

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::x86_64::*;

use crate::kernel::lanes::Lanes;
use crate::kernel::packed::QUADS;

/// 32-byte registers: half a tile.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY, for every block below: the processor has AVX2, FMA and F16C, and pointers have the bytes
// that `Lanes` says.

impl Lanes for Avx2 {
    const LANES: usize = 8;
    const SIGNED_BYTES: bool = true;
    const ROWS: usize = 4;

    type Codes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;
    type Tile = [__m256; 2];

    #[inline(always)]
    unsafe fn zeros() -> Self::Tile {
        // SAFETY: see above.
        unsafe { [Self::splat(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn shift_and(a: __m256i, by: i32, mask: u8) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let shifted = match by {
                0 => a,
                1 => _mm256_slli_epi16::<1>(a),
                2 => _mm256_slli_epi16::<2>(a),
                3 => _mm256_slli_epi16::<3>(a),
                4 => _mm256_slli_epi16::<4>(a),
                -1 => _mm256_srli_epi16::<1>(a),
                -2 => _mm256_srli_epi16::<2>(a),
                -3 => _mm256_srli_epi16::<3>(a),
                -4 => _mm256_srli_epi16::<4>(a),
                -5 => _mm256_srli_epi16::<5>(a),
                -6 => _mm256_srli_epi16::<6>(a),
                other => unreachable!("no plane is shifted by {other}"),
            };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn dots<const BITS: usize, const COUNT: usize>(
        codes: &[__m256i; QUADS],
        first: usize,
        x: *const i8,
    ) -> __m256i {
        // SAFETY: see above.
        unsafe { byte_dots::<BITS, COUNT>(codes, first, x) }
    }

    #[inline(always)]
    unsafe fn both(high: __m256i, low: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(_mm256_slli_epi32::<8>(high), low) }
    }

    #[inline(always)]
    unsafe fn floats<const SHIFT: u32>(ints: __m256i, value: i32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            if SHIFT == 0 {
                return _mm256_cvtepi32_ps(ints);
            }
            let value = _mm256_set1_epi32(value << SHIFT);
            _mm256_cvtepi32_ps(_mm256_sub_epi32(ints, value))
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> [__m256; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()));
            let low = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn store(floats: __m256, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, floats) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// Sums of products with activations of one byte.
///
/// Sums of two products take 16 bits. They are added there as often as fits: products of codes of
/// up to 4 bits (15 · 127) sixteen times, of 5 bits eight times, of 6 bits four times, of 8 bits
/// without their sign (128 · 127) twice.
#[inline(always)]
unsafe fn byte_dots<const BITS: usize, const COUNT: usize>(
    codes: &[__m256i; QUADS],
    first: usize,
    x: *const i8,
) -> __m256i {
    let together = match BITS {
        0..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };
    // SAFETY: see above.
    unsafe {
        let mut dots = _mm256_setzero_si256();
        let mut pairs = _mm256_setzero_si256();
        for index in 0..COUNT {
            let quad = first + index;
            let x = _mm256_set1_epi32(x.add(quad * 4).cast::<i32>().read_unaligned());
            let products = if BITS == 8 {
                let signed = _mm256_xor_si256(codes[quad], _mm256_set1_epi8(-128));
                _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
            } else {
                _mm256_maddubs_epi16(codes[quad], x)
            };
            pairs = _mm256_add_epi16(pairs, products);
            if (index + 1) % together == 0 || index + 1 == COUNT {
                dots = _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                pairs = _mm256_setzero_si256();
            }
        }
        dots
    }
}
