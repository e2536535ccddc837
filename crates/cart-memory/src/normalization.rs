//! From raw hidden states to comparable directions.
//!
//! Raw hidden states of language models all point much the same way: a few large dimensions
//! dominate every cosine. So each memory carries a centre and a scale, and every cosine in this
//! crate is over `(x − centre) / scale`, brought to length 1.

use thiserror::Error;

use crate::fusion::Metric;
use crate::vector::{self, VectorError};

/// Standard deviations under this share of the largest count as constant dimensions.
const SMALLEST_SCALE: f64 = 1e-6;

/// Why a normalization can't be made.
#[derive(Debug, Error, PartialEq)]
pub enum NormalizationError {
    /// A vector has no dimensions.
    #[error("the centre is empty; a memory needs at least 1 dimension")]
    Empty,
    /// A vector can't be used.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// A scale divides, so it is positive.
    #[error("scale is {found} at index {index}; every scale must be over 0")]
    NotPositive {
        /// Where.
        index: usize,
        /// The value.
        found: f32,
    },
    /// A deviation needs at least two rows.
    #[error("{rows} rows of dimension {dim} were given to fit on; give at least 2 whole rows")]
    TooFewRows {
        /// Whole rows that were given.
        rows: usize,
        /// Their dimension.
        dim: usize,
    },
}

/// Centre and scale of a memory's raw keys, both `[dim]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    centre: Vec<f32>,
    scale: Vec<f32>,
    metric: Metric,
}

impl Normalization {
    /// Takes a centre and a scale, both `[dim]`.
    ///
    /// # Errors
    /// They are empty, differ in length, or hold values that are not finite or scales not over 0.
    pub fn new(centre: Vec<f32>, scale: Vec<f32>) -> Result<Self, NormalizationError> {
        if centre.is_empty() {
            return Err(NormalizationError::Empty);
        }
        vector::check("centre", &centre, centre.len())?;
        vector::check("scale", &scale, centre.len())?;
        match scale.iter().position(|&scale| scale <= 0.0) {
            Some(index) => Err(NormalizationError::NotPositive { index, found: scale[index] }),
            None => Ok(Self { centre, scale, metric: Metric::default() }),
        }
    }

    /// Centre 0 and scale 1: cosines over the raw vectors.
    ///
    /// # Errors
    /// `dim` is 0.
    pub fn identity(dim: usize) -> Result<Self, NormalizationError> {
        Self::new(vec![0.0; dim], vec![1.0; dim])
    }

    /// Mean and standard deviation of each dimension over sample rows.
    ///
    /// * `rows`: `[samples, dim]`, flat, at least 2 samples
    ///
    /// A dimension that does not vary gets the smallest scale that occurs elsewhere, or 1.
    ///
    /// # Errors
    /// `dim` is 0, there are fewer than 2 whole rows, or a value is not finite.
    pub fn fit(rows: &[f32], dim: usize) -> Result<Self, NormalizationError> {
        if dim == 0 {
            return Err(NormalizationError::Empty);
        }
        let samples = rows.len() / dim;
        if samples < 2 || !rows.len().is_multiple_of(dim) {
            return Err(NormalizationError::TooFewRows { rows: samples, dim });
        }
        vector::check("sample", rows, rows.len())?;
        let mean = column_means(rows, dim, |_, value| value);
        let variance = column_means(rows, dim, |column, value| {
            let delta = value - mean[column];
            delta * delta
        });
        let deviation: Vec<f64> = variance.iter().map(|variance| variance.sqrt()).collect();
        let centre = mean.iter().map(|&mean| mean as f32).collect();
        Self::new(centre, usable_scales(&deviation))
    }

    /// The same, for keys that are put together from parts.
    pub(crate) fn with_metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// How its units compare.
    pub(crate) fn metric(&self) -> &Metric {
        &self.metric
    }

    /// Number of values in a key.
    pub fn dim(&self) -> usize {
        self.centre.len()
    }

    /// What is subtracted, `[dim]`.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// What divides, `[dim]`.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Centre, then scale, as little-endian f32: what a memory space's digest covers.
    pub fn bytes(&self) -> Vec<u8> {
        self.centre.iter().chain(&self.scale).flat_map(|value| value.to_le_bytes()).collect()
    }

    /// `(raw − centre) / scale`, brought to length 1.
    ///
    /// # Errors
    /// The length is not `dim`, a value is not finite, or nothing is left after centring.
    pub fn unit(&self, what: &'static str, raw: &[f32]) -> Result<Vec<f32>, VectorError> {
        vector::check(what, raw, self.dim())?;
        self.unit_and_norm(what, 0, raw).map(|(unit, _norm)| unit)
    }

