//! What the memory has to say about a query.

use serde::{Deserialize, Serialize};

use crate::observation::{MemoryError, check_tick};
use crate::slot::{Slot, SlotRef, SlotValue, StoreKind};
use crate::{Tick, UnifiedMemory, vector};

/// A memory that answers a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recalled {
    /// The slot with the best score.
    pub slot: SlotRef,
    /// Other slots that say the same.
    pub also: Vec<SlotRef>,
    /// Cosine of query and key, both normalized; where tokens asked, the mean over the slot's tokens
    /// of the best cosine.
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
        let hits = self.hits(at, |store, slot, key| {
            let cosine = vector::cosine(key, &unit);
            (cosine, cosine * slot.gated_energy() * slot.decay(store, at, &self.config))
        });
        Ok(best_of(hits, top_k))
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
                Hit { slot, at: SlotRef { store, id: slot.id }, cosine, decay, score }
            })
            .collect()
    }

    /// Notes that these were read.
    pub(crate) fn mark_read(&mut self, at: Tick, recalled: &[Recalled]) {
        self.now = at;
        self.counters.recalls += u64::from(!recalled.is_empty());
        for read in recalled.iter().flat_map(|hit| std::iter::once(&hit.slot).chain(&hit.also)) {
            let bank = self.bank_mut(read.store);
            if let Some(position) = bank.find(read.id) {
                bank.slot_mut(position).read = at;
            }
        }
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

impl Hit<'_> {
    fn recalled(&self) -> Recalled {
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

fn says_the_same(text: &str, token_ids: &[u32], value: &SlotValue) -> bool {
    if text.is_empty() && value.text.is_empty() {
        return token_ids == value.token_ids;
    }
    text == value.text
}
