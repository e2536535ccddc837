//! The AVX2 twin of the quantization of activations.

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::x86_64::*;

use crate::kernel::activations::{GroupCodes, GroupScale, steps};
use crate::kernel::format::GROUP;

/// Quantizes a row.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize<'a>(
    values: &[f32],
    places: impl Iterator<Item = (&'a mut GroupCodes, &'a mut GroupScale)>,
) {
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let sign = _mm256_set1_epi32(i32::MAX);
    for (values, (codes, shared)) in values.as_chunks::<GROUP>().0.iter().zip(places) {
        // SAFETY: a group has 4 × 8 values.
        let values: [__m256; 4] =
            std::array::from_fn(|part| unsafe { _mm256_loadu_ps(values.as_ptr().add(part * 8)) });
        let [a, b, c, d] = values.map(|part| _mm256_and_si256(_mm256_castps_si256(part), sign));
        let eight = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
        let four =
            _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
        let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
        let (scale, inverse) = steps(f32::from_bits(_mm_cvtsi128_si32(one) as u32));
        let inverse = _mm256_set1_ps(inverse);
        let steps = values.map(|part| _mm256_mul_ps(part, inverse));
        let high = steps.map(|part| _mm256_cvtps_epi32(part));
        let low: [__m256i; 4] = std::array::from_fn(|part| {
            let rest = _mm256_sub_ps(steps[part], _mm256_cvtepi32_ps(high[part]));
            let low = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(256.0)));
            let low = _mm256_min_epi32(low, _mm256_set1_epi32(127));
            _mm256_max_epi32(low, _mm256_set1_epi32(-127))
        });
        let bytes = |[a, b, c, d]: [__m256i; 4]| {
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            _mm256_permutevar8x32_epi32(bytes, order)
        };
        // SAFETY: a group has 2 × 32 codes, aligned.
        unsafe {
            _mm256_store_si256(codes.high.as_mut_ptr().cast(), bytes(high));
            _mm256_store_si256(codes.low.as_mut_ptr().cast(), bytes(low));
        }
        let [a, b, c, d]: [__m256i; 4] = std::array::from_fn(|part| {
            _mm256_add_epi32(_mm256_slli_epi32::<8>(high[part]), low[part])
        });
        let sums = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
        let sums = _mm256_hadd_epi32(sums, sums);
        let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let halves = [_mm_cvtsi128_si32(sums), _mm_extract_epi32::<1>(sums)];
        *shared = GroupScale::new(scale, halves);
    }
}
