//! The learning rate of each step.

use serde::Serialize;

/// A linear rise, then half a wave of the cosine down (Loshchilov and Hutter, 2017).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Schedule {
    /// The largest rate.
    pub peak: f64,
    /// Steps of the rise.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// What is left at the end, as a share of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The rate of step `step`, which counts from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = (self.steps.saturating_sub(self.warmup)).max(1) as f64;
        let done = ((step - self.warmup) as f64 / span).min(1.0);
        let wave = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.peak * (self.floor + (1.0 - self.floor) * wave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { peak: 2.0, warmup: 4, steps: 104, floor: 0.1 };
        let rates: Vec<f64> = [0, 1, 3, 4, 54, 104, 200].map(|step| schedule.rate(step)).into();
        for (rate, expected) in rates.iter().zip([0.5, 1.0, 2.0, 2.0, 1.1, 0.2, 0.2]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        assert_eq!(Schedule { warmup: 0, ..schedule }.rate(0), 2.0);
    }
}
