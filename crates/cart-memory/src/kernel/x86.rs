//! The products with AVX2 and AVX-512.
//!
//! Floats keep the sixteen sums of [`dot`](crate::vector::dot), in one register or two.

use std::arch::x86_64::{
    __m512i, _mm256_add_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_add_epi64, _mm512_add_ps, _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_popcnt_epi64, _mm512_reduce_add_epi32,
    _mm512_set1_epi64, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::{GROUP, PLANES, SketchSums, TOGETHER, portable};
use crate::vector::LANES;

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn dots_avx512(rows: &[f32], query: &[f32], products: &mut [f32]) {
    // One after the other: memory is read fastest from first to last, and the next row's products are
    // on their way before this one's are added up.
    for (row, product) in rows.chunks_exact(query.len()).zip(products) {
        *product = dot_avx512(row, query);
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dot_avx512(row: &[f32], query: &[f32]) -> f32 {
    let (row_chunks, row_rest) = row.as_chunks::<LANES>();
    let (query_chunks, query_rest) = query.as_chunks::<LANES>();
    let mut sums = _mm512_setzero_ps();
    for (values, others) in row_chunks.iter().zip(query_chunks) {
        // SAFETY: both are arrays of sixteen values.
        let (values, others) =
            unsafe { (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(others.as_ptr())) };
        sums = _mm512_add_ps(sums, _mm512_mul_ps(values, others));
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: it is an array of sixteen values.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
    added_up(lanes, row_rest, query_rest)
}

#[target_feature(enable = "avx2")]
pub(super) fn dots_avx2(rows: &[f32], query: &[f32], products: &mut [f32]) {
    // One after the other: memory is read fastest from first to last, and the next row's products are
    // on their way before this one's are added up.
    for (row, product) in rows.chunks_exact(query.len()).zip(products) {
        *product = dot_avx2(row, query);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot_avx2(row: &[f32], query: &[f32]) -> f32 {
    let (row_halves, _) = row.as_chunks::<8>();
    let (query_halves, _) = query.as_chunks::<8>();
    let whole = row.len() / LANES * 2;
    let mut sums = [_mm256_setzero_ps(); 2];
    let halves = row_halves[..whole].iter().zip(&query_halves[..whole]);
    for (half, (values, others)) in halves.enumerate() {
        // SAFETY: both are arrays of eight values.
        let (values, others) =
            unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(others.as_ptr())) };
        sums[half % 2] = _mm256_add_ps(sums[half % 2], _mm256_mul_ps(values, others));
    }
    let mut lanes = [0.0_f32; LANES];
    for (lanes, sums) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
        // SAFETY: it is an array of eight values.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
    }
    added_up(lanes, &row[whole * 8..], &query[whole * 8..])
}

/// The last values taken in, then the sums in the order of their lanes, in f64.
#[inline(always)]
fn added_up(mut lanes: [f32; LANES], row_rest: &[f32], query_rest: &[f32]) -> f32 {
    for (lane, (value, other)) in lanes.iter_mut().zip(row_rest.iter().zip(query_rest)) {
        *lane += value * other;
    }
    let mut sum = 0.0_f64;
    for lane in lanes {
        sum += f64::from(lane);
    }
    sum as f32
}

#[target_feature(enable = "avx2")]
pub(super) fn code_products_avx2(rows: &[u8], query: &[i8], products: &mut [i32]) {
    portable::code_products(rows, query, products);
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn code_products_avx512(rows: &[u8], query: &[i8], products: &mut [i32]) {
    let (query_groups, _) = query.as_chunks::<GROUP>();
    let mut surplus = 0_i32;
    for &value in query {
        surplus += 128 * i32::from(value);
    }
    for (row, product) in rows.chunks_exact(query.len()).zip(products) {
        let (row_groups, _) = row.as_chunks::<GROUP>();
        let mut sums = _mm512_setzero_si512();
        for (codes, values) in row_groups.iter().zip(query_groups) {
            // SAFETY: both are arrays of 64 bytes.
            let (codes, values) = unsafe {
                (
                    _mm512_loadu_si512(codes.as_ptr().cast()),
                    _mm512_loadu_si512(values.as_ptr().cast()),
                )
            };
            sums = _mm512_dpbusd_epi32(sums, codes, values);
        }
        *product = _mm512_reduce_add_epi32(sums) - surplus;
    }
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn sketch_sums_avx2(task: SketchSums<'_>) {
    portable::sketch_sums(task);
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
pub(super) fn sketch_sums_avx512(task: SketchSums<'_>) {
    let groups = task.bits.chunks_exact(task.query.len());
    for (group, (sums, counts)) in groups.zip(task.sums.iter_mut().zip(task.counts)) {
        let (mut under, mut all) = ([_mm512_setzero_si512(); PLANES], _mm512_setzero_si512());
        for (words, planes) in group.iter().zip(task.query) {
            // SAFETY: it is an array of 64 bytes.
            let words: __m512i = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
            all = _mm512_add_epi64(all, _mm512_popcnt_epi64(words));
            for plane in 0..PLANES {
                let of_query = _mm512_set1_epi64(planes[plane] as i64);
                let both = _mm512_and_si512(words, of_query);
                under[plane] = _mm512_add_epi64(under[plane], _mm512_popcnt_epi64(both));
            }
        }
        let mut sum = under[0];
        sum = _mm512_add_epi64(sum, _mm512_slli_epi64::<1>(under[1]));
        sum = _mm512_add_epi64(sum, _mm512_slli_epi64::<2>(under[2]));
        sum = _mm512_add_epi64(sum, _mm512_slli_epi64::<3>(under[3]));
        store(sums, sum);
        store(counts, all);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(into: &mut [u64; TOGETHER], values: __m512i) {
    // SAFETY: it is an array of 64 bytes.
    unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast(), values) };
}
