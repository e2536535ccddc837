//! AVX2 and AVX-512 VNNI twins of the quantized products.
//!
//! Helpers are `inline(always)` without a target feature of their own: they become part of the
//! `target_feature` functions at the end of a section, which are the only ones called from outside.

mod unpack;

#[allow(clippy::wildcard_imports, reason = "sixty intrinsics by name say nothing")]
use std::arch::x86_64::*;

use crate::kernel::activations::{GroupCodes, GroupScale, Quantized, steps};
use crate::kernel::format::GROUP;
use crate::kernel::tile::{OUTPUTS, Tile};
pub(crate) use unpack::Unpack;

/// Sums of four products each: unsigned `a` with signed `b`. Without VNNI, pairs of products must
/// fit 16 bits: `a` at most 128.
#[inline(always)]
unsafe fn dots<const VNNI: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller has AVX2, and AVX-512 VNNI and VL where `VNNI`.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b);
        }
        _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))
    }
}

/// [`dots`] of codes in two bytes.
#[inline(always)]
unsafe fn two_dots<const VNNI: bool>(a: __m256i, high: __m256i, low: __m256i) -> __m256i {
    // SAFETY: as for `dots`.
    unsafe {
        let high = _mm256_slli_epi32::<8>(dots::<VNNI>(a, high));
        if VNNI {
            return _mm256_dpbusd_epi32(high, a, low);
        }
        _mm256_add_epi32(high, dots::<false>(a, low))
    }
}

#[inline(always)]
unsafe fn horizontal_sum(lanes: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[inline(always)]
unsafe fn few<F: Unpack, const VNNI: bool, const R: usize>(
    weights: &[u8],
    row_bytes: usize,
    (input, first): (&Quantized, usize),
    mut out: [&mut [f32]; R],
) {
    let rows: [(*const GroupCodes, *const GroupScale); R] = std::array::from_fn(|row| {
        (input.row_codes(first + row).as_ptr(), input.row_scales(first + row).as_ptr())
    });
    assert_eq!(row_bytes / F::BYTES * F::GROUPS, input.groups);
    for (output, row) in weights.chunks_exact(row_bytes).enumerate() {
        // SAFETY: the caller has the instructions; `at` stays under `input.groups`, as asserted.
        let sums = unsafe {
            let mut sums = [_mm256_setzero_ps(); R];
            let mut mins = [_mm_setzero_ps(); R];
            for (number, block) in row.chunks_exact(F::BYTES).enumerate() {
                let block = block.as_ptr();
                for index in 0..F::GROUPS {
                    let at = number * F::GROUPS + index;
                    let codes = F::codes(block, index);
                    let magnitudes = if F::SIGNED { _mm256_abs_epi8(codes) } else { codes };
                    let scale_min = F::scale_min(block, index);
                    for (row, (x, shared)) in rows.iter().enumerate() {
                        let x = &*x.add(at);
                        let [high, low] = [&x.high, &x.low].map(|x| {
                            let x = _mm256_load_si256(x.as_ptr().cast());
                            if F::SIGNED { _mm256_sign_epi8(x, codes) } else { x }
                        });
                        let dots = two_dots::<VNNI>(magnitudes, high, low);
                        let dots = F::weigh(dots, block, index);
                        let shared = _mm_castpd_ps(_mm_load_sd(shared.add(at).cast()));
                        let both = _mm_mul_ps(scale_min, shared);
                        let scale = _mm256_broadcastss_ps(both);
                        sums[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, sums[row]);
                        if !F::SIGNED {
                            mins[row] = _mm_add_ps(mins[row], both);
                        }
                    }
                }
            }
            std::array::from_fn::<f32, R, _>(|row| {
                horizontal_sum(sums[row]) + _mm_cvtss_f32(_mm_movehdup_ps(mins[row]))
            })
        };
        for (out, sum) in out.iter_mut().zip(sums) {
            out[output] = sum;
        }
    }
}

/// Products of `R` activation rows with weight rows.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn few_avx2<F: Unpack, const R: usize>(
    weights: &[u8],
    row_bytes: usize,
    input: (&Quantized, usize),
    out: [&mut [f32]; R],
) {
    // SAFETY: as promised.
    unsafe { few::<F, false, R>(weights, row_bytes, input, out) }
}

