//! Chance from a seed: the same numbers on every machine.

use std::f64::consts::TAU;

/// splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Seeded {
    state: u64,
    spare: Option<f64>,
}

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, spare: None }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1], from 53 bits; never 0, so it has a logarithm.
    fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`, by the high half of a 128-bit product. `bound` is over 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// `k` different places of `0..n`, in the order of drawing (the first steps of Fisher and Yates).
    pub(crate) fn draw(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..n).collect();
        for first in 0..k.min(n) {
            let other = first + self.below(n - first);
            places.swap(first, other);
        }
        places.truncate(k);
        places
    }

    /// A place, as often as its weight says; none where no weight is over 0.
    pub(crate) fn weighted(&mut self, weights: &[f64]) -> Option<usize> {
        let sum: f64 = weights.iter().sum();
        let mut left = sum * self.uniform();
        let place = weights.iter().position(|&weight| {
            left -= weight;
            weight > 0.0 && left <= 0.0
        });
        // Rounding can leave a little over the last weight.
        place.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
    }

    /// Mean 0, deviation 1 (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * libm::log(self.uniform())).sqrt();
        let angle = TAU * self.uniform();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }

    /// A permutation of `0..n` in one cycle (Sattolo, 1986): for `n` ≥ 2 nothing stays in place.
    pub(crate) fn cycle(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for seed 1234567, from the reference implementation in C.
        let mut seeded = Seeded::new(1_234_567);
        assert_eq!(seeded.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(seeded.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut seeded = Seeded::new(7);
        let draws: Vec<f64> = (0..20_000).map(|_| seeded.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn a_cycle_moves_everything() {
        for n in 2..40 {
            for seed in 0..20 {
                let order = Seeded::new(seed).cycle(n);
                assert!(order.iter().enumerate().all(|(place, &from)| place != from));
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            }
        }
    }
}
