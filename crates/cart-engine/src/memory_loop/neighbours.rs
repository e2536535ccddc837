//! Interpolation with nearest neighbours at the sampler (Khandelwal et al., 2020):
//! `p = (1 − λ) · p_model + λ · p_neighbours`, with a λ that grows with how near the nearest is, and where
//! that is asked for with how well the neighbours agree with the model.

use std::sync::Arc;

use cart_memory::{MemoryError, Neighbour, NextTokenQuery, SlotRef, UnifiedMemory};

use crate::distribution;
use crate::options::{KnnOptions, KnnScope, KnnTrust};

/// A memory that is asked at every step.
#[derive(Clone, Debug)]
pub(super) struct Neighbours {
    memory: Arc<UnifiedMemory>,
    recalled: Vec<SlotRef>,
    options: KnnOptions,
    /// Slots that are not asked any more.
    left_out: Vec<SlotRef>,
}

impl Neighbours {
    pub(super) fn new(
        memory: Arc<UnifiedMemory>,
        recalled: Vec<SlotRef>,
        options: KnnOptions,
    ) -> Self {
        Self { memory, recalled, options, left_out: Vec::new() }
    }

    /// Takes nothing from these slots any more.
    pub(super) fn leave_out(&mut self, slots: &[SlotRef]) {
        self.recalled.retain(|slot| !slots.contains(slot));
        self.left_out.extend(slots);
    }

    /// Logits of the mixture and its λ; none where λ is 0, so that the model's logits stay as they
    /// are to the bit.
    ///
    /// * `query`: the state at the last token read, `[hidden_size]`, and the tokens up to it
    pub(super) fn mix(
        &self,
        logits: &[f32],
        query: NextTokenQuery<'_>,
    ) -> Result<Option<(Vec<f32>, f64)>, MemoryError> {
        let k = self.options.k;
        let near = match self.options.scope {
            KnnScope::Recalled => self.memory.knn_among(&self.recalled, query, k)?,
            KnnScope::All => self.memory.knn(query, k)?,
        };
        let near: Vec<Neighbour> =
            near.into_iter().filter(|near| self.is_asked(near, logits.len())).collect();
        let Some(nearest) = near.first().map(Neighbour::score) else { return Ok(None) };
        let norm = distribution::log_sum_exp(logits);
        let weights = self.weights(logits, norm, &near);
        let lambda = match self.options.trust {
            KnnTrust::Cosine => self.ramp(nearest),
            KnnTrust::Agreement => {
                let [base, slope, share, doubt] = AGREEMENT;
                let best = norm - f64::from(cart_nn::logits::largest(logits));
                let sum = base
                    + slope * f64::from(nearest)
                    + share * weights.agreement.ln()
                    + doubt * best;
                f64::from(self.options.lambda_max) / (1.0 + (-sum).exp())
            }
        };
        if lambda == 0.0 {
            return Ok(None);
        }
        Ok(Some((mixture(logits, norm, &near, &weights, lambda), lambda)))
    }

    fn is_asked(&self, near: &Neighbour, vocabulary: usize) -> bool {
        (near.token as usize) < vocabulary && !self.left_out.contains(&near.slot)
    }

    /// λ rises from 0 at `min_cosine` to `lambda_max` at `full_cosine`.
    fn ramp(&self, nearest: f32) -> f64 {
        let KnnOptions { min_cosine, full_cosine, lambda_max, .. } = self.options;
        let share = (nearest - min_cosine) / (full_cosine - min_cosine);
        f64::from(lambda_max) * f64::from(share.clamp(0.0, 1.0))
    }

    /// What each neighbour weighs: `softmax(cosine / temperature + bias)`, times the model's probability of
    /// its token to the power `plausibility`.
    ///
    /// * `norm`: `ln Σ exp(logit)`
    fn weights(&self, logits: &[f32], norm: f64, near: &[Neighbour]) -> Weights {
        let temperature = f64::from(self.options.temperature);
        let power = f64::from(self.options.plausibility);
        let score = |near: &Neighbour| f64::from(near.score()) / temperature + f64::from(near.bias);
        let largest = near.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
        let softmax: Vec<f64> = near.iter().map(|near| (score(near) - largest).exp()).collect();
        let total: f64 = softmax.iter().sum();
        let plausible = |token: u32| (power * (f64::from(logits[token as usize]) - norm)).exp();
        let of_each: Vec<f64> = (near.iter().zip(softmax))
            .map(|(near, weight)| {
                weight / total * if power > 0.0 { plausible(near.token) } else { 1.0 }
            })
            .collect();
        // At least one neighbour has a weight over 0, unless the model rules out all their tokens.
        let agreement = of_each.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        Weights { of_each, agreement }
    }
}

/// `a`, `b`, `c` and `d` of [`KnnTrust::Agreement`], fitted with SmolLM2-135M, together with temperature and
/// plausibility of [`KnnOptions::of_all`] and what a matched token is worth, on the second halves of eight texts (the
/// free documentation licence, the Mozilla and the Apache licence, Python's argparse and typing, three chapters of the
/// Rust book), so that the mean of their −ln p is least.
const AGREEMENT: [f64; 4] = [-5.25, 5.83, 0.818, 0.505];

