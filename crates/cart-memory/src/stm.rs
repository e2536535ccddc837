//! Short-term memory: a ring of the latest observations.
//!
//! An observation goes into the nearest slot **that says the same** (token ids and text), where
//! its cosine reaches `merge_threshold`; the slot's key and energy follow it by EMA. Otherwise it
//! gets a slot of its own, also where the nearest key belongs to another text. So a merge never
//! loses a text, unless the setting `merge` lets it. When the ring is full, a slot leaves: of those
//! whose validity has ended the one made first, else of all. Before that it is offered to long-term
//! memory, if it is worth it.

use crate::bank::Nearest;
use crate::event::{Cause, MemoryEvent, Near};
use crate::observation::Checked;
use crate::slot::{KeyStatistics, Slot, SlotValue, TokenKeys, Validity};
use crate::vector;
use crate::{Tick, UnifiedMemory};

impl UnifiedMemory {
    /// Blends an observation into its slot, or makes one. Returns its position.
    pub(crate) fn admit(
        &mut self,
        at: Tick,
        seen: Checked<'_>,
        events: &mut Vec<MemoryEvent>,
    ) -> usize {
        let value =
            SlotValue { token_ids: seen.seen.token_ids.clone(), text: seen.seen.text.clone() };
        let nearby = self.stm.nearest(at, &seen.unit, &value, self.config.merge);
        match nearby.taker(self.config.merge_threshold) {
            Some(near) => {
                events.push(self.refresh(at, near, seen, value));
                near.position
            }
            None => self.append(at, seen, value, nearby.other, events),
        }
    }

    fn refresh(
        &mut self,
        at: Tick,
        near: Nearest,
        seen: Checked<'_>,
        value: SlotValue,
    ) -> MemoryEvent {
        let alpha = self.config.stm_ema_alpha;
        let mut slot = self.stm.slot_mut(near.position);
        let energy_before = slot.energy;
        let mut key = slot.key.clone();
        vector::blend(&mut key, &seen.seen.key, alpha);
        slot.energy = vector::blend_scalar(slot.energy, seen.energy, alpha);
        slot.refreshed = at;
        slot.count += 1;
        slot.statistics.add(&seen.seen.key, seen.energy);
        slot.says(&value, seen.token_keys, &seen.seen.source);
        let (id, energy) = (slot.id, slot.energy);
        drop(slot);
        self.counters.blended += 1;
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = self.normalization.unit("key", &key) {
            self.stm.slot_mut(near.position).key = key;
            self.stm.set_unit(near.position, &unit);
        }
        MemoryEvent::Blended { slot: id, cosine: near.cosine, energy_before, energy }
    }

    fn append(
        &mut self,
        at: Tick,
        seen: Checked<'_>,
        value: SlotValue,
        nearest_other: Option<Nearest>,
        events: &mut Vec<MemoryEvent>,
    ) -> usize {
        let kept_apart = nearest_other
            .filter(|near| near.cosine >= self.config.merge_threshold)
            .map(|near| Near { slot: self.stm.slot(near.position).id, cosine: near.cosine });
        let position = match self.stm.free_position() {
            Some(position) => position,
            None => self.evict(at, events),
        };
        let slot = Slot {
            id: self.issue_id(),
            key: seen.seen.key.clone(),
            value,
            token_keys: seen.token_keys,
            energy: seen.energy,
            gate: 0.0,
            made: at,
            refreshed: at,
            read: at,
            count: 1,
            source: seen.seen.source.clone(),
            validity: Validity { from: at, until: None, superseded_by: None },
            statistics: KeyStatistics::of(&seen.seen.key, seen.energy),
            consolidation: None,
            goals: Vec::new(),
        };
        self.counters.added += 1;
        events.push(MemoryEvent::Added { slot: slot.id, energy: slot.energy, kept_apart });
        self.stm.place(position, slot, &seen.unit);
        position
    }

    /// Makes room in the full ring; returns the free position.
    fn evict(&mut self, at: Tick, events: &mut Vec<MemoryEvent>) -> usize {
        let (position, _) = self
            .stm
            .iter()
            .min_by_key(|(_, slot)| (slot.validity.holds(at), slot.id))
            .expect("a full ring has a slot, because its capacity is at least 1");
        let worth = self.is_worth_keeping(position) || self.corrects(at, position);
        if worth && !self.is_kept(position) {
            self.consolidate(at, position, Cause::Eviction, events);
        }
        let in_ltm = self.long_term_home(position);
        let slot = self.stm.remove(position);
        self.counters.evicted += 1;
        events.push(MemoryEvent::Evicted {
            slot: slot.id,
            gated_energy: slot.gated_energy(),
            text: slot.value.text.clone(),
            in_ltm,
        });
        self.succeed(&slot, in_ltm, events);
        position
    }
}

impl Slot {
    /// Takes over what was said last. Another value comes only with [`crate::config::MergeRule::Nearest`].
    pub(crate) fn says(&mut self, value: &SlotValue, token_keys: TokenKeys, source: &str) {
        if !value.is_empty() && self.value != *value {
            self.value = value.clone();
            source.clone_into(&mut self.source);
            self.token_keys = token_keys;
        } else if !token_keys.is_empty() {
            self.token_keys = token_keys;
        }
    }
}
