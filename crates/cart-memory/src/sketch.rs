//! Unit rows in one bit a value, and what their cosines are about.
//!
//! A row is turned by a fixed rotation and keeps the signs of its values (Gao and Long, "RaBitQ", 2024).
//! With `r` the turned row, `s` its signs and `q` the turned query, `⟨s, q⟩ / Σ|r|` estimates `⟨r, q⟩`; its
//! deviation is `√((1 − c²) / c²) / √(width − 1)` with `c = Σ|r| / √width`, about 0.75 / √width. The query is
//! taken in four bits, and everything is whole numbers up to the last step.
//!
//! A sketch depends on its row and on nothing else, so what is found by it does not depend on how a
//! memory came to hold what it holds.

use crate::kernel::{self, GROUP, Level, PLANES, SketchSums, TOGETHER};
use crate::seeded::Seeded;

/// Deviations that a row may be better than its estimate without being missed: one in 44 of the rows
/// that belong to the answer is further off.
const DEVIATIONS: f64 = 2.0;
/// Rounds of the rotation.
const ROUNDS: usize = 3;
/// Seed of its signs: any number would do, but always the same.
const SIGNS: u64 = 0;

/// Rows in one bit a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sketches {
    /// `[groups, words, 8]`: rows in groups of eight.
    bits: Vec<[u64; TOGETHER]>,
    /// `1 / Σ|r|`, `[rows]`.
    gains: Vec<f32>,
    /// How much more than its estimate a cosine is taken to be, `[rows]`.
    margins: Vec<f32>,
}

/// A query in four bits a value.
pub(crate) struct SketchedQuery {
    /// `[words, 4]`.
    planes: Vec<[u64; PLANES]>,
    step: f32,
    /// `7.5 · width − Σ level`.
    shift: f32,
}

/// Scratch space of [`Sketches::bounds`].
#[derive(Default)]
pub(crate) struct Sums {
    sums: Vec<[u64; TOGETHER]>,
    counts: Vec<[u64; TOGETHER]>,
}

impl Sketches {
    /// Makes room for this many rows, all zero.
    pub(crate) fn resize(&mut self, rows: usize, dim: usize) {
        let words = dim.div_ceil(GROUP);
        self.bits.resize(rows.div_ceil(TOGETHER) * words, [0; TOGETHER]);
        self.gains.resize(rows, 0.0);
        self.margins.resize(rows, 0.0);
    }

    /// * `unit`: `[dim]`
    pub(crate) fn set(&mut self, row: usize, unit: &[f32]) {
        let turned = turned(unit);
        let words = turned.len() / GROUP;
        let (group, place) = (row / TOGETHER, row % TOGETHER);
        for (word, values) in turned.chunks_exact(GROUP).enumerate() {
            let mut bits = 0;
            for (bit, value) in values.iter().enumerate() {
                bits |= u64::from(*value >= 0.0) << bit;
            }
            self.bits[group * words + word][place] = bits;
        }
        let sum: f64 = turned.iter().map(|value| f64::from(value.abs())).sum();
        let width = turned.len() as f64;
        let agreement = (sum * sum / width).clamp(1e-6, 1.0);
        let deviation = ((1.0 - agreement) / (agreement * (width - 1.0))).sqrt();
        self.gains[row] = if sum > 0.0 { (1.0 / sum) as f32 } else { 0.0 };
        self.margins[row] = (DEVIATIONS * deviation) as f32;
    }

    /// What the cosine of each row is taken to be at most.
    ///
    /// * `bounds`: `[rows]`, is overwritten
    pub(crate) fn bounds(&self, query: &SketchedQuery, sums: &mut Sums, bounds: &mut [f32]) {
        let groups = self.bits.len() / query.planes.len();
        sums.sums.resize(groups, [0; TOGETHER]);
        sums.counts.resize(groups, [0; TOGETHER]);
        let Sums { sums, counts } = sums;
        let task = SketchSums { bits: &self.bits, query: &query.planes, sums, counts };
        kernel::sketch_sums(Level::best(), task);
        let sums = sums.as_flattened().iter().zip(counts.as_flattened());
        let rows = self.gains.iter().zip(&self.margins).zip(sums);
        for (bound, ((gain, margin), (&sum, &count))) in bounds.iter_mut().zip(rows) {
            let levels = (2 * sum as i64 - 15 * count as i64) as f32 + query.shift;
            *bound = gain * (query.step * levels) + margin;
        }
    }
}