    /// The unit vector and the length it had. The row must have been checked before.
    pub(crate) fn unit_and_norm(
        &self,
        what: &'static str,
        row: usize,
        raw: &[f32],
    ) -> Result<(Vec<f32>, f32), VectorError> {
        if raw.iter().all(|&value| value == 0.0) {
            return Err(VectorError::Zero { what, row });
        }
        let mut centred: Vec<f64> = raw
            .iter()
            .zip(&self.centre)
            .zip(&self.scale)
            .map(|((&raw, &centre), &scale)| {
                (f64::from(raw) - f64::from(centre)) / f64::from(scale)
            })
            .collect();
        let norm = centred.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A length that f32 can't hold would not survive being stored.
        let stored = norm as f32;
        if stored.is_infinite() {
            return Err(VectorError::TooLong { what, row, found: norm });
        }
        if !stored.is_normal() {
            return Err(VectorError::Zero { what, row });
        }
        if !self.metric.is_whole() {
            self.metric.balance(&mut centred);
            return Ok((centred.iter().map(|&value| value as f32).collect(), stored));
        }
        Ok((centred.iter().map(|value| (value / norm) as f32).collect(), stored))
    }

    /// The raw vector that [`Normalization::unit`] came from: `unit · norm · scale + centre`.
    pub fn raw(&self, unit: &[f32], norm: f32) -> Vec<f32> {
        unit.iter()
            .zip(&self.centre)
            .zip(&self.scale)
            .map(|((&unit, &centre), &scale)| {
                (f64::from(unit) * f64::from(norm) * f64::from(scale) + f64::from(centre)) as f32
            })
            .collect()
    }
}

/// Mean over rows of `term(column, value)`, for each column.
fn column_means(rows: &[f32], dim: usize, term: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        for (column, (sum, &value)) in sums.iter_mut().zip(row).enumerate() {
            *sum += term(column, f64::from(value));
        }
    }
    let samples = (rows.len() / dim) as f64;
    sums.iter().map(|sum| sum / samples).collect()
}

/// Deviations as scales; constant dimensions get the smallest scale of the others.
fn usable_scales(deviation: &[f64]) -> Vec<f32> {
    let largest = deviation.iter().copied().fold(0.0, f64::max);
    let floor = (largest * SMALLEST_SCALE).max(f64::from(f32::MIN_POSITIVE));
    let smallest =
        deviation.iter().copied().filter(|&scale| scale > floor).fold(f64::INFINITY, f64::min);
    let constant = if smallest.is_finite() { smallest } else { 1.0 };
    deviation
        .iter()
        .map(|&scale| if scale > floor { scale as f32 } else { constant as f32 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_vector_is_centred_scaled_and_of_length_one() {
        let normalization = Normalization::new(vec![1.0, 2.0], vec![2.0, 0.5]).unwrap();
        // (7 − 1) / 2 = 3 and (4 − 2) / 0.5 = 4, so the length is 5.
        let (unit, norm) = normalization.unit_and_norm("key", 0, &[7.0, 4.0]).unwrap();
        assert_eq!((unit.as_slice(), norm), ([0.6, 0.8].as_slice(), 5.0));
        assert_eq!(normalization.raw(&unit, norm), [7.0, 4.0]);
    }

    #[test]
    fn a_fit_takes_mean_and_deviation_and_survives_a_constant_dimension() {
        let fitted = Normalization::fit(&[1.0, 5.0, 10.0, 3.0, 5.0, 30.0], 3).unwrap();
        assert_eq!(fitted.centre(), [2.0, 5.0, 20.0]);
        assert_eq!(fitted.scale(), [1.0, 1.0, 10.0]);
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        let normalization = Normalization::new(vec![1.0, 2.0], vec![1.0, 1.0]).unwrap();
        let zero = Err(VectorError::Zero { what: "key", row: 0 });
        assert_eq!(normalization.unit("key", &[1.0, 2.0]), zero);
        assert_eq!(normalization.unit("key", &[0.0, 0.0]), zero);
    }

    #[test]
    fn impossible_normalizations_are_refused() {
        use NormalizationError as E;
        assert_eq!(Normalization::new(vec![], vec![]), Err(E::Empty));
        assert!(matches!(Normalization::new(vec![0.0], vec![]), Err(E::Vector(_))));
        assert!(matches!(Normalization::new(vec![f32::NAN], vec![1.0]), Err(E::Vector(_))));
        assert_eq!(
            Normalization::new(vec![0.0, 0.0], vec![1.0, 0.0]),
            Err(E::NotPositive { index: 1, found: 0.0 })
        );
        assert_eq!(Normalization::fit(&[1.0, 2.0], 2), Err(E::TooFewRows { rows: 1, dim: 2 }));
        assert_eq!(Normalization::fit(&[1.0; 5], 2), Err(E::TooFewRows { rows: 2, dim: 2 }));
    }
}
