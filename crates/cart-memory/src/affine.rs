//! An affine map between two vector spaces, fitted by ridge regression.

use thiserror::Error;

/// Pairs of vectors that mean the same in two spaces.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    from_dim: usize,
    to_dim: usize,
    from: Vec<f32>,
    to: Vec<f32>,
}

/// Why no map was fitted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AffineError {
    /// Too little to fit on.
    #[error("{found} pairs of vectors were given to fit an affine map on; give at least 2")]
    TooFew {
        /// Pairs.
        found: usize,
    },
    /// The equations have no solution within the numbers' range.
    #[error("the affine map can't be fitted: its equations are singular; give more anchors")]
    Singular,
}

/// `y = W x + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineMap {
    from_dim: usize,
    to_dim: usize,
    /// `[from_dim, to_dim]`, flat.
    weights: Vec<f64>,
    /// `[to_dim]`.
    offset: Vec<f64>,
}

impl Pairs {
    /// No pairs.
    ///
    /// * `from_dim`, `to_dim`: values of a vector on either side
    pub fn new(from_dim: usize, to_dim: usize) -> Self {
        Self { from_dim, to_dim, from: Vec::new(), to: Vec::new() }
    }

    /// One more pair.
    ///
    /// * `from`: `[from_dim]`, `to`: `[to_dim]`
    pub fn push(&mut self, from: &[f32], to: &[f32]) {
        debug_assert_eq!((from.len(), to.len()), (self.from_dim, self.to_dim), "whole vectors");
        self.from.extend_from_slice(from);
        self.to.extend_from_slice(to);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.from.len() / self.from_dim.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    fn rows(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.from.chunks_exact(self.from_dim).zip(self.to.chunks_exact(self.to_dim))
    }
}

/// Sums over pairs, from which a map follows for every strength of the ridge.
#[derive(Clone, Debug)]
pub struct Regression {
    pairs: usize,
    /// `Σ w`.
    weight: f64,
    /// `Σ w x`, `[from_dim]`.
    from_sum: Vec<f64>,
    /// `Σ w y`, `[to_dim]`.
    to_sum: Vec<f64>,
    /// `Σ w x xᵀ`, `[from_dim, from_dim]`, flat; the upper half.
    gram: Vec<f64>,
    /// `Σ w x yᵀ`, `[from_dim, to_dim]`, flat.
    cross: Vec<f64>,
}

impl Regression {
    /// Sums up, each pair with weight 1.
    pub fn of(pairs: &Pairs) -> Self {
        let (from_dim, to_dim) = (pairs.from_dim, pairs.to_dim);
        let mut sums = Self {
            pairs: pairs.len(),
            weight: pairs.len() as f64,
            from_sum: vec![0.0; from_dim],
            to_sum: vec![0.0; to_dim],
            gram: vec![0.0; from_dim * from_dim],
            cross: vec![0.0; from_dim * to_dim],
        };
        for (from, to) in pairs.rows() {
            let [x, y] =
                [from, to].map(|row| row.iter().copied().map(f64::from).collect::<Vec<_>>());
            add(&mut sums.from_sum, 1.0, &x);
            add(&mut sums.to_sum, 1.0, &y);
            for (row, &value) in x.iter().enumerate() {
                add(&mut sums.gram[row * from_dim + row..(row + 1) * from_dim], value, &x[row..]);
                add(&mut sums.cross[row * to_dim..][..to_dim], value, &y);
            }
        }
        sums
    }

    /// Pairs in them, each counted once.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// These sums and others of the same dimensions, each of whose pairs counts `weight` times.
    #[must_use]
    pub fn plus(&self, other: &Self, weight: f64) -> Self {
        let mut sums = self.clone();
        sums.pairs += other.pairs;
        sums.weight += weight * other.weight;
        add(&mut sums.from_sum, weight, &other.from_sum);
        add(&mut sums.to_sum, weight, &other.to_sum);
        add(&mut sums.gram, weight, &other.gram);
        add(&mut sums.cross, weight, &other.cross);
        sums
    }

