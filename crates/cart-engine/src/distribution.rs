//! Logits and probabilities over the vocabulary.

use cart_format::TokenLogprob;

/// `ln Σ exp(logit)`, summed in f64.
///
/// * `logits`: `[vocab]`, at least one of them finite
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + sum.ln()
}

/// ln p of one token.
pub(crate) fn logprob(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum_exp(logits)
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

/// Whether every logit is a number.
pub(crate) fn all_finite(logits: &[f32]) -> bool {
    logits.iter().fold(true, |finite, logit| finite & logit.is_finite())
}

/// The ids of the `count` best tokens, best first; of equal logits the lower id first.
pub(crate) fn best(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order =
        |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    if count < ids.len() {
        if count == 0 {
            return Vec::new();
        }
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
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
        let ids: Vec<u32> = top_logprobs(&logits, 2).iter().map(|top| top.token).collect();
        assert_eq!(ids, [1, 3]);
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
