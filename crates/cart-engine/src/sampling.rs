//! From logits to a token.
//!
//! The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, then one draw.
//! The draw depends on the seed and the token's position alone, so it is the same whatever else
//! runs beside. Of equal logits the lower id comes first.

use cart_nn::logits;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::distribution::{self, Ranked};

/// Why sampling options can't be used.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[error("sampling option `{name}` is {found}; allowed: {allowed}")]
pub struct SamplingError {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub found: f64,
    /// What it may be.
    pub allowed: &'static str,
}

/// How a token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the best token. So does what rounds to 0, under
    /// [`f32::MIN_POSITIVE`] (1.2 · 10⁻³⁸): a number without an inverse can't divide.
    pub temperature: f32,
    /// Tokens kept, the best ones; 0 for all.
    pub top_k: usize,
    /// Tokens kept: the fewest whose probabilities reach this.
    pub top_p: f32,
    /// Tokens kept: those with at least this share of the best one's probability.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen lately; 1 for none.
    pub repetition_penalty: f32,
    /// How many of the last tokens, prompt included, count as seen lately.
    pub repetition_window: usize,
    /// Which draws.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Whether the best token is taken, without a draw.
    pub fn is_greedy(&self) -> bool {
        self.temperature < f32::MIN_POSITIVE
    }

    /// Checks every option.
    ///
    /// # Errors
    /// The first option that is out of its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let refuse = |name, found: f32, allowed| {
            Err(SamplingError { name, found: f64::from(found), allowed })
        };
        if !(self.temperature.is_finite() && (0.0..=100.0).contains(&self.temperature)) {
            return refuse("temperature", self.temperature, "0 to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "over 0, up to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0) {
            return refuse("repetition_penalty", self.repetition_penalty, "over 0, up to 100");
        }
        Ok(())
    }
}

/// Chooses the token at a position.
///
/// * `logits`: `[vocab]`, finite
/// * `history`: the tokens so far, prompt included; its length is the position
pub(crate) fn sample(logits: &[f32], history: &[u32], options: &SamplingOptions) -> u32 {
    let penalized = penalized(logits, history, options);
    let logits = penalized.as_deref().unwrap_or(logits);
    if options.is_greedy() {
        return distribution::best(logits, 1)[0];
    }
    let mut pool = Pool::new(logits, options.top_k);
    pool.keep_top_p(options.top_p);
    pool.keep_min_p(options.min_p);
    pool.draw(options.temperature, uniform(options.seed, history.len() as u64))
}

/// The logits after the repetition penalty; none where there is none.
fn penalized(logits: &[f32], history: &[u32], options: &SamplingOptions) -> Option<Vec<f32>> {
    if options.repetition_penalty == 1.0 || options.repetition_window == 0 {
        return None;
    }
    let from = history.len().saturating_sub(options.repetition_window);
    let mut seen: Vec<u32> = history[from..].to_vec();
    seen.sort_unstable();
    seen.dedup();
    let mut logits = logits.to_vec();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            let penalty = options.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    Some(logits)
}

/// Tokens that are in the draw, best first. Those of a whole vocabulary are ranked as far down as a
/// filter or the draw has to look.
struct Pool<'a> {
    logits: &'a [f32],
    ranked: Ranked<'a>,
    /// Whether tokens that are not ranked yet belong to it.
    open: bool,
}

impl<'a> Pool<'a> {
    /// The `top_k` best tokens, or all for 0.
    fn new(logits: &'a [f32], top_k: usize) -> Self {
        let mut ranked = Ranked::new(logits);
        if top_k > 0 {
            ranked.extend_to(top_k);
            ranked.truncate(top_k);
        }
        Self { logits, ranked, open: top_k == 0 }
    }

