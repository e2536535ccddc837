//! The products with AVX2 and AVX-512.
//!
//! Floats keep the sixteen sums of [`dot`](crate::vector::dot): one register or two for a row, and several
//! rows at once, so that no addition waits for another.

use std::arch::x86_64::{
    __m256, __m512, __m512i, _mm256_add_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_add_epi64, _mm512_add_ps, _mm512_and_si512, _mm512_dpbusd_epi32,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_popcnt_epi64,
    _mm512_reduce_add_epi32, _mm512_set1_epi64, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_slli_epi64, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::{GROUP, PLANES, SketchSums, TOGETHER, portable};
use crate::vector::LANES;

/// Rows at once: four additions are on their way while one is done.
const AT_ONCE: usize = 4;

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn dots_avx512(rows: &[f32], query: &[f32], products: &mut [f32]) {
    let dim = query.len();
    let (blocks, rest) = products.as_chunks_mut::<AT_ONCE>();
    let mut start = 0;
    for block in blocks {
        *block = at_once_avx512(&rows[start..][..AT_ONCE * dim], query);
        start += AT_ONCE * dim;
    }
    for product in rest {
        *product = at_once_avx512::<1>(&rows[start..][..dim], query)[0];
        start += dim;
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn at_once_avx512<const ROWS: usize>(rows: &[f32], query: &[f32]) -> [f32; ROWS] {
    let dim = query.len();
    assert_eq!(rows.len(), ROWS * dim, "rows are whole");
    let whole = dim - dim % LANES;
    let mut sums: [__m512; ROWS] = [_mm512_setzero_ps(); ROWS];
    let mut at = 0;
    while at < whole {
        // SAFETY: sixteen values from `at` on are in the query and in each row, which are `dim` long.
        unsafe {
            let values = _mm512_loadu_ps(query.as_ptr().add(at));
            for row in 0..ROWS {
                let of_row = _mm512_loadu_ps(rows.as_ptr().add(row * dim + at));
                sums[row] = _mm512_add_ps(sums[row], _mm512_mul_ps(of_row, values));
            }
        }
        at += LANES;
    }
    if whole < dim {
        let mask = (1_u16 << (dim - whole)) - 1;
        // SAFETY: the mask leaves the values before the end of the query and of each row.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask, query.as_ptr().add(whole));
            for row in 0..ROWS {
                let of_row = _mm512_maskz_loadu_ps(mask, rows.as_ptr().add(row * dim + whole));
                sums[row] = _mm512_add_ps(sums[row], _mm512_mul_ps(of_row, values));
            }
        }
    }
    let mut lanes = [[0.0; LANES]; ROWS];
    for row in 0..ROWS {
        // SAFETY: the lanes of a row are sixteen values.
        unsafe { _mm512_storeu_ps(lanes[row].as_mut_ptr(), sums[row]) };
    }
    added_up(&lanes)
}

#[target_feature(enable = "avx2")]
pub(super) fn dots_avx2(rows: &[f32], query: &[f32], products: &mut [f32]) {
    let dim = query.len();
    let (blocks, rest) = products.as_chunks_mut::<AT_ONCE>();
    let mut start = 0;
    for block in blocks {
        *block = at_once_avx2(&rows[start..][..AT_ONCE * dim], query);
        start += AT_ONCE * dim;
    }
    for product in rest {
        *product = at_once_avx2::<1>(&rows[start..][..dim], query)[0];
        start += dim;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn at_once_avx2<const ROWS: usize>(rows: &[f32], query: &[f32]) -> [f32; ROWS] {
    let dim = query.len();
    assert_eq!(rows.len(), ROWS * dim, "rows are whole");
    let whole = dim - dim % LANES;
    let mut sums: [[__m256; 2]; ROWS] = [[_mm256_setzero_ps(); 2]; ROWS];
    let mut at = 0;
    while at < whole {
        for half in 0..2 {
            // SAFETY: sixteen values from `at` on are in the query and in each row, which are `dim` long.
            unsafe {
                let values = _mm256_loadu_ps(query.as_ptr().add(at + 8 * half));
                for row in 0..ROWS {
                    let of_row = _mm256_loadu_ps(rows.as_ptr().add(row * dim + at + 8 * half));
                    sums[row][half] = _mm256_add_ps(sums[row][half], _mm256_mul_ps(of_row, values));
                }
            }
        }
        at += LANES;
    }
    let mut lanes = [[0.0_f32; LANES]; ROWS];
    for row in 0..ROWS {
        for half in 0..2 {
            // SAFETY: the lanes of a row are twice eight values.
            unsafe { _mm256_storeu_ps(lanes[row].as_mut_ptr().add(8 * half), sums[row][half]) };
        }
        for (lane, value) in query[whole..].iter().enumerate() {
            lanes[row][lane] += rows[row * dim + whole + lane] * value;
        }
    }
    added_up(&lanes)
}

/// The sums of each row in the order of its lanes, in f64.
#[inline(always)]
fn added_up<const ROWS: usize>(lanes: &[[f32; LANES]; ROWS]) -> [f32; ROWS] {
    let mut sums = [0.0_f64; ROWS];
    for lane in 0..LANES {
        for row in 0..ROWS {
            sums[row] += f64::from(lanes[row][lane]);
        }
    }
    let mut products = [0.0; ROWS];
    for row in 0..ROWS {
        products[row] = sums[row] as f32;
    }
    products
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
