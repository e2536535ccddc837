//! Arithmetic on vectors: checks, the one dot product, and rounding to half precision.
//!
//! Reductions run in one fixed order with separate multiplications and additions, so that every
//! machine gets the same bits.

use half::f16;
use thiserror::Error;

/// Partial sums of [`dot`]. Fixed, because the number of partial sums decides how it rounds.
pub(crate) const LANES: usize = 16;

/// Why a vector can't be used.
#[derive(Debug, Error, PartialEq)]
pub enum VectorError {
    /// Another number of values than the memory's dimension asks for.
    #[error(
        "{what} has {found} values, expected {expected}; use vectors of the model and the layer that this memory belongs to"
    )]
    Dimension {
        /// Which vector.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits.
        expected: usize,
    },
    /// A NaN or an infinite value.
    #[error("{what} has {found} at index {index}; every value must be finite")]
    NotFinite {
        /// Which vector.
        what: &'static str,
        /// Where, over all rows where there are several.
        index: usize,
        /// The value.
        found: f32,
    },
    /// Nothing but zeros, raw or after centring: it has no direction.
    #[error("{what} (row {row}) is zero or equal to the centre, so it has no direction to compare")]
    Zero {
        /// Which vector.
        what: &'static str,
        /// The row, 0 where there is one.
        row: usize,
    },
    /// A length that f32 can't hold.
    #[error("{what} (row {row}) is {found} long after scaling; allowed: up to 3.4e38")]
    TooLong {
        /// Which vector.
        what: &'static str,
        /// The row, 0 where there is one.
        row: usize,
        /// The length.
        found: f64,
    },
}

/// Refuses vectors of another length and values that are not finite.
///
/// * `rows`: `[expected / dim, dim]`, flat
pub(crate) fn check(what: &'static str, rows: &[f32], expected: usize) -> Result<(), VectorError> {
    if rows.len() != expected {
        return Err(VectorError::Dimension { what, found: rows.len(), expected });
    }
    // Spans are long, so the usual case is one pass that the compiler vectorizes.
    if rows.iter().fold(true, |finite, value| finite & value.is_finite()) {
        return Ok(());
    }
    match rows.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(VectorError::NotFinite { what, index, found: rows[index] }),
        None => Ok(()),
    }
}

/// `Σ a·b` over 16 partial sums in f32, which are then added in order in f64.
///
/// * `a`, `b`: `[dim]`
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "vectors of one memory have one length");
    let mut lanes = [0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += x * y;
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() as f32
}

/// Cosine of two unit vectors, kept in −1 to 1 against rounding.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b).clamp(-1.0, 1.0)
}

/// `√Σ v²`, summed in f64 from first to last.
pub(crate) fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// `(1 − rate) · old + rate · new`, in place, computed in f64.
pub(crate) fn blend(old: &mut [f32], new: &[f32], rate: f32) {
    for (old, &new) in old.iter_mut().zip(new) {
        *old = blend_scalar(*old, new, rate);
    }
}

/// `(1 − rate) · old + rate · new`, computed in f64.
pub(crate) fn blend_scalar(old: f32, new: f32, rate: f32) -> f32 {
    let rate = f64::from(rate);
    ((1.0 - rate) * f64::from(old) + rate * f64::from(new)) as f32
}

/// The nearest value that half precision can hold.
pub(crate) fn round_to_half(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_product_covers_chunks_and_the_rest() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let b = vec![2.0; 37];
        assert_eq!(dot(&a, &b), 2.0 * (36.0 * 37.0 / 2.0));
    }

    #[test]
    fn checks_name_what_is_wrong() {
        assert_eq!(
            check("key", &[1.0], 2),
            Err(VectorError::Dimension { what: "key", found: 1, expected: 2 })
        );
        assert!(matches!(
            check("key", &[1.0, f32::NEG_INFINITY], 2),
            Err(VectorError::NotFinite { index: 1, .. })
        ));
        assert!(check("key", &[0.0, f32::NAN], 2).is_err());
        assert_eq!(check("key", &[0.0, 1.0], 2), Ok(()));
    }

    #[test]
    fn a_blend_moves_by_its_rate() {
        let mut old = vec![1.0, 0.0];
        blend(&mut old, &[0.0, 1.0], 0.25);
        assert_eq!(old, [0.75, 0.25]);
    }
}
