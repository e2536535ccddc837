//! How often differences of which size occur.

use serde::Serialize;

/// Sign and exponent of an f32.
pub(crate) const BINS: usize = 512;

/// What the exponent of an f32 is too large by.
const BIAS: i32 = 127;

/// How many differences lie between powers of two, on both sides of zero.
///
/// Bin `i` is of those with `2^(lowest + i) ≤ |Δ| < 2^(lowest + i + 1)`. Elements that did not change are in
/// none, nor are differences under 2^−126.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// The exponent of the first bin.
    pub lowest: i32,
    /// Differences under zero, bin by bin.
    pub negative: Vec<u64>,
    /// Differences over zero, bin by bin; as many bins.
    pub positive: Vec<u64>,
}

impl Histogram {
    /// * `counts`: by the upper nine bits of the difference as f32
    pub(crate) fn of(counts: &[u64; BINS]) -> Self {
        let both = |exponent: &usize| counts[*exponent] + counts[BINS / 2 + exponent] > 0;
        let exponents = || 1..BINS / 2 - 1;
        let (Some(first), Some(last)) = (exponents().find(both), exponents().rev().find(both))
        else {
            return Self::default();
        };
        Self {
            lowest: first as i32 - BIAS,
            positive: counts[first..=last].to_vec(),
            negative: counts[BINS / 2 + first..=BINS / 2 + last].to_vec(),
        }
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        if other.positive.is_empty() {
            return;
        }
        if self.positive.is_empty() {
            self.clone_from(other);
            return;
        }
        let end = |of: &Self| of.lowest + of.positive.len() as i32;
        let lowest = self.lowest.min(other.lowest);
        let len = (end(self).max(end(other)) - lowest) as usize;
        let mut sum = Self { lowest, negative: vec![0; len], positive: vec![0; len] };
        for of in [&*self, other] {
            let shift = (of.lowest - lowest) as usize;
            for (index, count) in of.positive.iter().enumerate() {
                sum.positive[shift + index] += count;
            }
            for (index, count) in of.negative.iter().enumerate() {
                sum.negative[shift + index] += count;
            }
        }
        *self = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_powers_of_two_and_sums_line_up() {
        let mut counts = [0; BINS];
        for value in [1.0_f32, 1.5, -2.0, 0.25, 0.0, f32::INFINITY] {
            counts[(value.to_bits() >> 23) as usize] += 1;
        }
        let one = Histogram::of(&counts);
        assert_eq!(one.lowest, -2);
        assert_eq!(one.positive, [1, 0, 2, 0]);
        assert_eq!(one.negative, [0, 0, 0, 1]);
        let mut sum = Histogram::default();
        sum.add(&one);
        sum.add(&Histogram { lowest: -3, negative: vec![4], positive: vec![5] });
        assert_eq!(sum.lowest, -3);
        assert_eq!(sum.positive, [5, 1, 0, 2, 0]);
        assert_eq!(sum.negative, [4, 0, 0, 0, 1]);
        sum.add(&Histogram::default());
        assert_eq!(sum.positive.len(), 5);
    }
}
