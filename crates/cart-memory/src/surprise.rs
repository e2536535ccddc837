//! Running statistics of surprise, and the energy that they give an observation.

use serde::{Deserialize, Serialize};

use crate::MemoryConfig;
use crate::gate::sigmoid;

/// Smallest deviation that divides, in nats: a run of equal surprises must not make every
/// difference extreme.
const SMALLEST_DEVIATION: f64 = 0.1;

/// Running mean and variance of the mean surprise of observations, in nats.
///
/// They begin at the configured prior, which counts as one observation, and follow with the rate
/// `max(surprise_alpha, 1 / (n + 1))`, where `n` is the number seen with the prior.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurpriseStatistics {
    /// Observations taken in.
    pub count: u64,
    /// Running mean, in nats.
    pub mean: f64,
    /// Running variance, in nats².
    pub variance: f64,
}

impl SurpriseStatistics {
    /// The prior of a configuration.
    pub fn new(config: &MemoryConfig) -> Self {
        let deviation = f64::from(config.surprise_prior_deviation);
        Self {
            count: 0,
            mean: f64::from(config.surprise_prior_mean),
            variance: deviation * deviation,
        }
    }

    /// Takes in the mean surprise of an observation.
    ///
    /// * `alpha`: the configured rate
    pub fn update(&mut self, mean_surprise: f32, alpha: f32) {
        let rate = f64::from(alpha).max(1.0 / (self.count as f64 + 2.0));
        let delta = f64::from(mean_surprise) - self.mean;
        self.mean += rate * delta;
        self.variance = (1.0 - rate) * (self.variance + rate * delta * delta);
        self.count += 1;
    }

    /// How many deviations a surprise lies over the mean.
    pub fn z_score(&self, mean_surprise: f32) -> f64 {
        let deviation = self.variance.sqrt().max(SMALLEST_DEVIATION);
        (f64::from(mean_surprise) - self.mean) / deviation
    }
}

/// `σ(z)`: 0.5 for a usual surprise, towards 1 for unusual ones, towards 0 for the expected.
///
/// * `mean_surprise`: mean of −ln p over the tokens of an observation, in nats
pub fn energy_from_surprise(mean_surprise: f32, statistics: &SurpriseStatistics) -> f32 {
    sigmoid(statistics.z_score(mean_surprise)) as f32
}

/// Mean over the tokens; `None` where nothing was measured.
pub(crate) fn mean(surprise: &[f32]) -> Option<f32> {
    if surprise.is_empty() {
        return None;
    }
    // Rounding can bring −ln 1 a little under 0.
    let sum: f64 = surprise.iter().map(|&nats| f64::from(nats.max(0.0))).sum();
    Some((sum / surprise.len() as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior(mean: f64, variance: f64) -> SurpriseStatistics {
        SurpriseStatistics { count: 0, mean, variance }
    }

    #[test]
    fn statistics_follow_by_hand() {
        let mut statistics = prior(3.0, 1.0);
        // Rate ½ at first: delta 2, mean 4, variance ½ · (1 + ½ · 4) = 1.5.
        statistics.update(5.0, 0.1);
        assert_eq!(statistics, SurpriseStatistics { count: 1, mean: 4.0, variance: 1.5 });
        // Rate ⅓: delta −3, mean 3, variance ⅔ · (1.5 + ⅓ · 9) = 3.
        statistics.update(1.0, 0.1);
        assert!((statistics.mean - 3.0).abs() < 1e-12);
        assert!((statistics.variance - 3.0).abs() < 1e-12);
    }

    #[test]
    fn energy_orders_surprises_and_is_never_constant() {
        let statistics = prior(3.0, 4.0);
        assert_eq!(energy_from_surprise(3.0, &statistics), 0.5);
        let one_deviation = energy_from_surprise(5.0, &statistics);
        assert!((f64::from(one_deviation) - 0.731_058_578).abs() < 1e-7);
        assert!(energy_from_surprise(1.0, &statistics) < 0.5);
        let narrow = prior(3.0, 0.0);
        assert!(energy_from_surprise(3.1, &narrow) > energy_from_surprise(3.0, &narrow));
    }

    #[test]
    fn the_mean_forgives_rounding_under_zero() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[-1e-6, 2.0]), Some(1.0));
    }
}
