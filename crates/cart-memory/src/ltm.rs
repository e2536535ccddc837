//! Long-term memory: a codebook of what was worth keeping.
//!
//! An entry is blended into the nearest one **that says the same**, where its cosine reaches
//! `novelty_threshold`; otherwise it is new. A new entry takes a free position, else the place of
//! the entry with the least gated energy, unless all are worth more. What has ended is neither merged
//! into an entry that holds, nor takes the place of one; entries that have ended give way first.

use crate::bank::{Bank, Nearest};
use crate::event::Intake;
use crate::slot::Slot;
use crate::vector;
use crate::{MemoryConfig, Normalization, SlotId, Tick};

/// What is offered to long-term memory, and under which rules.
pub(crate) struct Offer<'o> {
    pub(crate) at: Tick,
    pub(crate) slot: &'o Slot,
    pub(crate) unit: &'o [f32],
    pub(crate) new_id: SlotId,
    pub(crate) config: &'o MemoryConfig,
    pub(crate) normalization: &'o Normalization,
}

/// What became of an offer.
pub(crate) enum Outcome {
    /// It is in long-term memory.
    Taken(Taken),
    /// Every entry is worth more than it; this is the gated energy of the least.
    Outranked { least: f32 },
}

/// An offer that was taken.
pub(crate) struct Taken {
    /// Where it is.
    pub(crate) position: usize,
    pub(crate) intake: Intake,
    /// Whether the entry had ended, and holds again.
    pub(crate) reopened: bool,
    /// The entry that left for it.
    pub(crate) gone: Option<Box<Slot>>,
}

impl Offer<'_> {
    /// Makes the offer.
    pub(crate) fn put_to(&self, bank: &mut Bank) -> Outcome {
        let nearby = bank.nearest_taker(self.at, self.unit, &self.slot.value, self.config.merge);
        let least = self.config.novelty_threshold;
        let holds = self.slot.validity.holds(self.at);
        let taker = if holds { nearby.taker(least) } else { nearby.taker_of_ended(least) };
        if let Some(near) = taker {
            let reopened = holds && !bank.slot(near.position).validity.holds(self.at);
            self.merge_into(bank, near);
            let intake = Intake::Merged { cosine: near.cosine };
            return Outcome::Taken(Taken { position: near.position, intake, reopened, gone: None });
        }
        let (position, intake, gone) = if let Some(position) = bank.free_position() {
            (position, Intake::Inserted, None)
        } else {
            let (position, entry_holds, least) = least_worth(bank, self.at);
            let energy = self.slot.gated_energy();
            if holds.cmp(&entry_holds).then(energy.total_cmp(&least)).is_lt() {
                return Outcome::Outranked { least };
            }
            let gone = Box::new(bank.remove(position));
            (position, Intake::Replaced { slot: gone.id, gated_energy: least }, Some(gone))
        };
        bank.place(position, self.entry(), self.unit);
        Outcome::Taken(Taken { position, intake, reopened: false, gone })
    }

    fn merge_into(&self, bank: &mut Bank, near: Nearest) {
        let alpha = self.config.ltm_ema_alpha;
        let mut entry = bank.slot_mut(near.position);
        entry.energy = vector::blend_scalar(entry.energy, self.slot.energy, alpha);
        entry.refreshed = self.at;
        entry.count += self.slot.statistics.count;
        entry.statistics.merge(&self.slot.statistics);
        entry.says(&self.slot.value, self.slot.token_keys.clone(), &self.slot.source);
        // An entry that takes what holds, holds; what has ended went into one that has, too.
        entry.validity.until = self.slot.validity.until;
        entry.validity.superseded_by = self.slot.validity.superseded_by;
        if !self.slot.goals.is_empty() {
            entry.goals.clone_from(&self.slot.goals);
        }
        let mut key = entry.key.clone();
        vector::blend(&mut key, &self.slot.key, alpha);
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = self.normalization.unit("key", &key) {
            entry.key = key;
            drop(entry);
            bank.set_unit(near.position, &unit);
        }
    }

    fn entry(&self) -> Slot {
        Slot {
            id: self.new_id,
            made: self.at,
            refreshed: self.at,
            read: self.at,
            count: self.slot.statistics.count,
            consolidation: None,
            ..self.slot.clone()
        }
    }
}

/// The entry that gives way first, whether it holds, and its gated energy: one that has ended before
/// one that holds, then the one with the least gated energy; of equals, the one accessed longest
/// ago, then the one with the lowest id.
pub(crate) fn least_worth(bank: &Bank, at: Tick) -> (usize, bool, f32) {
    bank.iter()
        .map(|(position, slot)| (position, slot.validity.holds(at), bank.worth(position), slot))
        .min_by(|a, b| {
            let access = |slot: &Slot| (slot.accessed(), slot.id);
            a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)).then(access(a.3).cmp(&access(b.3)))
        })
        .map(|(position, holds, energy, _)| (position, holds, energy))
        .expect("a full codebook has an entry, because its capacity is at least 1")
}
