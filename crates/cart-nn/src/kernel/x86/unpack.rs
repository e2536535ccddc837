//! Groups of the block formats in registers.

#[allow(clippy::wildcard_imports, reason = "sixty intrinsics by name say nothing")]
use std::arch::x86_64::*;

use crate::kernel::format::{self, Format};

/// A format's groups in registers.
pub(crate) trait Unpack: Format {
    /// Whether [`Unpack::codes`] has `ZERO` taken off already, as signed numbers.
    const SIGNED: bool = false;

    /// Codes of group `index`.
    ///
    /// # Safety
    /// `block` has `BYTES` bytes, and the processor has AVX2.
    unsafe fn codes(block: *const u8, index: usize) -> __m256i;

    /// Scale and minimum of group `index` in lanes 0 and 1, `ZERO` folded into the minimum
    /// unless `SIGNED`.
    ///
    /// # Safety
    /// As for [`Unpack::codes`], and F16C.
    unsafe fn scale_min(block: *const u8, index: usize) -> __m128;

    /// Weighs the partial sums of the halves (lanes 0–3 and 4–7) where their scales differ.
    ///
    /// # Safety
    /// As for [`Unpack::codes`].
    #[inline(always)]
    unsafe fn weigh(sums: __m256i, block: *const u8, index: usize) -> __m256i {
        let _ = (block, index);
        sums
    }
}

// SAFETY, for every block below: intrinsics run inside callers that have AVX2, FMA and F16C, and
// reads stay inside the block's `BYTES`, whose layout `format` gives.

/// Two 16-bit floats in lanes 0 and 1.
#[inline(always)]
unsafe fn two_halves(at: *const u8) -> __m128 {
    // SAFETY: see above.
    unsafe { _mm_cvtph_ps(_mm_cvtsi32_si128(at.cast::<i32>().read_unaligned())) }
}

/// One 16-bit float times `low` and `high` in lanes 0 and 1.
#[inline(always)]
unsafe fn one_half(at: *const u8, low: f32, high: f32) -> __m128 {
    // SAFETY: see above.
    unsafe {
        let bits = i32::from(at.cast::<i16>().read_unaligned());
        let value = _mm_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        _mm_mul_ps(value, _mm_setr_ps(low, high, 0.0, 0.0))
    }
}

#[inline(always)]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let packed = _mm_loadu_si128(at.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// 16 in each byte whose bit of the 32 at `at` is set.
#[inline(always)]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let bits = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        let spread = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let mask = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let picked = _mm256_and_si256(_mm256_shuffle_epi8(bits, spread), mask);
        _mm256_and_si256(_mm256_cmpeq_epi8(picked, mask), _mm256_set1_epi8(16))
    }
}

impl Unpack for format::Q4_0 {
    #[inline(always)]
    unsafe fn codes(block: *const u8, _index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { nibbles(block.add(2)) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { one_half(block, 1.0, -8.0) }
    }
}

impl Unpack for format::Q4_1 {
    #[inline(always)]
    unsafe fn codes(block: *const u8, _index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { nibbles(block.add(4)) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { two_halves(block) }
    }
}

impl Unpack for format::Q5_0 {
    #[inline(always)]
    unsafe fn codes(block: *const u8, _index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2))) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { one_half(block, 1.0, -16.0) }
    }
}

impl Unpack for format::Q5_1 {
    #[inline(always)]
    unsafe fn codes(block: *const u8, _index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4))) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { two_halves(block) }
    }
}

impl Unpack for format::Q8_0 {
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn codes(block: *const u8, _index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(block.add(2).cast()) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above. The two bytes after the scale are codes; lane 1 is not used.
        unsafe { two_halves(block) }
    }
}

#[inline(always)]
unsafe fn k_scale_min(block: *const u8, index: usize) -> __m128 {
    // SAFETY: see above.
    unsafe {
        let packed = std::slice::from_raw_parts(block.add(4), 12);
        let (scale, min) = format::k_scale_min(packed, index);
        let factors = _mm_setr_ps(f32::from(scale), -f32::from(min), 0.0, 0.0);
        _mm_mul_ps(two_halves(block), factors)
    }
}

#[inline(always)]
unsafe fn k_nibbles(at: *const u8, index: usize) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let packed = _mm256_loadu_si256(at.add(index / 2 * 32).cast());
        let packed = if index % 2 == 1 { _mm256_srli_epi16::<4>(packed) } else { packed };
        _mm256_and_si256(packed, _mm256_set1_epi8(15))
    }
}

impl Unpack for format::Q4_K {
    #[inline(always)]
    unsafe fn codes(block: *const u8, index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { k_nibbles(block.add(16), index) }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { k_scale_min(block, index) }
    }
}

impl Unpack for format::Q5_K {
    #[inline(always)]
    unsafe fn codes(block: *const u8, index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let high = _mm256_loadu_si256(block.add(16).cast());
            let bit = _mm256_set1_epi8((1_u8 << index) as i8);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
            let fifth = _mm256_and_si256(set, _mm256_set1_epi8(16));
            _mm256_or_si256(k_nibbles(block.add(48), index), fifth)
        }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { k_scale_min(block, index) }
    }
}

impl Unpack for format::Q6_K {
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn codes(block: *const u8, index: usize) -> __m256i {
        let (part, quarter) = (index / 4, index % 4);
        // SAFETY: see above.
        unsafe {
            let low = _mm256_loadu_si256(block.add(part * 64 + quarter % 2 * 32).cast());
            let low = if quarter >= 2 { _mm256_srli_epi16::<4>(low) } else { low };
            let high = _mm256_loadu_si256(block.add(128 + part * 32).cast());
            let high = match quarter {
                0 => _mm256_slli_epi16::<4>(high),
                1 => _mm256_slli_epi16::<2>(high),
                2 => high,
                _ => _mm256_srli_epi16::<2>(high),
            };
            let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
            let high = _mm256_and_si256(high, _mm256_set1_epi8(0x30));
            _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32))
        }
    }

    #[inline(always)]
    unsafe fn scale_min(block: *const u8, _index: usize) -> __m128 {
        // SAFETY: see above.
        unsafe { one_half(block.add(208), 1.0, 0.0) }
    }

    #[inline(always)]
    unsafe fn weigh(sums: __m256i, block: *const u8, index: usize) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let scales = block.add(192 + index * 2).cast::<i8>();
            let low = _mm_set1_epi32(i32::from(*scales));
            let high = _mm_set1_epi32(i32::from(*scales.add(1)));
            _mm256_mullo_epi32(sums, _mm256_set_m128i(high, low))
        }
    }
}