    /// Keeps the fewest tokens whose probabilities reach `top_p`.
    fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        let enough = f64::from(top_p) * self.total(1.0);
        if let Some(last) = self.first(1.0, |sum| sum >= enough) {
            self.ranked.truncate(last + 1);
        }
        self.open = false;
    }

    /// Keeps tokens with at least `min_p` of the best one's probability.
    fn keep_min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let least = f64::from(self.ranked.largest()) + f64::from(min_p).ln();
        let stays = |token: &u32| f64::from(self.logits[*token as usize]) >= least;
        while self.open && self.ranked.tokens().last().is_some_and(stays) && self.ranked.extend() {}
        let count = self.ranked.tokens().partition_point(stays);
        self.ranked.truncate(count);
        self.open = false;
    }

    /// The token at the point `uniform` of the cumulative distribution. Two sums of the same weights
    /// differ by rounding, so a point at the very end may lie beyond the last token: then it is the
    /// last that has a probability. Where the sum is no number there is no end, and it is the first.
    fn draw(&mut self, temperature: f32, uniform: f64) -> u32 {
        let target = uniform * self.total(temperature);
        let drawn = self.first(temperature, |sum| sum > target).or_else(|| {
            let possible = |token: &u32| self.weight(*token, temperature) > 0.0;
            target.is_finite().then(|| self.ranked.tokens().iter().rposition(possible)).flatten()
        });
        self.ranked.tokens()[drawn.unwrap_or(0)]
    }

    /// Sum of the weights.
    fn total(&self, temperature: f32) -> f64 {
        if self.open {
            return logits::sum_exp(self.logits, self.ranked.largest(), temperature);
        }
        self.ranked.tokens().iter().map(|token| self.weight(*token, temperature)).sum()
    }

    /// Index of the first token up to which the sum of weights is `enough`.
    fn first(&mut self, temperature: f32, enough: impl Fn(f64) -> bool) -> Option<usize> {
        loop {
            let mut sum = 0.0;
            let reached = self.ranked.tokens().iter().position(|token| {
                sum += self.weight(*token, temperature);
                enough(sum)
            });
            if reached.is_some() || !self.open || !self.ranked.extend() {
                return reached;
            }
        }
    }

    /// A token's probability relative to the best one's.
    fn weight(&self, token: u32, temperature: f32) -> f64 {
        let under = f64::from(self.logits[token as usize]) - f64::from(self.ranked.largest());
        (under / f64::from(temperature)).exp()
    }
}