/// What neighbours weigh.
struct Weights {
    of_each: Vec<f64>,
    /// Their sum: 1 where the model's judgement does not count.
    agreement: f64,
}

/// `ln((1 − λ) · p_model + λ · p_near)`, `[vocab]`.
fn mixture(
    logits: &[f32],
    norm: f64,
    near: &[Neighbour],
    weights: &Weights,
    lambda: f64,
) -> Vec<f32> {
    let left = (1.0 - lambda).max(1e-30).ln() - norm;
    let mut mixed: Vec<f32> =
        logits.iter().map(|&logit| (f64::from(logit) + left) as f32).collect();
    // Added up by token first: many neighbours may have the same.
    let mut tokens: Vec<(u32, f64)> =
        near.iter().zip(&weights.of_each).map(|(near, &weight)| (near.token, weight)).collect();
    tokens.sort_by_key(|&(token, _)| token);
    for same in tokens.chunk_by(|a, b| a.0 == b.0) {
        let weight: f64 = same.iter().map(|(_, weight)| weight).sum();
        let logit = &mut mixed[same[0].0 as usize];
        let p = f64::from(*logit).exp() + lambda * weight / weights.agreement;
        *logit = p.ln() as f32;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use cart_format::SpaceId;
    use cart_memory::{MemoryConfig, Normalization, Observation};

    use super::*;

    fn neighbours(options: KnnOptions) -> Neighbours {
        let normalization = Normalization::identity(2).unwrap();
        let space = SpaceId::of(b"test");
        let mut memory = UnifiedMemory::new(space, normalization, MemoryConfig::default()).unwrap();
        let seen = Observation {
            key: vec![1.0, 0.0],
            token_keys: vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
            token_ids: vec![0, 1, 2],
            text: "a b c".into(),
            energy: 0.5,
            ..Observation::default()
        };
        memory.observe(0, &seen).unwrap();
        Neighbours::new(Arc::new(memory), Vec::new(), options)
    }

    impl Neighbours {
        fn mixed(&self, logits: &[f32], hidden: &[f32]) -> Option<(Vec<f32>, f64)> {
            self.mix(logits, NextTokenQuery::of_state(hidden)).unwrap()
        }
    }

    #[test]
    fn the_mixture_is_a_distribution_that_leans_to_what_came_next() {
        let options =
            KnnOptions { k: 1, scope: KnnScope::All, lambda_max: 0.5, ..KnnOptions::default() };
        let logits = [0.0, 0.0, 0.0, 0.0];
        let (mixed, lambda) = neighbours(options).mixed(&logits, &[2.0, 0.0]).unwrap();
        assert_eq!(lambda, 0.5);
        let p: Vec<f32> = mixed.iter().map(|logit| logit.exp()).collect();
        for (p, expected) in p.iter().zip([0.125, 0.625, 0.125, 0.125]) {
            assert!((p - expected).abs() < 1e-5, "{mixed:?}");
        }
    }

    #[test]
    fn far_neighbours_and_slots_that_were_not_recalled_change_nothing() {
        let all = KnnOptions { scope: KnnScope::All, ..KnnOptions::default() };
        let logits = [0.0, 1.0, 2.0];
        assert_eq!(neighbours(all.clone()).mixed(&logits, &[-1.0, -0.5]), None);
        let recalled = KnnOptions { scope: KnnScope::Recalled, ..all };
        assert_eq!(neighbours(recalled).mixed(&logits, &[1.0, 0.0]), None);
    }

    #[test]
    fn neighbours_count_as_far_as_the_model_agrees() {
        let options = KnnOptions { k: 2, temperature: 1.0, ..KnnOptions::of_all() };
        let neighbours = neighbours(options);
        // Both positions are near; their next tokens are 1 and 2.
        let (liked, _) = neighbours.mixed(&[0.0, 3.0, 0.0], &[1.0, 1.0]).unwrap();
        let (other, _) = neighbours.mixed(&[0.0, 0.0, 3.0], &[1.0, 1.0]).unwrap();
        assert!((liked[1] - other[2]).abs() < 1e-5, "{liked:?} {other:?}");
        let (even, agreed) = neighbours.mixed(&[0.0, 0.0, 0.0], &[1.0, 1.0]).unwrap();
        assert!((even[1] - even[2]).abs() < 1e-6);
        let sum: f32 = liked.iter().map(|logit| logit.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
        // What the model rules out is trusted less.
        let (_, against) = neighbours.mixed(&[9.0, 0.0, 0.0], &[1.0, 1.0]).unwrap();
        assert!(against < agreed / 2.0, "{against} {agreed}");
    }

    #[test]
    fn lambda_rises_between_its_bounds() {
        let neighbours = neighbours(KnnOptions::default());
        assert_eq!(neighbours.ramp(0.5), 0.0);
        assert!((neighbours.ramp(0.6) - 0.45).abs() < 1e-6);
        assert!((neighbours.ramp(0.9) - 0.9).abs() < 1e-6);
    }
}