    /// The map with the least `Σ w |W x + b − y|² + λ · s · |W|²`, where `s` is the mean of the values'
    /// summed squares about their means, so that λ means the same whatever the pairs.
    ///
    /// Hoerl and Kennard, *Ridge regression: biased estimation for nonorthogonal problems* (1970), by a
    /// Cholesky decomposition of the normal equations.
    ///
    /// # Errors
    /// There are fewer than two pairs, or the equations are singular.
    pub fn ridge(&self, lambda: f64) -> Result<AffineMap, AffineError> {
        if self.pairs < 2 {
            return Err(AffineError::TooFew { found: self.pairs });
        }
        let (from_dim, to_dim) = (self.from_sum.len(), self.to_sum.len());
        let mean = |sums: &[f64]| sums.iter().map(|sum| sum / self.weight).collect::<Vec<_>>();
        let (from_mean, to_mean) = (mean(&self.from_sum), mean(&self.to_sum));
        let (mut gram, mut weights) = (self.gram.clone(), self.cross.clone());
        for (row, &sum) in self.from_sum.iter().enumerate() {
            add(&mut gram[row * from_dim..][..from_dim], -sum, &from_mean);
            add(&mut weights[row * to_dim..][..to_dim], -sum, &to_mean);
        }
        let trace: f64 = (0..from_dim).map(|row| gram[row * (from_dim + 1)]).sum();
        let added = lambda * trace / from_dim as f64;
        (0..from_dim).for_each(|row| gram[row * (from_dim + 1)] += added);
        solve(&mut gram, from_dim, &mut weights).ok_or(AffineError::Singular)?;
        let mut offset = to_mean;
        for (row, &mean) in from_mean.iter().enumerate() {
            add(&mut offset, -mean, &weights[row * to_dim..][..to_dim]);
        }
        Ok(AffineMap { from_dim, to_dim, weights, offset })
    }
}

impl AffineMap {
    /// `W x + b`, `[to_dim]`.
    ///
    /// * `from`: `[from_dim]`
    pub fn apply(&self, from: &[f32]) -> Vec<f32> {
        debug_assert_eq!(from.len(), self.from_dim, "a vector of the space that it maps from");
        let mut to = self.offset.clone();
        for (&value, row) in from.iter().zip(self.weights.chunks_exact(self.to_dim)) {
            add(&mut to, f64::from(value), row);
        }
        to.into_iter().map(|value| value as f32).collect()
    }

