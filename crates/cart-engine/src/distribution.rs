//! Logits and probabilities over the vocabulary.

use cart_format::TokenLogprob;
use cart_nn::logits;
pub(crate) use cart_nn::logits::{log_sum_exp, logprob};

/// `−Σ p · ln p`, in nats. Tokens of more than 30 nats under the best are left out: of any vocabulary they add less
/// than 10⁻⁵.
pub(crate) fn entropy(logits: &[f32]) -> f64 {
    let largest = logits::largest(logits);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for token in logits::at_least(logits, largest - 30.0) {
        let below = f64::from(logits[token as usize]) - f64::from(largest);
        let share = below.exp();
        sum += share;
        weighted += share * below;
    }
    sum.ln() - weighted / sum
}

/// `Σ p · (ln p − ln q)` of the distributions of two rows of logits, in nats.
pub(crate) fn kl(logits: &[f32], reference: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(logits), log_sum_exp(reference));
    let terms = logits.iter().zip(reference).map(|(&p, &q)| {
        let p = f64::from(p) - p_norm;
        let weight = p.exp();
        if weight > 0.0 { weight * (p - (f64::from(q) - q_norm)) } else { 0.0 }
    });
    terms.sum::<f64>().max(0.0)
}

/// The ids of the `count` best tokens, best first; of equal logits the lower id first.
pub(crate) fn best(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let mut ranked = Ranked::new(logits);
    ranked.extend_to(count);
    ranked.truncate(count);
    ranked.tokens
}

/// Tokens from the best downwards, as many as one asks for: of a large vocabulary only the few that
/// may matter are sorted. Of equal logits the lower id comes first.
pub(crate) struct Ranked<'a> {
    logits: &'a [f32],
    largest: f32,
    /// How far under the largest the tokens go.
    depth: f32,
    tokens: Vec<u32>,
}

impl<'a> Ranked<'a> {
    /// The best tokens of a row, at least one.
    pub(crate) fn new(logits: &'a [f32]) -> Self {
        let mut ranked =
            Self { logits, largest: logits::largest(logits), depth: 0.0, tokens: Vec::new() };
        ranked.fill(1.0);
        ranked
    }

    /// The largest logit.
    pub(crate) fn largest(&self) -> f32 {
        self.largest
    }

    /// The best tokens so far, best first.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all but the `count` best.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.tokens.truncate(count);
    }

    /// Goes down until there are `count` tokens, or all.
    pub(crate) fn extend_to(&mut self, count: usize) {
        while self.tokens.len() < count && self.extend() {}
    }

    /// Goes further down; false where there are no more.
    pub(crate) fn extend(&mut self) -> bool {
        if self.tokens.len() == self.logits.len() {
            return false;
        }
        self.fill(if self.depth < 1e3 { self.depth * 2.0 } else { f32::INFINITY });
        true
    }

    fn fill(&mut self, depth: f32) {
        let logits = self.logits;
        self.depth = depth;
        self.tokens = if depth == f32::INFINITY {
            (0..logits.len() as u32).collect()
        } else {
            logits::at_least(logits, self.largest - depth)
        };
        self.tokens.sort_unstable_by(|&a, &b| {
            logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
        });
    }
}

/// The `count` best tokens with ln p, best first.
pub(crate) fn top_logprobs(logits: &[f32], count: usize) -> Vec<TokenLogprob> {
    if count == 0 {
        return Vec::new();
    }
    let norm = log_sum_exp(logits);
    let with =
        |token: u32| TokenLogprob { token, logprob: f64::from(logits[token as usize]) - norm };
    best(logits, count).into_iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_survive_large_logits() {
        let logits = [1000.0, 999.0, -1000.0];
        let sum: f64 = (0..3).map(|token| logprob(&logits, token).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-7);
        assert!((logprob(&logits, 0) + (1.0 + (-1.0_f64).exp()).ln()).abs() < 1e-7);
    }

    #[test]
    fn the_best_come_in_order_and_equals_by_id() {
        let logits = [0.5, 2.0, -1.0, 2.0, 0.5];
        assert_eq!(best(&logits, 3), [1, 3, 0]);
        assert_eq!(best(&logits, 9), [1, 3, 0, 4, 2]);
        assert!(best(&logits, 0).is_empty());
        let many: Vec<f32> = (0..5000).map(|at| ((at * 7919) % 1009) as f32 - 2000.0).collect();
        let mut sorted: Vec<u32> = (0..5000).collect();
        sorted.sort_by(|&a, &b| many[b as usize].total_cmp(&many[a as usize]).then(a.cmp(&b)));
        for count in [1, 2, 7, 900, 4999, 5000, 6000] {
            assert_eq!(best(&many, count), sorted[..count.min(5000)], "{count}");
        }
        let ids: Vec<u32> = top_logprobs(&logits, 2).iter().map(|top| top.token).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn entropy_is_that_of_the_probabilities() {
        assert!((entropy(&[3.0; 1000]) - 1000.0_f64.ln()).abs() < 1e-9);
        assert!(entropy(&[90.0, 3.0, -5.0, f32::MIN]).abs() < 1e-9);
        let logits = [0.5_f32, -1.0, 2.0];
        let plain = (0..3).map(|token| logprob(&logits, token)).map(|ln| -ln * ln.exp());
        assert!((entropy(&logits) - plain.sum::<f64>()).abs() < 1e-6);
    }

    #[test]
    fn divergence_is_zero_only_for_the_same_distribution() {
        let (a, b) = ([0.0, 1.0, 2.0], [5.0, 6.0, 7.0]);
        assert!(kl(&a, &b) < 1e-12);
        let p = [0.5_f64, 0.5].map(|p| p.ln() as f32);
        let q = [0.25_f64, 0.75].map(|p| p.ln() as f32);
        let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-6);
    }
}
