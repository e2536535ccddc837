//! Reads that spread along the links of the association graph.

use serde::{Deserialize, Serialize};

use crate::event::Share;
use crate::graph::Link;
use crate::late::TokenQuery;
use crate::observation::{MemoryError, check_tick};
use crate::page::Order;
use crate::recall::{Hit, Recalled, says_the_same};
use crate::slot::{SlotId, SlotRef};
use crate::{Tick, UnifiedMemory, gate};

/// A memory that a query, or something linked to it, brought up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Associated {
    /// The slot with the largest weight.
    pub slot: SlotRef,
    /// Other slots that say the same.
    pub also: Vec<SlotRef>,
    /// Its weight in W₀: its share of the scores over 0 of all slots that hold, each to the power `focus`.
    pub direct: f32,
    /// Its weight in `W = (1 − α) · W₀ + α · W₀ · A`.
    pub weight: f32,
    /// `ln(σ(A) · energy · decay + ε)`: what is added to its attention scores.
    pub bias: f32,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Where it comes from.
    pub source: String,
}

/// What was recalled, with what usually comes after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// What was recalled.
    pub first: Recalled,
    /// What follows it.
    pub then: Vec<Recalled>,
}

impl Chain {
    /// All of it, in order.
    pub fn slots(&self) -> impl Iterator<Item = &Recalled> {
        std::iter::once(&self.first).chain(&self.then)
    }
}

