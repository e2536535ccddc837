//! A slot as people look at it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::gate::sigmoid;
use crate::slot::{Slot, SlotId, StoreKind};
use crate::unified::UnifiedMemory;

/// A slot in numbers, with its text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotReport {
    /// Which store it is in.
    pub store: StoreKind,
    /// The number of its id.
    pub slot: u64,
    /// The tick at which it was made.
    pub made: u64,
    /// The tick at which it was last written.
    pub refreshed: u64,
    /// The tick at which it was last read.
    pub read: u64,
    /// Ticks since it was written.
    pub age: u64,
    /// Its energy.
    pub energy: f32,
    /// Its gate A.
    pub gate: f32,
    /// σ(A).
    pub open: f32,
    /// What age leaves of it, 0 to 1.
    pub decay: f32,
    /// σ(A) · energy · decay.
    pub weight: f32,
    /// Observations in it.
    pub count: u64,
    /// Whether what it says is true now.
    pub holds: bool,
    /// From which tick it is.
    pub from: u64,
    /// To which; none while nothing has ended it.
    pub until: Option<u64>,
    /// The slot that took its place.
    pub superseded_by: Option<u64>,
    /// The slots whose place it took.
    pub supersedes: Vec<u64>,
    /// Whether long-term memory took it in.
    pub consolidated: bool,
    /// Tokens of its text.
    pub tokens: usize,
    /// Where it comes from.
    pub source: String,
    /// What it says.
    pub text: String,
}

impl UnifiedMemory {
    /// The slots of a store, those that were written last first.
    ///
    /// * `limit`: at most so many
    pub fn slot_reports(&self, store: StoreKind, limit: usize) -> Vec<SlotReport> {
        let mut supersedes: BTreeMap<SlotId, Vec<u64>> = BTreeMap::new();
        for (_, slot) in self.slots() {
            if let Some(by) = slot.validity.superseded_by {
                supersedes.entry(by).or_default().push(slot.id.number());
            }
        }
        let mut slots: Vec<&Slot> =
            self.slots().filter(|(at, _)| at.store == store).map(|(_, slot)| slot).collect();
        slots.sort_by_key(|slot| std::cmp::Reverse((slot.refreshed, slot.id)));
        slots.truncate(limit);
        let report = |slot: &Slot| {
            self.slot_report(store, slot, supersedes.remove(&slot.id).unwrap_or_default())
        };
        slots.into_iter().map(report).collect()
    }

    fn slot_report(&self, store: StoreKind, slot: &Slot, supersedes: Vec<u64>) -> SlotReport {
        let now = self.now();
        let decay = slot.decay(store, now, self.config());
        SlotReport {
            store,
            slot: slot.id.number(),
            made: slot.made,
            refreshed: slot.refreshed,
            read: slot.read,
            age: now.saturating_sub(slot.refreshed),
            energy: slot.energy,
            gate: slot.gate,
            open: sigmoid(f64::from(slot.gate)) as f32,
            decay,
            weight: slot.gated_energy() * decay,
            count: slot.count,
            holds: slot.validity.holds(now),
            from: slot.validity.from,
            until: slot.validity.until,
            superseded_by: slot.validity.superseded_by.map(SlotId::number),
            supersedes,
            consolidated: slot.consolidation.is_some_and(|offer| offer.into.is_some()),
            tokens: slot.value.token_ids.len(),
            source: slot.source.clone(),
            text: slot.value.text.clone(),
        }
    }
}
