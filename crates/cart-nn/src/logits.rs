//! What is asked of a row of logits for every token: passes over the whole vocabulary, with the
//! instructions that the processor has.

use crate::kernel::vector::{exp, vectorized};
use crate::kernel::{KernelLevel, Kernels};

/// Numbers that are worked on together.
const LANES: usize = 16;

/// The largest logit; −∞ of none. NaN is passed over.
pub fn largest(logits: &[f32]) -> f32 {
    largest_lanes(Kernels::detect(), logits)
}

/// The token with the largest logit, of equal ones the first; 0 where none is a number.
pub fn likeliest(logits: &[f32]) -> u32 {
    let most = largest(logits);
    logits.iter().position(|&logit| logit == most).unwrap_or(0) as u32
}

/// `Σ exp(x)` with `x = (logit − largest) / temperature`, summed in `f64`.
///
/// Each term is within `3 · 10⁻⁷ + |x| · 1.8 · 10⁻⁷` of itself: the error of the exponential, and
/// that of `x`, for which the difference, the temperature's inverse and their product are each
/// rounded to `f32` (2⁻²⁴). Where `x` is under −87.33 it is 0.
///
/// * `temperature`: at least [`f32::MIN_POSITIVE`], so that it has an inverse
pub fn sum_exp(logits: &[f32], largest: f32, temperature: f32) -> f64 {
    sum_exp_lanes(Kernels::detect(), logits, largest, 1.0 / temperature)
}

/// `ln Σ exp(logit)`, to within what [`sum_exp`] says.
///
/// * `logits`: at least one of them finite
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = largest(logits);
    f64::from(largest) + sum_exp(logits, largest, 1.0).ln()
}

/// ln p of one token, in nats.
///
/// * `logits`: `[vocab]`, at least one of them finite
pub fn logprob(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum_exp(logits)
}

/// Whether every logit is a number.
pub fn all_finite(logits: &[f32]) -> bool {
    all_finite_lanes(Kernels::detect(), logits)
}

/// Tokens with a logit of at least `floor`, in order.
pub fn at_least(logits: &[f32], floor: f32) -> Vec<u32> {
    let mut found = Vec::new();
    at_least_lanes(Kernels::detect(), logits, floor, &mut found);
    found
}

vectorized! {
    fn largest_lanes(logits: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane = if *logit > *lane { *logit } else { *lane };
            }
        }
        lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

vectorized! {
    fn sum_exp_lanes(logits: &[f32], largest: f32, inverse: f32) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            // No closure, which would not have the instructions.
            let mut terms = [0.0; LANES];
            for (term, logit) in terms.iter_mut().zip(chunk) {
                *term = exp::<FMA>((logit - largest) * inverse);
            }
            for (lane, term) in lanes.iter_mut().zip(terms) {
                *lane += f64::from(term);
            }
        }
        let rest = rest.iter().map(|logit| f64::from(exp::<FMA>((logit - largest) * inverse)));
        lanes.into_iter().sum::<f64>() + rest.sum::<f64>()
    }
}

vectorized! {
    fn all_finite_lanes(logits: &[f32]) -> bool {
        // A number that is none stays none when it is multiplied by nothing.
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += logit * 0.0;
            }
        }
        lanes.iter().all(|lane| *lane == 0.0) && rest.iter().all(|logit| logit.is_finite())
    }
}

vectorized! {
    fn at_least_lanes(logits: &[f32], floor: f32, found: &mut Vec<u32>) {
        for (chunk, logits) in logits.chunks(4 * LANES).enumerate() {
            if logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) >= floor {
                let first = chunk * 4 * LANES;
                let here = logits.iter().enumerate().filter(|(_, logit)| **logit >= floor);
                found.extend(here.map(|(at, _)| (first + at) as u32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(count: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7919) % 1009) as f32 / 50.0 - 12.0).collect()
    }

    #[test]
    fn a_row_gives_what_plain_loops_give() {
        for count in [1, 15, 16, 17, 63, 64, 65, 3000] {
            let row = row(count);
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&row), most);
            for temperature in [0.3, 1.0, 7.0] {
                let term = |logit: &f32| (f64::from(logit - most) / f64::from(temperature)).exp();
                let exact: f64 = row.iter().map(term).sum();
                let found = sum_exp(&row, most, temperature);
                // Where the exponent is −80 its rounding to f32 shows.
                assert!((found - exact).abs() <= exact * 2e-6, "{count}: {found}, exactly {exact}");
            }
            let floor = most - 3.0;
            let plain = (0..count as u32).filter(|token| row[*token as usize] >= floor);
            assert_eq!(at_least(&row, floor), plain.collect::<Vec<_>>());
        }
        assert_eq!(largest(&[]), f32::NEG_INFINITY);
    }

    /// A row of one logit has that logit's term alone.
    #[test]
    fn a_term_is_as_near_as_its_documentation_says() {
        for temperature in [0.1, 0.3, 0.7, 1.0, 1.3, 3.0, 7.0, 99.0] {
            for step in 0..200_000 {
                let (most, logit) = (11.7, 11.7 - step as f32 * 7.1e-4 * temperature);
                let x = (f64::from(logit) - f64::from(most)) / f64::from(temperature);
                let (exact, found) = (x.exp(), sum_exp(&[logit], most, temperature));
                if x < -87.34 {
                    assert_eq!(found, 0.0, "{x}");
                } else if x > -87.32 {
                    let error = (found / exact - 1.0).abs();
                    let bound = 3e-7 - x * 1.8e-7;
                    assert!(error <= bound, "e^{x}: {error}, more than {bound}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_found_at_any_place() {
        for count in [1, 16, 33, 100] {
            let row = row(count);
            assert!(all_finite(&row));
            for at in 0..count {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut row = row.clone();
                    row[at] = bad;
                    assert!(!all_finite(&row), "{bad} at {at} of {count}");
                }
            }
        }
        assert!(all_finite(&[f32::MAX, f32::MIN]));
    }
}
