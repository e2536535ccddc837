//! The AVX2 twin of the quantization of activations.

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::x86_64::*;

use crate::kernel::activations::{Codes, GroupScale, Places, steps, wide_from};
use crate::kernel::format::GROUP;

/// Quantizes a row, as `quantize_portable` does.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize(values: &[f32], largest: &mut [f32], places: &mut Places<'_>) {
    let sign = _mm256_set1_epi32(i32::MAX);
    let (groups, _) = values.as_chunks::<GROUP>();
    for (values, largest) in groups.iter().zip(&mut *largest) {
        let [a, b, c, d] =
            load(values).map(|part| _mm256_and_si256(_mm256_castps_si256(part), sign));
        let eight = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
        let four =
            _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
        let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
        *largest = f32::from_bits(_mm_cvtsi128_si32(one) as u32);
    }
    let wide_from = wide_from(largest);
    for (group, (values, &largest)) in groups.iter().zip(&*largest).enumerate() {
        let (scale, inverse) = steps(largest);
        let inverse = _mm256_set1_ps(inverse);
        let steps = load(values).map(|part| _mm256_mul_ps(part, inverse));
        let codes = steps.map(|part| _mm256_cvtps_epi32(part));
        let mut rests = None;
        let mut rest_halves = [0; 2];
        if places.exact || largest >= wide_from {
            let parts: [__m256i; 4] = std::array::from_fn(|part| {
                let rest = _mm256_sub_ps(steps[part], _mm256_cvtepi32_ps(codes[part]));
                let rest = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(256.0)));
                let rest = _mm256_min_epi32(rest, _mm256_set1_epi32(127));
                _mm256_max_epi32(rest, _mm256_set1_epi32(-127))
            });
            rests = Some(bytes(parts));
            rest_halves = half_sums(parts);
        }
        let shared = GroupScale::new(scale, half_sums(codes), rest_halves);
        places.put(group, bytes(codes), shared, rests);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn load(values: &[f32; GROUP]) -> [__m256; 4] {
    // SAFETY: a group has 4 × 8 values.
    std::array::from_fn(|part| unsafe { _mm256_loadu_ps(values.as_ptr().add(part * 8)) })
}

/// Whole numbers as bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn bytes([a, b, c, d]: [__m256i; 4]) -> Codes {
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let bytes = _mm256_permutevar8x32_epi32(bytes, order);
    let mut codes = Codes::default();
    // SAFETY: a group has 32 codes, aligned.
    unsafe { _mm256_store_si256(codes.0.as_mut_ptr().cast(), bytes) };
    codes
}

/// Sums of the first and of the second 16.
#[target_feature(enable = "avx2,fma,f16c")]
fn half_sums([a, b, c, d]: [__m256i; 4]) -> [i32; 2] {
    let sums = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    let sums = _mm256_hadd_epi32(sums, sums);
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    [_mm_cvtsi128_si32(sums), _mm_extract_epi32::<1>(sums)]
}
