//! Keys from several senses: named, weighted parts, one after the other. A part that is missing is
//! masked: it is zero in the key, and a cosine is over the parts that both keys have.
//!
//! `cos(a, b) = Σ w · cos(aₚ, bₚ) / Σ w`, over the parts `p` in both; 0 where there is none.

use thiserror::Error;

use crate::config::Part;
use crate::kernel::{self, Level};
use crate::seeded::Seeded;
use crate::vector::{self, VectorError};

/// Why parts don't make a key.
#[derive(Debug, Error, PartialEq)]
pub enum FusionError {
    /// A part that the settings don't list.
    #[error("there is no part `{name}`; allowed: {}", allowed.join(", "))]
    Unknown {
        /// Its name.
        name: String,
        /// The parts there are.
        allowed: Vec<String>,
    },
    /// A part twice.
    #[error("part `{name}` is given twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A part of another length, or not finite.
    #[error("part `{name}`: {problem}")]
    Vector {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        problem: VectorError,
    },
    /// A part that is given, but has no direction; leave it out where it is missing.
    #[error("part `{name}` is all zero, so it has no direction; leave out a part that is missing")]
    Zero {
        /// Its name.
        name: String,
    },
    /// Every part is missing.
    #[error("every part is missing; give at least one of {}", allowed.join(", "))]
    Nothing {
        /// The parts there are.
        allowed: Vec<String>,
    },
}

/// A raw key from the parts that are there, in the order of the settings; the others are zero.
///
/// * `given`: names and vectors, `[part.dim]` each
/// * returns `[Σ part.dim]`
///
/// # Errors
/// A part is unknown, given twice, of another length, not finite or zero, or there is none.
pub fn fuse(parts: &[Part], given: &[(&str, &[f32])]) -> Result<Vec<f32>, FusionError> {
    let allowed = || parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>();
    let total: usize = parts.iter().map(|part| part.dim as usize).sum();
    let mut key = vec![0.0; total];
    if given.is_empty() {
        return Err(FusionError::Nothing { allowed: allowed() });
    }
    for (place, &(name, values)) in given.iter().enumerate() {
        let named = || name.to_owned();
        if given[..place].iter().any(|(before, _)| *before == name) {
            return Err(FusionError::Twice { name: named() });
        }
        let mut start = 0;
        let part = parts.iter().find(|part| {
            let found = part.name == name;
            start += if found { 0 } else { part.dim as usize };
            found
        });
        let Some(part) = part else {
            return Err(FusionError::Unknown { name: named(), allowed: allowed() });
        };
        vector::check("it", values, part.dim as usize)
            .map_err(|problem| FusionError::Vector { name: named(), problem })?;
        if values.iter().all(|&value| value == 0.0) {
            return Err(FusionError::Zero { name: named() });
        }
        key[start..][..values.len()].copy_from_slice(values);
    }
    Ok(key)
}

/// How two unit keys compare: as wholes, or by their parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metric {
    /// Length and weight of each part; empty where a key is one whole.
    parts: Vec<(usize, f64)>,
}

impl Metric {
    pub(crate) fn of(parts: &[Part]) -> Self {
        let part = |part: &Part| (part.dim as usize, f64::from(part.weight));
        Self { parts: parts.iter().map(part).collect() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.parts.is_empty()
    }

    /// Cosine of two unit keys, in −1 to 1.
    pub(crate) fn cosine(&self, a: &[f32], b: &[f32]) -> f32 {
        if self.is_whole() { vector::cosine(a, b) } else { self.masked(a, b) }
    }

    /// The cosine of each of many unit keys with one.
    ///
    /// * `rows`: `[cosines, dim]`, `unit`: `[dim]`
    /// * `cosines`: `[cosines]`, is overwritten
    pub(crate) fn cosines(&self, rows: &[f32], unit: &[f32], cosines: &mut [f32]) {
        if self.is_whole() {
            kernel::dots(Level::best(), rows, unit, cosines);
            cosines.iter_mut().for_each(|cosine| *cosine = cosine.clamp(-1.0, 1.0));
            return;
        }
        for (row, cosine) in rows.chunks_exact(unit.len()).zip(cosines) {
            *cosine = self.masked(row, unit);
        }
    }

    /// Brings each part that is there to length `√(w / Σ w)`, so that the whole is of length 1.
    pub(crate) fn balance(&self, key: &mut [f64]) {
        let present = |part: &[f64]| part.iter().any(|&value| value != 0.0);
        let mut whole = 0.0;
        self.each(|start, dim, weight| {
            if present(&key[start..][..dim]) {
                whole += weight;
            }
        });
        self.each(|start, dim, weight| {
            let part = &mut key[start..][..dim];
            let norm = part.iter().map(|value| value * value).sum::<f64>().sqrt();
            if norm > 0.0 {
                let factor = (weight / whole).sqrt() / norm;
                part.iter_mut().for_each(|value| *value *= factor);
            }
        });
    }

    /// A unit key with noise of the expected length `sigma`, brought to unit length again; the key
    /// itself where noise has left it without a direction. Parts that are missing stay missing. Every
    /// value takes one draw, so that a draw's place does not depend on which parts are there.
    pub(crate) fn perturbed(&self, unit: &[f32], sigma: f64, chance: &mut Seeded) -> Vec<f32> {
        let scale = sigma / (unit.len() as f64).sqrt();
        let mut noisy: Vec<f32> =
            unit.iter().map(|&value| (f64::from(value) + scale * chance.normal()) as f32).collect();
        self.mask(&mut noisy, unit);
        let mut wide: Vec<f64> = noisy.iter().map(|&value| f64::from(value)).collect();
        let norm = wide.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 0.0) {
            return unit.to_vec();
        }
        if self.is_whole() {
            wide.iter_mut().for_each(|value| *value /= norm);
        } else {
            self.balance(&mut wide);
        }
        wide.into_iter().map(|value| value as f32).collect()
    }

