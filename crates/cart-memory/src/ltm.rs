//! Long-term memory: a codebook of what was worth keeping.
//!
//! An entry is blended into the nearest one **that says the same**, where its cosine reaches
//! `novelty_threshold`; otherwise it is new. A new entry takes a free position, else the place of
//! the entry with the least gated energy, unless all are worth more.

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
    /// It is in long-term memory, at this position.
    Taken { position: usize, intake: Intake },
    /// Every entry is worth more than it; this is the least.
    Outranked { least: f32 },
}

impl Offer<'_> {
    /// Makes the offer.
    pub(crate) fn put_to(&self, bank: &mut Bank) -> Outcome {
        let (same, _) = bank.nearest(self.unit, &self.slot.value, self.config.merge);
        if let Some(near) = same.filter(|near| near.cosine >= self.config.novelty_threshold) {
            self.merge_into(bank, near);
            let intake = Intake::Merged { cosine: near.cosine };
            return Outcome::Taken { position: near.position, intake };
        }
        if let Some(position) = bank.free_position() {
            bank.place(position, self.entry(), self.unit);
            return Outcome::Taken { position, intake: Intake::Inserted };
        }
        let (position, least) = least_worth(bank);
        if self.slot.gated_energy() < least {
            return Outcome::Outranked { least };
        }
        let gone = bank.remove(position);
        bank.place(position, self.entry(), self.unit);
        let intake = Intake::Replaced { slot: gone.id, gated_energy: least };
        Outcome::Taken { position, intake }
    }

    fn merge_into(&self, bank: &mut Bank, near: Nearest) {
        let alpha = self.config.ltm_ema_alpha;
        let entry = bank.slot_mut(near.position);
        entry.energy = vector::blend_scalar(entry.energy, self.slot.energy, alpha);
        entry.refreshed = self.at;
        entry.count += self.slot.statistics.count;
        entry.statistics.merge(&self.slot.statistics);
        entry.says(&self.slot.value, self.slot.token_keys.clone(), &self.slot.source);
        if self.config.contradictions.is_some() {
            entry.validity.until = self.slot.validity.until;
            entry.validity.superseded_by = self.slot.validity.superseded_by;
        }
        if !self.slot.goals.is_empty() {
            entry.goals.clone_from(&self.slot.goals);
        }
        let mut key = entry.key.clone();
        vector::blend(&mut key, &self.slot.key, alpha);
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = self.normalization.unit("key", &key) {
            entry.key = key;
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

/// The entry with the least gated energy; of equals, the one accessed longest ago, then the one
/// with the lowest id.
fn least_worth(bank: &Bank) -> (usize, f32) {
    bank.iter()
        .map(|(position, slot)| (position, slot.gated_energy(), slot.accessed(), slot.id))
        .min_by(|a, b| a.1.total_cmp(&b.1).then((a.2, a.3).cmp(&(b.2, b.3))))
        .map(|(position, worth, ..)| (position, worth))
        .expect("a full codebook has an entry, because its capacity is at least 1")
}