    /// The share of the variance of the second vectors that the map explains, all values together:
    /// `1 − Σ |W x + b − y|² / Σ |y − ȳ|²`. At most 1, and under 0 where the mean would do better.
    pub fn explained(&self, pairs: &Pairs) -> f64 {
        let mean = mean(&pairs.to, pairs.to_dim);
        let (mut missed, mut whole) = (0.0, 0.0);
        for (from, to) in pairs.rows() {
            let mapped = self.apply(from);
            for ((&to, &mapped), &mean) in to.iter().zip(&mapped).zip(&mean) {
                missed += (f64::from(to) - f64::from(mapped)).powi(2);
                whole += (f64::from(to) - mean).powi(2);
            }
        }
        if whole > 0.0 { 1.0 - missed / whole } else { 0.0 }
    }
}

/// Solves `A X = B` in place, for a positive definite `A`; none where it is not.
///
/// * `a`: `[n, n]`, flat, of which the upper half is read
/// * `b`: `[n, columns]`, flat; then `X`
pub(crate) fn solve(a: &mut [f64], n: usize, b: &mut [f64]) -> Option<()> {
    let columns = b.len() / n;
    // A = Rᵀ R, row by row of the upper triangle.
    for pivot in 0..n {
        let diagonal = a[pivot * n + pivot];
        if !(diagonal.is_finite() && diagonal > 0.0) {
            return None;
        }
        let root = diagonal.sqrt();
        a[pivot * n + pivot..(pivot + 1) * n].iter_mut().for_each(|value| *value /= root);
        let (done, rest) = a.split_at_mut((pivot + 1) * n);
        let row = &done[pivot * n..];
        for (below, target) in rest.chunks_exact_mut(n).enumerate() {
            let column = pivot + 1 + below;
            add(&mut target[column..], -row[column], &row[column..]);
        }
    }
    // Rᵀ Z = B, then R X = Z.
    for row in 0..n {
        let (done, rest) = b.split_at_mut((row + 1) * columns);
        let solved = &mut done[row * columns..];
        solved.iter_mut().for_each(|value| *value /= a[row * n + row]);
        for (below, target) in rest.chunks_exact_mut(columns).enumerate() {
            add(target, -a[row * n + row + 1 + below], solved);
        }
    }
    for row in (0..n).rev() {
        let (left, done) = b.split_at_mut((row + 1) * columns);
        let target = &mut left[row * columns..];
        for (beyond, solved) in done.chunks_exact(columns).enumerate() {
            add(target, -a[row * n + row + 1 + beyond], solved);
        }
        target.iter_mut().for_each(|value| *value /= a[row * n + row]);
    }
    Some(())
}

fn add(target: &mut [f64], factor: f64, values: &[f64]) {
    for (target, &value) in target.iter_mut().zip(values) {
        *target += factor * value;
    }
}

fn mean(rows: &[f32], dim: usize) -> Vec<f64> {
    let mut sums = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let count = (rows.len() / dim.max(1)).max(1) as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    /// `y = W x + b` for a W of 3 × 4 by hand, with noise.
    fn pairs(count: usize, noise: f64, seed: u64) -> Pairs {
        let mut chance = Seeded::new(seed);
        let mut pairs = Pairs::new(3, 4);
        for _ in 0..count {
            let x = [0; 3].map(|_| chance.normal());
            let y =
                [2.0 * x[0] - x[1] + 5.0, x[2] - 1.0, 0.5 * x[0] + 0.25 * x[1] - 3.0 * x[2], 7.0];
            let y = y.map(|value| (value + noise * chance.normal()) as f32);
            pairs.push(&x.map(|value| value as f32), &y);
        }
        pairs
    }

    #[test]
    fn a_map_that_is_there_is_found() {
        let map = Regression::of(&pairs(40, 0.0, 1)).ridge(1e-9).unwrap();
        let mapped = map.apply(&[1.0, 2.0, -1.0]);
        let expected = [5.0, -2.0, 4.0, 7.0];
        for (found, expected) in mapped.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{mapped:?}");
        }
        assert!(map.explained(&pairs(20, 0.0, 2)) > 0.999_999);
    }

    #[test]
    fn a_stronger_ridge_keeps_the_mean_alone() {
        let noisy = pairs(40, 0.1, 1);
        let sums = Regression::of(&noisy);
        let [weak, strong] = [1e-3, 1e9].map(|lambda| sums.ridge(lambda).unwrap());
        let fresh = pairs(40, 0.1, 2);
        assert!(weak.explained(&fresh) > 0.98, "{}", weak.explained(&fresh));
        assert!(strong.explained(&noisy).abs() < 1e-6, "{}", strong.explained(&noisy));
    }

    #[test]
    fn a_weight_counts_a_pair_that_often() {
        let (some, others) = (pairs(20, 0.1, 1), pairs(5, 0.1, 2));
        let thrice = [&some, &others, &others, &others].into_iter().fold(
            Pairs::new(3, 4),
            |mut all, part| {
                part.rows().for_each(|(from, to)| all.push(from, to));
                all
            },
        );
        let weighed = Regression::of(&some).plus(&Regression::of(&others), 3.0).ridge(0.1).unwrap();
        let counted = Regression::of(&thrice).ridge(0.1).unwrap();
        for (weighed, counted) in weighed.weights.iter().zip(&counted.weights) {
            assert!((weighed - counted).abs() < 1e-9, "{weighed} {counted}");
        }
    }

    #[test]
    fn too_little_is_refused() {
        assert_eq!(
            Regression::of(&pairs(1, 0.0, 1)).ridge(0.1).unwrap_err(),
            AffineError::TooFew { found: 1 }
        );
        // Without a ridge, fewer pairs than values leave directions open.
        let few = Regression::of(&pairs(2, 0.0, 1));
        assert_eq!(few.ridge(0.0).unwrap_err(), AffineError::Singular);
        assert!(few.ridge(1e-3).is_ok());
    }
}