    /// Sets the parts of a key to 0 that another key lacks.
    pub(crate) fn mask(&self, key: &mut [f32], like: &[f32]) {
        self.each(|start, dim, _| {
            if like[start..][..dim].iter().all(|&value| value == 0.0) {
                key[start..][..dim].fill(0.0);
            }
        });
    }

    fn masked(&self, a: &[f32], b: &[f32]) -> f32 {
        let (mut product, mut in_a, mut in_b, mut in_both) = (0.0, 0.0, 0.0, 0.0);
        let present = |part: &[f32]| part.iter().any(|&value| value != 0.0);
        self.each(|start, dim, weight| {
            let (a, b) = (&a[start..][..dim], &b[start..][..dim]);
            let (has_a, has_b) = (present(a), present(b));
            in_a += if has_a { weight } else { 0.0 };
            in_b += if has_b { weight } else { 0.0 };
            if has_a && has_b {
                in_both += weight;
                product += f64::from(vector::dot(a, b));
            }
        });
        if in_both == 0.0 {
            return 0.0;
        }
        // Products are of parts of length √(w / Σ w).
        ((product * (in_a * in_b).sqrt() / in_both) as f32).clamp(-1.0, 1.0)
    }

    fn each(&self, mut part: impl FnMut(usize, usize, f64)) {
        let mut start = 0;
        for &(dim, weight) in &self.parts {
            part(start, dim, weight);
            start += dim;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Part> {
        let part = |name: &str, dim, weight| Part { name: name.to_owned(), dim, weight };
        vec![part("text", 2, 3.0), part("audio", 3, 1.0)]
    }

    #[test]
    fn missing_parts_are_zero_and_bad_ones_are_named() {
        assert_eq!(fuse(&parts(), &[("text", &[1.0, 2.0])]), Ok(vec![1.0, 2.0, 0.0, 0.0, 0.0]));
        let both: [(&str, &[f32]); 2] = [("audio", &[1.0, 0.0, 3.0]), ("text", &[1.0, 2.0])];
        assert_eq!(fuse(&parts(), &both), Ok(vec![1.0, 2.0, 1.0, 0.0, 3.0]));
        use FusionError as E;
        let refused = |given: &[(&str, &[f32])]| fuse(&parts(), given).unwrap_err();
        assert!(matches!(refused(&[]), E::Nothing { .. }));
        assert!(matches!(refused(&[("video", &[1.0])]), E::Unknown { .. }));
        assert!(matches!(refused(&[("text", &[1.0])]), E::Vector { .. }));
        assert!(matches!(refused(&[("text", &[1.0, f32::NAN])]), E::Vector { .. }));
        assert!(matches!(refused(&[("text", &[0.0, 0.0])]), E::Zero { .. }));
        assert!(matches!(
            refused(&[("text", &[1.0, 0.0]), ("text", &[1.0, 0.0])]),
            E::Twice { .. }
        ));
    }

    #[test]
    fn noise_falls_on_whole_parts_and_leaves_each_at_its_length() {
        let metric = Metric::of(&parts());
        let length = |part: &[f32]| vector::norm(part);
        // A value that is 0 in a part that is there gets noise like the others.
        let unit = [0.75_f64.sqrt() as f32, 0.0, 0.0, 0.5, 0.0];
        let noisy = metric.perturbed(&unit, 0.5, &mut Seeded::new(3));
        assert!(noisy.iter().all(|&value| value != 0.0), "{noisy:?}");
        assert!((length(&noisy[..2]) - 0.75_f64.sqrt()).abs() < 1e-6, "{noisy:?}");
        assert!((length(&noisy[2..]) - 0.5).abs() < 1e-6, "{noisy:?}");
        // A part that is missing stays missing, and takes its draws all the same.
        let noisy = metric.perturbed(&[0.0, 0.0, 0.0, 1.0, 0.0], 0.5, &mut Seeded::new(3));
        assert_eq!(noisy[..2], [0.0, 0.0]);
        assert!((length(&noisy) - 1.0).abs() < 1e-6 && noisy[2] != 0.0, "{noisy:?}");
        let mut chance = Seeded::new(3);
        let draws: Vec<f64> = (0..5).map(|_| chance.normal()).collect();
        assert!(((noisy[2] / noisy[4]) as f64 - draws[2] / draws[4]).abs() < 1e-3);
    }

    #[test]
    fn a_cosine_is_over_the_parts_that_both_have() {
        let metric = Metric::of(&parts());
        let unit = |key: [f64; 5]| {
            let mut key = key;
            metric.balance(&mut key);
            let length: f64 = key.iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-12);
            key.map(|value| value as f32)
        };
        let both = unit([1.0, 0.0, 0.0, 0.0, 5.0]);
        let other = unit([1.0, 1.0, 0.0, 0.0, -2.0]);
        let text = unit([3.0, 3.0, 0.0, 0.0, 0.0]);
        let audio = unit([0.0, 0.0, 0.0, 1.0, 0.0]);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        // (3 · cos 45° − 1) / 4, then the text alone, then nothing in common.
        assert!((metric.cosine(&both, &other) - (3.0 * half - 1.0) / 4.0).abs() < 1e-6);
        assert!((metric.cosine(&both, &text) - half).abs() < 1e-6);
        assert!((metric.cosine(&text, &other) - 1.0).abs() < 1e-6);
        assert_eq!(metric.cosine(&text, &audio), 0.0);
    }
}
