//! What the memory has to say about a query.

use serde::{Deserialize, Serialize};

use crate::event::Share;
use crate::observation::{MemoryError, check_tick};
use crate::page::Order;
use crate::slot::{Slot, SlotId, SlotRef, SlotValue, StoreKind};
use crate::{Tick, UnifiedMemory};

/// A memory that answers a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recalled {
    /// The slot with the best score.
    pub slot: SlotRef,
    /// Other slots that say the same.
    pub also: Vec<SlotRef>,
    /// Cosine of query and key, both normalized; where tokens asked, how well they match, as
    /// [`UnifiedMemory::peek_tokens`] says: up to 1.3.
    pub cosine: f32,
    /// What age has left of it.
    pub decay: f32,
    /// The order of recall: `cosine · σ(A) · energy · decay` where one vector asked, and as
    /// [`UnifiedMemory::peek_tokens`] says where tokens did.
    pub score: f32,
    /// `ln(σ(A) · energy · decay + ε)`: what is added to its attention scores.
    pub bias: f32,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Where it comes from.
    pub source: String,
}

/// A slot's place in the order of recall.
#[derive(Clone)]
pub(crate) struct Hit<'m> {
    pub(crate) slot: &'m Slot,
    pub(crate) at: SlotRef,
    pub(crate) cosine: f32,
    pub(crate) decay: f32,
    pub(crate) score: f32,
}

impl UnifiedMemory {
    /// The `top_k` best memories for a query, best first; they count as read at this tick.
    ///
    /// * `query`: `[dim]`, raw
    ///
    /// # Errors
    /// The query can't be used, or time would run backwards. Nothing has changed then.
    pub fn recall(
        &mut self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        self.read_at(at, |memory| memory.peek(at, query, top_k))
    }

    /// As [`UnifiedMemory::recall`], but leaves no trace.
    ///
    /// Of slots that say the same (equal text, or equal tokens where there is no text), the best
    /// stands for all. At equal scores the lower id comes first. Slots whose validity has ended are
    /// left out.
    ///
    /// # Errors
    /// The query can't be used.
    pub fn peek(
        &self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        let unit = self.normalization.unit("query", query)?;
        Ok(self.best(&unit, Order::Worth(at), &[StoreKind::Stm, StoreKind::Ltm], top_k))
    }

    /// Looks, and notes that what was found was read.
    pub(crate) fn read_at(
        &mut self,
        at: Tick,
        peek: impl FnOnce(&Self) -> Result<Vec<Recalled>, MemoryError>,
    ) -> Result<Vec<Recalled>, MemoryError> {
        check_tick(at, self.now)?;
        let recalled = peek(self)?;
        self.mark_read(at, &recalled);
        Ok(recalled)
    }

    /// Every slot of both stores that is valid, with the cosine and the score that `judge` gives it
    /// from its unit key.
    pub(crate) fn hits(
        &self,
        at: Tick,
        judge: impl Fn(StoreKind, &Slot, &[f32]) -> (f32, f32),
    ) -> Vec<Hit<'_>> {
        let slots = self.stores().flat_map(|(store, bank)| {
            bank.iter().map(move |(position, slot)| (store, slot, bank.unit(position)))
        });
        slots
            .filter(|(_, slot, _)| slot.validity.holds(at))
            .map(|(store, slot, key)| {
                let (cosine, score) = judge(store, slot, key);
                let decay = slot.decay(store, at, &self.config);
                // −0 and 0 are the same score; the order of recall must not tell them apart.
                Hit { slot, at: SlotRef { store, id: slot.id }, cosine, decay, score: score + 0.0 }
            })
            .collect()
    }

    /// Notes that these were read.
    pub(crate) fn mark_read(&mut self, at: Tick, recalled: &[Recalled]) {
        let slots = recalled.iter().flat_map(|hit| std::iter::once(&hit.slot).chain(&hit.also));
        self.touch(at, slots.copied());
        let active: Vec<(SlotId, f32)> =
            shares(recalled).into_iter().map(|read| (read.slot.id, read.share)).collect();
        self.fire_reads(at, active);
    }

    /// Sets when these slots were read last.
    pub(crate) fn touch(&mut self, at: Tick, slots: impl Iterator<Item = SlotRef>) {
        self.now = at;
        let mut touched = false;
        for read in slots {
            if let Some(offers) = self.offers.as_mut().filter(|_| read.store == StoreKind::Ltm) {
                offers.reads.insert(read.id);
                touched = true;
                continue;
            }
            let bank = self.bank_mut(read.store);
            if let Some(position) = bank.find(read.id) {
                bank.set_read(position, at);
                touched = true;
            }
        }
        self.counters.recalls += u64::from(touched);
    }

    /// Lets slots be active that were read, as far as reads count.
    pub(crate) fn fire_reads(&mut self, at: Tick, shares: Vec<(SlotId, f32)>) {
        let Some(rules) = self.config.graph else { return };
        let activity = rules.read_activity;
        let active: Vec<_> = shares.into_iter().map(|(id, share)| (id, share * activity)).collect();
        self.fire(at, &active);
    }
}

/// The best hits, best score first, with those that say the same joined.
pub(crate) fn best_of(mut hits: Vec<Hit<'_>>, top_k: usize) -> Vec<Recalled> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.at.id.cmp(&b.at.id)));
    let mut recalled: Vec<Recalled> = Vec::new();
    for hit in hits {
        let same = recalled
            .iter()
            .position(|best| says_the_same(&best.text, &best.token_ids, &hit.slot.value));
        match same {
            Some(best) => recalled[best].also.push(hit.at),
            None if recalled.len() < top_k => recalled.push(hit.recalled()),
            None => {}
        }
    }
    recalled
}

/// What each hit has of the whole: its score over the sum of those over 0.
pub(crate) fn shares(recalled: &[Recalled]) -> Vec<Share> {
    let over_zero = |hit: &Recalled| f64::from(hit.score.max(0.0));
    let sum: f64 = recalled.iter().map(over_zero).sum();
    let share = |hit| if sum > 0.0 { (over_zero(hit) / sum) as f32 } else { 0.0 };
    recalled.iter().map(|hit| Share { slot: hit.slot, share: share(hit) }).collect()
}

impl Recalled {
    /// Whether a slot with this value would be joined with it.
    pub(crate) fn says(&self, value: &SlotValue) -> bool {
        says_the_same(&self.text, &self.token_ids, value)
    }
}

impl Hit<'_> {
    pub(crate) fn recalled(&self) -> Recalled {
        Recalled {
            slot: self.at,
            also: Vec::new(),
            cosine: self.cosine,
            decay: self.decay,
            score: self.score,
            bias: crate::gate::bias(self.slot.gate, self.slot.energy, self.decay),
            token_ids: self.slot.value.token_ids.clone(),
            text: self.slot.value.text.clone(),
            source: self.slot.source.clone(),
        }
    }
}

pub(crate) fn says_the_same(text: &str, token_ids: &[u32], value: &SlotValue) -> bool {
    // Slots that say nothing are told apart by their keys.
    if value.is_empty() {
        return false;
    }
    if text.is_empty() && value.text.is_empty() {
        return token_ids == value.token_ids;
    }
    text == value.text
}
