//! Inner products of inputs, added up in f64 in a fixed order.

use crate::weights::error::MergeError;
use crate::weights::view::{Grain, View};

/// Sums that are kept side by side, so that a processor adds them at once.
const LANES: usize = 8;

/// Inner products of vectors with each other: a symmetric matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    /// Of nothing.
    pub(super) fn zero(n: usize) -> Self {
        Self { n, products: vec![0.0; n * n] }
    }

    /// Of the inputs of a view over all elements, or of their differences from the first.
    ///
    /// * `based`: whether the first input is the origin, and no vector itself
    pub(super) fn of(view: &View<'_>, based: bool) -> Result<Self, MergeError> {
        let n = view.inputs.len() - usize::from(based);
        let parts = view.map(Grain::Elements, |chunk| {
            let mut gram = Self::zero(n);
            gram.add(&vectors(chunk.inputs, based));
            gram
        })?;
        let mut sum = Self::zero(n);
        for part in parts {
            sum.products.iter_mut().zip(&part.products).for_each(|(sum, part)| *sum += part);
        }
        Ok(sum)
    }

    /// Adds the inner products of these vectors.
    pub(super) fn add<V: AsRef<[f32]>>(&mut self, vectors: &[V]) {
        for i in 0..self.n {
            for j in 0..=i {
                let product = dot(vectors[i].as_ref(), vectors[j].as_ref());
                self.products[i * self.n + j] += product;
                if i != j {
                    self.products[j * self.n + i] += product;
                }
            }
        }
    }

    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.n + j]
    }

    pub(super) fn norm(&self, i: usize) -> f64 {
        self.get(i, i).sqrt()
    }

    /// The inner product of two combinations of the vectors.
    pub(super) fn between(&self, a: &[f64], b: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                sum += a * b * self.get(i, j);
            }
        }
        sum
    }

    /// The length of a combination of the vectors.
    pub(super) fn length(&self, of: &[f64]) -> f64 {
        self.between(of, of).max(0.0).sqrt()
    }
}

/// The inputs, or their differences from the first.
pub(super) fn vectors(inputs: &[Vec<f32>], based: bool) -> Vec<std::borrow::Cow<'_, [f32]>> {
    if !based {
        return inputs.iter().map(|input| input.as_slice().into()).collect();
    }
    let (base, others) = inputs.split_first().expect("a base is among the inputs");
    let difference = |other: &Vec<f32>| -> Vec<f32> {
        other.iter().zip(base).map(|(other, base)| other - base).collect()
    };
    others.iter().map(|other| difference(other).into()).collect()
}

/// The inner product of two vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { dot_avx2(a, b) };
    }
    dot_portable(a, b)
}

/// The same operations in the same lanes, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn dot_avx2(a: &[f32], b: &[f32]) -> f64 {
    dot_portable(a, b)
}

#[inline(always)]
fn dot_portable(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// The sum of magnitudes of a vector.
pub(super) fn l1(values: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let (values, rest) = values.as_chunks::<LANES>();
    for values in values {
        for lane in 0..LANES {
            sums[lane] += f64::from(values[lane].abs());
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| f64::from(value.abs())).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_and_without_instructions_the_same() {
        let values = |factor: f32| -> Vec<f32> {
            (0..1003).map(|index| (index as f32 * factor).sin()).collect()
        };
        let (a, b) = (values(0.37), values(0.71));
        assert_eq!(dot(&a, &b).to_bits(), dot_portable(&a, &b).to_bits());
    }
}
