//! Unit rows in eight bits, and what their cosines can be at most.
//!
//! A row `u` is kept as `û = step · code` with the length of what that leaves out, `‖u − û‖`. With the
//! query `q` in eight bits too, Cauchy and Schwarz say
//! `⟨u, q⟩ ≤ ⟨û, q̂⟩ + ‖û‖ · ‖q − q̂‖ + ‖u − û‖ · ‖q‖`, and a margin covers how [`vector::dot`] rounds. So a
//! scan of a quarter of the bytes leaves out no row that an exact scan would find.

use crate::kernel::{self, GROUP, Level};
use crate::vector::{self, LANES};

/// Largest code.
const MOST: f32 = 127.0;
/// Longest row whose products fit 32 bits.
pub(crate) const MAX_DIM: usize = 1 << 15;
/// What is put on top of bounds for their own rounding: lengths and products are about 1, and a bound
/// takes fewer than ten operations in f32.
const OWN_ROUNDING: f32 = 2e-6;

/// Rows in eight bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codes {
    /// `[rows, stride]`, each code 128 more than it is.
    bytes: Vec<u8>,
    /// What a code of 1 is worth, `[rows]`.
    steps: Vec<f32>,
    /// Length of what the codes leave out, `[rows]`.
    rests: Vec<f32>,
}

/// A query in eight bits.
pub(crate) struct CodedQuery {
    codes: Vec<i8>,
    step: f32,
    /// What a row's rest is multiplied with.
    share_of_rest: f32,
    /// What is added for every row.
    margin: f32,
}

/// Bytes of a row.
pub(crate) fn stride(dim: usize) -> usize {
    dim.next_multiple_of(GROUP)
}

impl Codes {
    /// Makes room for this many rows, all zero.
    pub(crate) fn resize(&mut self, rows: usize, dim: usize) {
        self.bytes.resize(rows * stride(dim), 128);
        self.steps.resize(rows, 0.0);
        self.rests.resize(rows, 0.0);
    }

    /// * `unit`: `[dim]`
    pub(crate) fn set(&mut self, row: usize, unit: &[f32]) {
        let (step, rest, codes) = coded(unit);
        let bytes = &mut self.bytes[row * stride(unit.len())..][..unit.len()];
        for (byte, code) in bytes.iter_mut().zip(codes) {
            *byte = (i16::from(code) + 128) as u8;
        }
        self.steps[row] = step;
        self.rests[row] = rest;
    }

    /// What the cosine of each row can be at most.
    ///
    /// * `bounds`: `[rows]`, is overwritten
    pub(crate) fn bounds(&self, query: &CodedQuery, products: &mut [i32], bounds: &mut [f32]) {
        kernel::code_products(Level::best(), &self.bytes, &query.codes, products);
        let numbers = self.steps.iter().zip(&self.rests).zip(products);
        for (bound, ((step, rest), product)) in bounds.iter_mut().zip(numbers) {
            *bound = query.bound(*product, *step, *rest);
        }
    }

    /// As [`Codes::bounds`], of one row.
    pub(crate) fn bound(&self, query: &CodedQuery, row: usize) -> f32 {
        let mut product = [0];
        kernel::code_products(Level::best(), self.bytes_of(query, row), &query.codes, &mut product);
        query.bound(product[0], self.steps[row], self.rests[row])
    }

    /// Asks for a row that is soon looked at.
    pub(crate) fn prefetch(&self, query: &CodedQuery, row: usize) {
        kernel::prefetch(self.bytes_of(query, row));
        kernel::prefetch(&self.steps[row..=row]);
        kernel::prefetch(&self.rests[row..=row]);
    }

    fn bytes_of(&self, query: &CodedQuery, row: usize) -> &[u8] {
        let stride = query.codes.len();
        &self.bytes[row * stride..][..stride]
    }
}

impl CodedQuery {
    /// * `unit`: `[dim]`
    pub(crate) fn new(unit: &[f32]) -> Self {
        let (step, rest, mut codes) = coded(unit);
        codes.resize(stride(unit.len()), 0);
        let length = vector::norm(unit) as f32 * (1.0 + f32::EPSILON);
        // Each of the sixteen sums rounds at most this often, by half a unit of values under 1.
        let rounding = (unit.len() / LANES + 4) as f32 * f32::EPSILON;
        Self {
            codes,
            step,
            share_of_rest: length + rest,
            // Rows are of length 1, up to rounding.
            margin: rest * 1.000_01 + rounding + OWN_ROUNDING,
        }
    }

    fn bound(&self, product: i32, step: f32, rest: f32) -> f32 {
        product as f32 * (step * self.step) + (rest * self.share_of_rest + self.margin)
    }
}

/// Step, length of the rest, and codes.
fn coded(unit: &[f32]) -> (f32, f32, Vec<i8>) {
    let most = unit.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let step = most / MOST;
    if step == 0.0 {
        return (0.0, vector::norm(unit) as f32 * 1.000_01, vec![0; unit.len()]);
    }
    let mut rest = 0.0_f64;
    let mut codes = Vec::with_capacity(stride(unit.len()));
    for &value in unit {
        let code = (value / step).round().clamp(-MOST, MOST);
        let left = f64::from(value) - f64::from(step) * f64::from(code);
        rest += left * left;
        codes.push(code as i8);
    }
    (step, (rest.sqrt() * 1.000_001) as f32, codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn no_cosine_is_over_its_bound_and_bounds_are_near() {
        let mut chance = Seeded::new(7);
        for dim in [3, 64, 100, 576] {
            // A few large values make the steps coarse.
            let mut unit = || {
                let mut row: Vec<f32> = (0..dim).map(|_| chance.normal() as f32).collect();
                row[0] *= 9.0;
                let norm = vector::norm(&row) as f32;
                row.iter_mut().for_each(|value| *value /= norm);
                row
            };
            let (rows, count) = ((0..200).map(|_| unit()).collect::<Vec<_>>(), 200);
            let mut codes = Codes::default();
            codes.resize(count, dim);
            rows.iter().enumerate().for_each(|(row, unit)| codes.set(row, unit));
            // A query that is also a row meets its bound nearly.
            for unit in [unit(), rows[5].clone()] {
                let query = CodedQuery::new(&unit);
                let (mut products, mut bounds) = (vec![0; count], vec![0.0; count]);
                codes.bounds(&query, &mut products, &mut bounds);
                for (row, &bound) in bounds.iter().enumerate() {
                    let cosine = vector::cosine(&rows[row], &unit);
                    assert!(cosine <= bound, "dim {dim}, row {row}: {cosine} over {bound}");
                    assert!(bound - cosine < 0.13, "dim {dim}, row {row}: {cosine}, {bound}");
                    assert_eq!(codes.bound(&query, row), bound);
                }
            }
        }
    }
}
