//! Interpolation with nearest neighbours at the sampler (Khandelwal et al., 2020):
//! `p = (1 − λ) · p_model + λ · p_neighbours`, with a λ that grows with how near the nearest is.

use std::sync::Arc;

use cart_memory::{MemoryError, Neighbour, SlotRef, UnifiedMemory};

use crate::distribution;
use crate::options::{KnnOptions, KnnScope};

/// A memory that is asked at every step.
#[derive(Clone, Debug)]
pub(super) struct Neighbours {
    memory: Arc<UnifiedMemory>,
    recalled: Vec<SlotRef>,
    options: KnnOptions,
}

impl Neighbours {
    pub(super) fn new(
        memory: Arc<UnifiedMemory>,
        recalled: Vec<SlotRef>,
        options: KnnOptions,
    ) -> Self {
        Self { memory, recalled, options }
    }

    /// Logits of the mixture and its λ; none where λ is 0, so that the model's logits stay as they
    /// are to the bit.
    ///
    /// * `hidden`: `[hidden_size]`, of the last token read
    pub(super) fn mix(
        &self,
        logits: &[f32],
        hidden: &[f32],
    ) -> Result<Option<(Vec<f32>, f64)>, MemoryError> {
        let k = self.options.k;
        let near = match self.options.scope {
            KnnScope::Recalled => self.memory.knn_among(&self.recalled, hidden, k)?,
            KnnScope::All => self.memory.knn(hidden, k)?,
        };
        let near: Vec<Neighbour> =
            near.into_iter().filter(|near| (near.token as usize) < logits.len()).collect();
        let lambda = near.first().map_or(0.0, |nearest| self.lambda(nearest.cosine));
        if lambda == 0.0 {
            return Ok(None);
        }
        Ok(Some((mixture(logits, &near, lambda, f64::from(self.options.temperature)), lambda)))
    }

    /// λ rises from 0 at `min_cosine` to `lambda_max` at `full_cosine`.
    fn lambda(&self, nearest: f32) -> f64 {
        let KnnOptions { min_cosine, full_cosine, lambda_max, .. } = self.options;
        let share = (nearest - min_cosine) / (full_cosine - min_cosine);
        f64::from(lambda_max) * f64::from(share.clamp(0.0, 1.0))
    }
}

/// `ln((1 − λ) · p_model + λ · p_near)`, `[vocab]`; a neighbour's weight is the softmax of
/// `cosine / temperature + bias`.
fn mixture(logits: &[f32], near: &[Neighbour], lambda: f64, temperature: f64) -> Vec<f32> {
    let score = |near: &Neighbour| f64::from(near.cosine) / temperature + f64::from(near.bias);
    let largest = near.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = near.iter().map(|near| (score(near) - largest).exp()).sum();
    let norm = distribution::log_sum_exp(logits);
    let left = (1.0 - lambda).max(1e-30).ln() - norm;
    let mut mixed: Vec<f32> =
        logits.iter().map(|&logit| (f64::from(logit) + left) as f32).collect();
    for near in near {
        let weight = lambda * (score(near) - largest).exp() / total;
        let logit = &mut mixed[near.token as usize];
        *logit = (f64::from(*logit).exp() + weight).ln() as f32;
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

    #[test]
    fn the_mixture_is_a_distribution_that_leans_to_what_came_next() {
        let options =
            KnnOptions { k: 1, scope: KnnScope::All, lambda_max: 0.5, ..KnnOptions::default() };
        let logits = [0.0, 0.0, 0.0, 0.0];
        let (mixed, lambda) = neighbours(options).mix(&logits, &[2.0, 0.0]).unwrap().unwrap();
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
        assert_eq!(neighbours(all.clone()).mix(&logits, &[-1.0, -0.5]).unwrap(), None);
        let recalled = KnnOptions { scope: KnnScope::Recalled, ..all };
        assert_eq!(neighbours(recalled).mix(&logits, &[1.0, 0.0]).unwrap(), None);
    }

    #[test]
    fn lambda_rises_between_its_bounds() {
        let neighbours = neighbours(KnnOptions::default());
        assert_eq!(neighbours.lambda(0.5), 0.0);
        assert!((neighbours.lambda(0.6) - 0.45).abs() < 1e-6);
        assert!((neighbours.lambda(0.9) - 0.9).abs() < 1e-6);
    }
}