/// A number in [0, 1) that only these two decide: two rounds of `SplitMix64`'s finalizer.
fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    /// How often each of five tokens is drawn over many positions.
    fn counts(options: &SamplingOptions) -> [usize; 5] {
        let mut counts = [0; 5];
        let mut history = Vec::new();
        for _ in 0..4000 {
            counts[sample(&LOGITS, &history, options) as usize] += 1;
            history.push(9);
        }
        counts
    }

    fn drawn(options: SamplingOptions) -> [bool; 5] {
        counts(&options).map(|count| count > 0)
    }

    #[test]
    fn greedy_takes_the_best_and_of_equals_the_lower_id() {
        assert_eq!(sample(&LOGITS, &[], &SamplingOptions::default()), 1);
        let penalty = SamplingOptions { repetition_penalty: 1.2, ..Default::default() };
        assert_eq!(sample(&LOGITS, &[1], &penalty), 3);
        // Outside the window nothing is penalized, and negative logits fall as well.
        let window = SamplingOptions { repetition_window: 1, ..penalty };
        assert_eq!(sample(&LOGITS, &[1, 9], &window), 1);
        assert_eq!(sample(&[-1.0, -1.1], &[0], &penalty), 1);
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        let warm = SamplingOptions { temperature: 5.0, seed: 7, ..Default::default() };
        assert_eq!(drawn(warm), [true; 5]);
        assert_eq!(drawn(SamplingOptions { top_k: 1, ..warm }), [false, true, false, false, false]);
        assert_eq!(drawn(SamplingOptions { top_k: 3, ..warm }), [false, true, true, true, false]);
        // The two best hold 0.79 of the whole, the three best 0.94; temperature comes later.
        assert_eq!(
            drawn(SamplingOptions { top_p: 0.75, ..warm }),
            [false, true, false, true, false]
        );
        assert_eq!(drawn(SamplingOptions { top_p: 0.9, ..warm }), [false, true, true, true, false]);
        // e⁻¹ = 0.37, e⁻² = 0.14.
        assert_eq!(drawn(SamplingOptions { min_p: 0.3, ..warm }), [false, true, true, true, false]);
        assert_eq!(
            drawn(SamplingOptions { min_p: 1.0, ..warm }),
            [false, true, false, true, false]
        );
    }

    #[test]
    fn draws_follow_the_distribution() {
        let counts = counts(&SamplingOptions { temperature: 1.0, seed: 3, ..Default::default() });
        let norm: f64 = LOGITS.iter().map(|&logit| f64::from(logit).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let expected = f64::from(logit).exp() / norm;
            let found = *count as f64 / 4000.0;
            // Four standard deviations.
            assert!((found - expected).abs() < 4.0 * (expected / 4000.0).sqrt(), "{counts:?}");
        }
    }

    #[test]
    fn a_large_vocabulary_is_drawn_from_as_if_it_were_ranked_whole() {
        let logits: Vec<f32> = (0..3000).map(|at| ((at * 7919) % 1009) as f32 / 90.0).collect();
        let mut order = distribution::best(&logits, logits.len());
        let largest = f64::from(logits[order[0] as usize]);
        let weight = |token: &u32, temperature: f64| {
            ((f64::from(logits[*token as usize]) - largest) / temperature).exp()
        };
        for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.01), (0.97, 0.03)] {
            let all: f64 = order.iter().map(|token| weight(token, 1.0)).sum();
            let mut sum = 0.0;
            let kept = order.iter().position(|token| {
                sum += weight(token, 1.0);
                sum >= f64::from(top_p) * all
            });
            order.truncate(if top_p < 1.0 { kept.unwrap() + 1 } else { order.len() });
            order.retain(|token| weight(token, 1.0) >= f64::from(min_p) * (1.0 - 1e-7));
            let total: f64 = order.iter().map(|token| weight(token, 2.0)).sum();
            let options = SamplingOptions {
                temperature: 2.0,
                top_p,
                min_p,
                seed: 5,
                ..SamplingOptions::default()
            };
            for position in 0..300 {
                let target = uniform(5, position as u64) * total;
                let mut sum = 0.0;
                let at = |sum: &mut f64, token: &u32| {
                    *sum += weight(token, 2.0);
                    *sum
                };
                let drawn = order.iter().position(|token| at(&mut sum, token) > target).unwrap();
                let found = sample(&logits, &vec![0; position], &options);
                // Sums differ by rounding, so a point next to an edge may fall to the neighbour.
                let near = &order[drawn.saturating_sub(1)..(drawn + 2).min(order.len())];
                assert!(near.contains(&found), "{top_p} {min_p} at {position}");
            }
            order = distribution::best(&logits, logits.len());
        }
    }

    #[test]
    fn the_end_of_the_distribution_is_its_last_token_and_never_one_without_probability() {
        const END: f64 = 1.0 - f64::EPSILON / 2.0;
        for count in [300_usize, 1000, 3001] {
            // Each token has about 1/count of the whole, far more than sums differ by.
            let mut logits: Vec<f32> = (0..count).map(|at| -1.0 - at as f32 / 3e3).collect();
            // e⁻²⁰⁰⁰⁰ is 0.
            logits.extend([-20_000.0; 3]);
            for temperature in [0.9, 1.0, 1.1, 1.3, 1.7, 2.0, 2.3, 3.1, 5.0, 7.0] {
                for kept in [0, count, count + 3] {
                    let mut pool = Pool::new(&logits, kept);
                    let drawn = pool.draw(temperature, END);
                    assert_eq!(drawn as usize, count - 1, "{count} {temperature} {kept}");
                }
            }
        }
    }

    #[test]
    fn a_temperature_without_an_inverse_is_none() {
        let smallest = f32::from_bits(1);
        for temperature in [smallest, 1e-39, f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE, 1e-30] {
            let options = SamplingOptions { temperature, seed: 3, ..Default::default() };
            assert_eq!(options.check(), Ok(()));
            assert_eq!(options.is_greedy(), temperature < f32::MIN_POSITIVE);
            for position in 0..64 {
                let drawn = sample(&[1.0, 2.0, 3.0, 1.5], &vec![0; position], &options);
                assert_eq!(drawn, 2, "{temperature:e} at {position}");
            }
            // Of equals the first where nothing is drawn, each where something is.
            let tied = |position| sample(&[1.0, 3.0, 3.0], &vec![0; position], &options);
            assert_eq!((0..64).all(|position| tied(position) == 1), options.is_greedy());
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let options = SamplingOptions { temperature: 2.0, seed: 1, ..Default::default() };
        let at = |seed, position: usize| {
            sample(&LOGITS, &vec![0; position], &SamplingOptions { seed, ..options })
        };
        let one: Vec<u32> = (0..32).map(|position| at(1, position)).collect();
        let again: Vec<u32> = (0..32).rev().map(|position| at(1, position)).rev().collect();
        let other: Vec<u32> = (0..32).map(|position| at(2, position)).collect();
        assert_eq!(one, again);
        assert_ne!(one, other);
    }

    #[test]
    fn each_option_out_of_range_is_named() {
        let base = SamplingOptions::default();
        let cases = [
            ("temperature", SamplingOptions { temperature: -1.0, ..base }),
            ("temperature", SamplingOptions { temperature: f32::NAN, ..base }),
            ("top_p", SamplingOptions { top_p: 0.0, ..base }),
            ("top_p", SamplingOptions { top_p: f32::NAN, ..base }),
            ("min_p", SamplingOptions { min_p: 1.1, ..base }),
            ("repetition_penalty", SamplingOptions { repetition_penalty: 0.0, ..base }),
        ];
        for (name, options) in cases {
            assert_eq!(options.check().unwrap_err().name, name);
        }
        assert_eq!(base.check(), Ok(()));
    }
}