impl UnifiedMemory {
    /// The `top_k` memories with the largest weights after spreading, largest first; they count as
    /// read at this tick. Without a graph this is the order of [`UnifiedMemory::recall`] among the
    /// scores over 0.
    ///
    /// * `query`: `[dim]`, raw
    ///
    /// # Errors
    /// The query can't be used, or time would run backwards. Nothing has changed then.
    pub fn associate(
        &mut self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Associated>, MemoryError> {
        check_tick(at, self.now)?;
        let found = self.peek_associated(at, query, top_k)?;
        let slots = found.iter().flat_map(|hit| std::iter::once(hit.slot).chain(hit.also.clone()));
        self.touch(at, slots.collect::<Vec<_>>().into_iter());
        let active = weight_shares(&found).into_iter().map(|read| (read.slot.id, read.share));
        self.fire_reads(at, active.collect());
        Ok(found)
    }

    /// As [`UnifiedMemory::associate`], but leaves no trace. Slots that say the same are joined as
    /// in [`UnifiedMemory::peek`]; weights of 0 are left out.
    ///
    /// # Errors
    /// The query can't be used.
    pub fn peek_associated(
        &self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Associated>, MemoryError> {
        let unit = self.normalization.unit("query", query)?;
        let hits = self.all(&unit, Order::Worth(at));
        Ok(self.spread_over(&hits, top_k))
    }

    /// As [`UnifiedMemory::peek_associated`], but the tokens of a query ask, as in
    /// [`UnifiedMemory::peek_tokens`], and W₀ are shares of these scores.
    ///
    /// # Errors
    /// The query is not whole rows, one for each token, or a row can't be used.
    pub fn peek_associated_tokens(
        &self,
        at: Tick,
        query: TokenQuery<'_>,
        top_k: usize,
    ) -> Result<Vec<Associated>, MemoryError> {
        Ok(self.spread_over(&self.token_hits(at, query)?, top_k))
    }

    /// The largest of `W = (1 − α) · W₀ + α · W₀ · A`.
    fn spread_over(&self, hits: &[Hit<'_>], top_k: usize) -> Vec<Associated> {
        let (alpha, focus) =
            self.config.graph.map_or((0.0, 1.0), |rules| (rules.alpha, rules.focus));
        let (alpha, focus) = (f64::from(alpha), f64::from(focus));
        let base = base_weights(hits, focus);
        let spread = self.graph.spread(&base, alpha);
        let mut weighed: Vec<(f64, f64, &Hit<'_>)> = hits
            .iter()
            .map(|hit| {
                let place = base.binary_search_by_key(&hit.at.id, |&(id, _)| id);
                let direct = place.map_or(0.0, |place| base[place].1);
                (spread.get(&hit.at.id).copied().unwrap_or(0.0), direct, hit)
            })
            .filter(|&(weight, ..)| weight > 0.0)
            .collect();
        weighed.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.at.id.cmp(&b.2.at.id)));
        joined(weighed, top_k)
    }

    /// What usually comes after each of what was recalled: up to `most` slots in all at the ends of its
    /// links, strongest first. What was recalled itself, what says the same, and slots whose validity has
    /// ended are left out. Of what follows, `score` is the strength of the link, and `cosine` 0, for nothing
    /// was compared.
    pub fn with_successors(&self, at: Tick, recalled: Vec<Recalled>, most: usize) -> Vec<Chain> {
        let mut chains: Vec<Chain> =
            recalled.into_iter().map(|first| Chain { first, then: Vec::new() }).collect();
        let mut left = most;
        for index in 0..chains.len() {
            for (id, strength) in self.ends(&chains[index].first) {
                let found = self.slots().find(|(end, _)| end.id == id);
                let Some((end, slot)) = found.filter(|(_, slot)| slot.validity.holds(at)) else {
                    continue;
                };
                let known = chains.iter().flat_map(Chain::slots);
                if left == 0 || known.into_iter().any(|hit| hit.says(&slot.value)) {
                    continue;
                }
                let decay = slot.decay(end.store, at, &self.config);
                let found = Hit { slot, at: end, cosine: 0.0, decay, score: strength };
                chains[index].then.push(found.recalled());
                left -= 1;
            }
        }
        chains
    }

    /// Where the links of what was recalled end, strongest first.
    fn ends(&self, hit: &Recalled) -> Vec<(SlotId, f32)> {
        let slots = std::iter::once(&hit.slot).chain(&hit.also);
        let mut ends: Vec<_> = slots.flat_map(|slot| self.graph.successors(slot.id)).collect();
        ends.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ends
    }

    /// Every link of the graph, in order of both ends.
    pub fn links(&self) -> impl Iterator<Item = Link> {
        self.graph.links()
    }

    /// What usually comes after a slot: the ends of its links, strongest first.
    pub fn successors(&self, slot: SlotId) -> Vec<(SlotId, f32)> {
        self.graph.successors(slot)
    }
}

/// W₀: each slot's share of the scores over 0, each raised to the power `focus`, in order of id.
pub(crate) fn base_weights(hits: &[Hit<'_>], focus: f64) -> Vec<(SlotId, f64)> {
    let weight = |score: f32| {
        let score = f64::from(score.max(0.0));
        if focus == 1.0 { score } else { libm::pow(score, focus) }
    };
    let mut base: Vec<(SlotId, f64)> =
        hits.iter().map(|hit| (hit.at.id, weight(hit.score))).collect();
    base.sort_by_key(|&(id, _)| id);
    let sum: f64 = base.iter().map(|&(_, weight)| weight).sum();
    if sum > 0.0 {
        for (_, weight) in &mut base {
            *weight /= sum;
        }
    }
    base
}

/// What each has of the weights that were read.
pub(crate) fn weight_shares(found: &[Associated]) -> Vec<Share> {
    let sum: f64 = found.iter().map(|hit| f64::from(hit.weight)).sum();
    let share = |weight: f32| if sum > 0.0 { (f64::from(weight) / sum) as f32 } else { 0.0 };
    found.iter().map(|hit| Share { slot: hit.slot, share: share(hit.weight) }).collect()
}

fn joined(weighed: Vec<(f64, f64, &Hit<'_>)>, top_k: usize) -> Vec<Associated> {
    let mut found: Vec<Associated> = Vec::new();
    for (weight, direct, hit) in weighed {
        let same = found
            .iter()
            .position(|best| says_the_same(&best.text, &best.token_ids, &hit.slot.value));
        match same {
            Some(best) => found[best].also.push(hit.at),
            None if found.len() < top_k => found.push(Associated {
                slot: hit.at,
                also: Vec::new(),
                direct: direct as f32,
                weight: weight as f32,
                bias: gate::bias(hit.slot.gate, hit.slot.energy, hit.decay),
                token_ids: hit.slot.value.token_ids.clone(),
                text: hit.slot.value.text.clone(),
                source: hit.slot.source.clone(),
            }),
            None => {}
        }
    }
    found
}