/// Products of `R` activation rows with weight rows.
///
/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-512 F, BW, VL, VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn few_vnni<F: Unpack, const R: usize>(
    weights: &[u8],
    row_bytes: usize,
    input: (&Quantized, usize),
    out: [&mut [f32]; R],
) {
    // SAFETY: as promised.
    unsafe { few::<F, true, R>(weights, row_bytes, input, out) }
}

/// [`Tile::pack`] with vector instructions.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack<F: Unpack>(tile: &mut Tile, weights: &[u8], row_bytes: usize) {
    if weights.len() < OUTPUTS * row_bytes {
        tile.pack::<F>(weights, row_bytes);
        return;
    }
    for (output, row) in weights.chunks_exact(row_bytes).enumerate() {
        let groups = tile.codes.iter_mut().zip(&mut tile.scales);
        let blocks = row.chunks_exact(F::BYTES);
        let sources = blocks.flat_map(|block| (0..F::GROUPS).map(move |index| (block, index)));
        for ((codes, scales), (block, index)) in groups.zip(sources) {
            // SAFETY: a block has its bytes; this function has the instructions.
            let (unpacked, scale_min) = unsafe {
                let codes = F::codes(block.as_ptr(), index);
                (codes, F::scale_min(block.as_ptr(), index))
            };
            let zero = if F::SIGNED { F::ZERO as i8 } else { 0 };
            let unpacked = _mm256_add_epi8(unpacked, _mm256_set1_epi8(zero));
            let mut fours = [[0_u8; 4]; GROUP / 4];
            // SAFETY: 32 bytes of room.
            unsafe { _mm256_storeu_si256(fours.as_mut_ptr().cast(), unpacked) };
            for (four, codes) in fours.iter().zip(&mut codes.0) {
                codes[output] = *four;
            }
            if F::SPLIT {
                let group = F::group(block, index);
                scales.scales[0][output] = group.scales[0];
                scales.scales[1][output] = group.scales[1];
                continue;
            }
            scales.scales[0][output] = _mm_cvtss_f32(scale_min);
            if F::MINS {
                scales.mins[output] = _mm_cvtss_f32(_mm_movehdup_ps(scale_min));
            }
        }
    }
}