impl SketchedQuery {
    /// * `unit`: `[dim]`
    pub(crate) fn new(unit: &[f32]) -> Self {
        let turned = turned(unit);
        let most = turned.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        let step = most / 7.5;
        let mut planes = vec![[0; PLANES]; turned.len() / GROUP];
        let mut sum = 0_u64;
        for (index, value) in turned.iter().enumerate() {
            let level = (value / step + 7.5).round().clamp(0.0, 15.0) as u64;
            sum += level;
            for (plane, word) in planes[index / GROUP].iter_mut().enumerate() {
                *word |= (level >> plane & 1) << (index % GROUP);
            }
        }
        Self { planes, step, shift: 7.5 * turned.len() as f32 - sum as f32 }
    }
}

/// The row turned: signs flipped by a fixed pattern, each 64 values through a Hadamard transform, values
/// of all groups dealt out to all groups; three times.
///
/// * returns `[dim, padded with zeros to whole groups]`, as long as the row
fn turned(unit: &[f32]) -> Vec<f32> {
    let mut values = unit.to_vec();
    values.resize(unit.len().next_multiple_of(GROUP), 0.0);
    let groups = values.len() / GROUP;
    let mut dealt = vec![0.0; values.len()];
    let mut signs = Seeded::new(SIGNS);
    for _ in 0..ROUNDS {
        for (group, values) in values.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            flip(values, signs.next_u64());
            hadamard(values);
            for (index, value) in values.iter().enumerate() {
                dealt[index * groups + group] = *value;
            }
        }
        values.copy_from_slice(&dealt);
    }
    values
}

fn flip(values: &mut [f32; GROUP], pattern: u64) {
    for (index, value) in values.iter_mut().enumerate() {
        *value = if pattern >> index & 1 == 1 { -*value } else { *value };
    }
}

/// Each value becomes a signed sum of all 64, divided by √64.
fn hadamard(values: &mut [f32; GROUP]) {
    let mut half = 1;
    while half < GROUP {
        for pair in values.chunks_exact_mut(2 * half) {
            let (first, second) = pair.split_at_mut(half);
            for (a, b) in first.iter_mut().zip(second) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    values.iter_mut().for_each(|value| *value *= 0.125);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector;

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let mut chance = Seeded::new(3);
        for dim in [1, 64, 100, 576] {
            let mut row = || -> Vec<f32> { (0..dim).map(|_| chance.normal() as f32).collect() };
            let (a, b) = (row(), row());
            let near = |x: f32, y: f32| (x - y).abs() < 1e-4 * dim as f32;
            assert!(near(vector::dot(&a, &b), vector::dot(&turned(&a), &turned(&b))), "dim {dim}");
            assert!(near(vector::dot(&a, &a), vector::dot(&turned(&a), &turned(&a))), "dim {dim}");
        }
        // A vector of one value is spread over all of them.
        let mut one = vec![0.0; 576];
        one[7] = 1.0;
        assert!(turned(&one).iter().all(|value| value.abs() < 0.2), "{:?}", turned(&one));
    }

    #[test]
    fn few_cosines_are_over_what_they_are_taken_to_be_at_most() {
        let mut chance = Seeded::new(11);
        let (dim, count) = (256, 2000);
        let mut unit = |near: Option<&[f32]>| {
            let mut row: Vec<f32> = (0..dim).map(|_| chance.normal() as f32 / 16.0).collect();
            if let Some(near) = near {
                row.iter_mut().zip(near).for_each(|(value, near)| *value = 0.8 * *value + near);
            }
            let norm = vector::norm(&row) as f32;
            row.iter_mut().for_each(|value| *value /= norm);
            row
        };
        let query = unit(None);
        let rows: Vec<Vec<f32>> =
            (0..count).map(|row| unit((row % 2 == 0).then_some(&query))).collect();
        let mut sketches = Sketches::default();
        sketches.resize(count, dim);
        rows.iter().enumerate().for_each(|(row, unit)| sketches.set(row, unit));
        let mut bounds = vec![0.0; count];
        sketches.bounds(&SketchedQuery::new(&query), &mut Sums::default(), &mut bounds);
        let over = rows.iter().zip(&bounds).filter(|(row, bound)| {
            let cosine = vector::cosine(row, &query);
            assert!(**bound - cosine < 0.35, "{cosine}, {bound}");
            cosine > **bound
        });
        let over = over.count();
        assert!((1..=40).contains(&over), "{over} of {count} are over");
    }
}
