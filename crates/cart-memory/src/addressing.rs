//! Meta-policy addressing: a mixture of precise, uniform and random reads, by uncertainty.

use serde::{Deserialize, Serialize};

use crate::associate::base_weights;
use crate::event::Share;
use crate::observation::{MemoryError, check_tick};
use crate::page::Order;
use crate::seeded::Seeded;
use crate::slot::SlotRef;
use crate::{Tick, UnifiedMemory};

/// A read by the meta-policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addressed {
    /// Entropy of W₀ over its largest, ln n: 0 where one slot stands out, 1 where none does.
    pub uncertainty: f32,
    /// Shares of top-k, uniform and random reads; they add up to 1.
    pub mixture: [f32; 3],
    /// The slots of the top-k and of the random read with their weights, largest first; of equals
    /// the lower id. With `rest` they add up to 1.
    pub reads: Vec<Share>,
    /// The weight of all other slots together: what the uniform read leaves to them.
    pub rest: f32,
}

impl UnifiedMemory {
    /// Reads by the meta-policy (the setting `addressing`); what is returned, the slots of the top-k
    /// and of the random read, counts as read at this tick. None where no slot holds.
    ///
    /// With W₀ each slot's share of the scores over 0 (all alike where there are none) and
    /// `u = H(W₀) / ln n`: `W = π₁ · top_k(W₀) + π₂ / n + π₃ · random_k`, `π = softmax(bias + slope · u)`.
    ///
    /// * `query`: `[dim]`, raw
    /// * `k`: slots of the top-k read and of the random read
    /// * `seed`: of the random read
    ///
    /// # Errors
    /// The query can't be used, or time would run backwards. Nothing has changed then.
    pub fn address(
        &mut self,
        at: Tick,
        query: &[f32],
        k: usize,
        seed: u64,
    ) -> Result<Option<Addressed>, MemoryError> {
        check_tick(at, self.now)?;
        let unit = self.normalization.unit("query", query)?;
        let hits = self.all(&unit, Order::Worth(at));
        if hits.is_empty() {
            self.now = at;
            return Ok(None);
        }
        let weights = base_weights(&hits, 1.0);
        let slots: Vec<SlotRef> = weights
            .iter()
            .map(|&(id, _)| {
                let hit = hits.iter().find(|hit| hit.at.id == id);
                hit.expect("weights were made from the hits").at
            })
            .collect();
        let weights: Vec<f64> = weights.into_iter().map(|(_, weight)| weight).collect();
        let read = self.mixed(&slots, weights, k.max(1), seed);
        self.touch(at, read.reads.iter().map(|read| read.slot));
        let active = read.shares().into_iter().map(|read| (read.slot.id, read.share)).collect();
        self.fire_reads(at, active);
        Ok(Some(read))
    }

    fn mixed(&self, slots: &[SlotRef], mut base: Vec<f64>, k: usize, seed: u64) -> Addressed {
        let n = slots.len();
        if base.iter().sum::<f64>() <= 0.0 {
            base = vec![1.0 / n as f64; n];
        }
        let uncertainty = uncertainty(&base);
        let mixture = self.mixture(uncertainty);
        let k = k.min(n);
        let top = largest(&base, k);
        let random = Seeded::new(seed).draw(n, k);
        let sum: f64 = top.iter().map(|&place| base[place]).sum();
        let mut weights = vec![mixture[1] / n as f64; n];
        for &place in &top {
            weights[place] += mixture[0] * base[place] / sum;
        }
        for &place in &random {
            weights[place] += mixture[2] / k as f64;
        }
        let mut returned: Vec<usize> = top.into_iter().chain(random).collect();
        returned.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        returned.dedup();
        let rest = (n - returned.len()) as f64 * mixture[1] / n as f64;
        let reads = returned
            .into_iter()
            .map(|place| Share { slot: slots[place], share: weights[place] as f32 })
            .collect();
        Addressed {
            uncertainty: uncertainty as f32,
            mixture: mixture.map(|share| share as f32),
            reads,
            rest: rest as f32,
        }
    }

    fn mixture(&self, uncertainty: f64) -> [f64; 3] {
        let rules = self.config.addressing.unwrap_or_default();
        let mut logits = [0.0; 3];
        for (place, logit) in logits.iter_mut().enumerate() {
            *logit = f64::from(rules.bias[place]) + f64::from(rules.slope[place]) * uncertainty;
        }
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers = logits.map(|logit| libm::exp(logit - most));
        let sum: f64 = powers.iter().sum();
        powers.map(|power| power / sum)
    }
}

impl Addressed {
    /// What each slot that was returned has of all that were.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let sum: f64 = self.reads.iter().map(|read| f64::from(read.share)).sum();
        let share = |share: f32| if sum > 0.0 { (f64::from(share) / sum) as f32 } else { 0.0 };
        self.reads.iter().map(|read| Share { share: share(read.share), ..*read }).collect()
    }
}

/// `H(W) / ln n`; 0 where there is one slot.
fn uncertainty(weights: &[f64]) -> f64 {
    if weights.len() < 2 {
        return 0.0;
    }
    let entropy: f64 = weights.iter().filter(|&&w| w > 0.0).map(|&w| -w * libm::log(w)).sum();
    (entropy / libm::log(weights.len() as f64)).clamp(0.0, 1.0)
}

/// Places of the `k` largest, largest first; of equals the earlier.
fn largest(weights: &[f64], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..weights.len()).collect();
    places.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    places.truncate(k);
    places
}