/// Quantizes a row.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize(values: &[f32], codes: &mut [GroupCodes], scales: &mut [GroupScale]) {
    let groups = values.as_chunks::<GROUP>().0.iter().zip(codes);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let sign = _mm256_set1_epi32(i32::MAX);
    for ((values, codes), shared) in groups.zip(scales) {
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

/// [`Tile::product`] with AVX2.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
#[expect(clippy::cast_ptr_alignment, reason = "tiles are aligned; codes are read unaligned")]
pub(super) unsafe fn tile_avx2<F: Unpack, const R: usize>(
    tile: &Tile,
    input: &Quantized,
    first: usize,
    out: &mut [[f32; OUTPUTS]; R],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let rows = rows::<R>(tile, input, first);
    for group in 0..input.groups {
        let codes = tile.codes[group].0.as_ptr().cast::<__m256i>();
        let shared = &tile.scales[group];
        for (row, (x, scales)) in rows.iter().enumerate() {
            // SAFETY: `rows` checked that there are `groups` groups of codes and scales.
            let (x, scales) = unsafe { (&*x.add(group), &*scales.add(group)) };
            let [high, low] = [&x.high, &x.low].map(|x| x.as_ptr().cast::<i32>());
            for side in 0..2 {
                let mut dots = [_mm256_setzero_si256(); 2];
                for four in 0..GROUP / 4 {
                    // SAFETY: a group has 8 × 2 vectors of weights and twice 8 × 4 activation codes.
                    let (codes, high, low) = unsafe {
                        let codes = _mm256_load_si256(codes.add(four * 2 + side));
                        (codes, *high.add(four), *low.add(four))
                    };
                    let [high, low] = [high, low].map(|x| _mm256_set1_epi32(x));
                    let dots = &mut dots[if F::SPLIT { four / 4 } else { 0 }];
                    // SAFETY: this function has AVX2; codes over 128 are made signed first.
                    *dots = _mm256_add_epi32(*dots, unsafe { tile_dots::<F>(codes, high, low) });
                }
                let zero = if F::ZERO == 128 { 0 } else { -F::ZERO };
                let part = |half: usize, dots, sum: i32| {
                    let dots = _mm256_add_epi32(dots, _mm256_set1_epi32(zero * sum));
                    // SAFETY: `scales` has 16 numbers for each half.
                    let weight =
                        unsafe { _mm256_loadu_ps(shared.scales[half].as_ptr().add(side * 8)) };
                    (_mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_set1_ps(scales.scale)), weight)
                };
                let sum = &mut sums[row][side];
                if F::SPLIT {
                    for half in 0..2 {
                        let (dots, weight) = part(half, dots[half], scales.halves[half]);
                        *sum = _mm256_fmadd_ps(dots, weight, *sum);
                    }
                } else {
                    let (dots, weight) = part(0, dots[0], scales.halves[0] + scales.halves[1]);
                    *sum = _mm256_fmadd_ps(dots, weight, *sum);
                }
                if F::MINS {
                    // SAFETY: `mins` has 16 numbers.
                    let min = unsafe { _mm256_loadu_ps(shared.mins.as_ptr().add(side * 8)) };
                    *sum = _mm256_fmadd_ps(min, _mm256_set1_ps(scales.sum), *sum);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (side, sum) in sums.into_iter().enumerate() {
            // SAFETY: `out` has 16 numbers.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(side * 8), sum) };
        }
    }
}

#[inline(always)]
unsafe fn tile_dots<F: Unpack>(codes: __m256i, high: __m256i, low: __m256i) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        if F::ZERO == 128 {
            let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            let [high, low] = [high, low].map(|x| _mm256_sign_epi8(x, signed));
            return two_dots::<false>(_mm256_abs_epi8(signed), high, low);
        }
        two_dots::<false>(codes, high, low)
    }
}

/// [`Tile::product`] with AVX-512 VNNI.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[expect(clippy::cast_ptr_alignment, reason = "tiles are aligned; codes are read unaligned")]
pub(super) unsafe fn tile_vnni<F: Unpack, const R: usize>(
    tile: &Tile,
    input: &Quantized,
    first: usize,
    out: &mut [[f32; OUTPUTS]; R],
) {
    let mut sums = [_mm512_setzero_ps(); R];
    let rows = rows::<R>(tile, input, first);
    for group in 0..input.groups {
        // SAFETY: `rows` checked that there are `groups` groups of codes and scales; a group has 8
        // vectors of weights, twice 8 × 4 activation codes, and 16 scales and minimums.
        unsafe {
            let codes = tile.codes.as_ptr().add(group).cast::<__m512i>();
            let codes: [__m512i; 8] =
                std::array::from_fn(|four| _mm512_load_si512(codes.add(four)));
            let shared = &*tile.scales.as_ptr().add(group);
            let weight = shared.scales.map(|scales| _mm512_loadu_ps(scales.as_ptr()));
            let min = _mm512_loadu_ps(shared.mins.as_ptr());
            for (row, (x, scales)) in rows.iter().enumerate() {
                let (x, scales) = (&*x.add(group), &*scales.add(group));
                let [high, low] = [&x.high, &x.low].map(|x| x.as_ptr().cast::<i32>());
                let four_dots = |start: i32, range: std::ops::Range<usize>| {
                    let mut highs = _mm512_setzero_si512();
                    let mut lows = _mm512_set1_epi32(start);
                    for four in range {
                        let [high, low] = [high, low].map(|x| _mm512_set1_epi32(*x.add(four)));
                        highs = _mm512_dpbusd_epi32(highs, codes[four], high);
                        lows = _mm512_dpbusd_epi32(lows, codes[four], low);
                    }
                    let dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(highs), lows);
                    _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(scales.scale))
                };
                let [low, high] = scales.halves.map(|half| -F::ZERO * half);
                if F::SPLIT {
                    sums[row] = _mm512_fmadd_ps(four_dots(low, 0..4), weight[0], sums[row]);
                    sums[row] = _mm512_fmadd_ps(four_dots(high, 4..8), weight[1], sums[row]);
                } else {
                    sums[row] = _mm512_fmadd_ps(four_dots(low + high, 0..8), weight[0], sums[row]);
                }
                if F::MINS {
                    sums[row] = _mm512_fmadd_ps(min, _mm512_set1_ps(scales.sum), sums[row]);
                }
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: `out` has 16 numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// Codes and scales of the rows, after checking that the tile is as wide.
#[inline(always)]
fn rows<const R: usize>(
    tile: &Tile,
    input: &Quantized,
    first: usize,
) -> [(*const GroupCodes, *const GroupScale); R] {
    assert!(tile.codes.len() == input.groups && tile.scales.len() == input.groups);
    std::array::from_fn(|row| {
        (input.row_codes(first + row).as_ptr(), input.row_scales(first + row).as_ptr())
    })
}
