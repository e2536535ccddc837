//! The products in plain Rust.

use super::{PLANES, SketchSums, TOGETHER};
use crate::vector;

pub(super) fn dots(rows: &[f32], query: &[f32], products: &mut [f32]) {
    for (row, product) in rows.chunks_exact(query.len()).zip(products) {
        *product = vector::dot(row, query);
    }
}

#[inline(always)]
pub(super) fn code_products(rows: &[u8], query: &[i8], products: &mut [i32]) {
    for (row, product) in rows.chunks_exact(query.len()).zip(products) {
        let mut sum = 0_i32;
        for (&code, &value) in row.iter().zip(query) {
            sum += (i32::from(code) - 128) * i32::from(value);
        }
        *product = sum;
    }
}

#[inline(always)]
pub(super) fn sketch_sums(task: SketchSums<'_>) {
    let groups = task.bits.chunks_exact(task.query.len());
    for (group, (sums, counts)) in groups.zip(task.sums.iter_mut().zip(task.counts)) {
        let (mut under, mut all) = ([[0_u64; TOGETHER]; PLANES], [0_u64; TOGETHER]);
        for (words, planes) in group.iter().zip(task.query) {
            for row in 0..TOGETHER {
                all[row] += u64::from(words[row].count_ones());
            }
            for plane in 0..PLANES {
                for row in 0..TOGETHER {
                    under[plane][row] += u64::from((words[row] & planes[plane]).count_ones());
                }
            }
        }
        let [ones, twos, fours, eights] = under;
        for row in 0..TOGETHER {
            sums[row] = ones[row] + 2 * twos[row] + 4 * fours[row] + 8 * eights[row];
        }
        *counts = all;
    }
}
