//! Two memories of one space become one: all of both, or the short-term memory or the goal of one of them
//! with the rest of the other.
//!
//! Their ticks have nothing to do with each other, so that the clock of the one that is behind is put forward:
//! ages stay what they are. Ids of what comes in are new.

use std::collections::BTreeMap;

use crate::config::MergeRule;
use crate::ltm::least_worth;
use crate::slot::{KeyStatistics, Slot, SlotId, SlotRef, StoreKind};
use crate::unified::ForeignSpace;
use crate::{Tick, UnifiedMemory, vector};

/// What became of the slots that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnionReport {
    /// Slots of their own.
    pub added: usize,
    /// Slots that went into one that says the same.
    pub merged: usize,
    /// Slots that there was no room for, on either side: of long-term memory those worth least, of short-term memory
    /// the oldest.
    pub dropped: usize,
}

impl UnifiedMemory {
    /// This memory with everything of another one. Settings are those of this one, but for the larger
    /// `max_span_tokens`.
    ///
    /// Entries of a store that say the same and hold alike become one: sums and counts add up, the key is the mean by
    /// energy times count, energy the larger. Of two memories with a common past, what they share counts twice. Links
    /// and counters add up; the goal is the mean by steps; of the statistics of surprise those with more observations
    /// stay.
    ///
    /// # Errors
    /// The other memory's vectors belong to another space.
    pub fn united(&self, other: &Self) -> Result<(Self, UnionReport), ForeignSpace> {
        let (mut whole, mut other, mut report) = self.aligned(other)?;
        let (mut heirs, first) = (BTreeMap::new(), SlotId(whole.next_slot));
        for store in [StoreKind::Ltm, StoreKind::Stm] {
            whole.take_in(store, &mut other, &mut heirs, &mut report);
        }
        whole.connect(&other, &heirs, first);
        whole.pool(&other);
        Ok((whole, report))
    }

    /// This memory with the short-term memory of another one in place of its own.
    ///
    /// # Errors
    /// The other memory's vectors belong to another space.
    pub fn with_stm_of(&self, other: &Self) -> Result<(Self, UnionReport), ForeignSpace> {
        let (mut whole, mut other, mut report) = self.aligned(other)?;
        let own: Vec<(usize, SlotId)> =
            whole.stm.iter().map(|(position, slot)| (position, slot.id)).collect();
        for (position, id) in own {
            whole.stm.remove(position);
            whole.unlink(id, None);
        }
        let (mut heirs, first) = (BTreeMap::new(), SlotId(whole.next_slot));
        whole.take_in(StoreKind::Stm, &mut other, &mut heirs, &mut report);
        whole.connect(&other, &heirs, first);
        Ok((whole, report))
    }

    /// This memory with the goal of another one in place of its own, its steps and prompt included.
    ///
    /// # Errors
    /// The other memory's vectors belong to another space.
    pub fn with_goal_of(&self, other: &Self) -> Result<Self, ForeignSpace> {
        other.require_space(self.space)?;
        let mut whole = self.clone();
        whole.goal.clone_from(&other.goal);
        whole.goal.cut(whole.config.goal_cap);
        Ok(whole)
    }

    /// Both, on one clock.
    fn aligned(&self, other: &Self) -> Result<(Self, Self, UnionReport), ForeignSpace> {
        other.require_space(self.space)?;
        let (mut whole, mut other) = (self.clone(), other.clone());
        let now = whole.now.max(other.now);
        whole.put_forward(now - whole.now);
        other.put_forward(now - other.now);
        whole.config.max_span_tokens =
            whole.config.max_span_tokens.max(other.config.max_span_tokens);
        Ok((whole, other, UnionReport::default()))
    }

    pub(crate) fn put_forward(&mut self, ticks: Tick) {
        self.now += ticks;
        self.observed_at += ticks;
        self.pruned_at += ticks;
        if !self.graph.is_empty() {
            self.graph.current.at += ticks;
            self.graph.previous.at += ticks;
            self.graph.decayed_at += ticks;
        }
        let change = |slot: &mut Slot| {
            for tick in
                [&mut slot.made, &mut slot.refreshed, &mut slot.read, &mut slot.validity.from]
            {
                *tick += ticks;
            }
            if let Some(until) = &mut slot.validity.until {
                *until += ticks;
            }
            if let Some(done) = &mut slot.consolidation {
                done.at += ticks;
            }
        };
        self.stm.change_all(change);
        self.ltm.change_all(change);
    }

    /// Takes in the slots of a store, in order of id; `heirs` then says where each of them is.
    fn take_in(
        &mut self,
        store: StoreKind,
        other: &mut Self,
        heirs: &mut BTreeMap<SlotId, SlotId>,
        report: &mut UnionReport,
    ) {
        let mut order: Vec<(usize, SlotId)> =
            other.bank(store).iter().map(|(position, slot)| (position, slot.id)).collect();
        order.sort_by_key(|&(_, id)| id);
        for (position, id) in order {
            let slot = other.bank_mut(store).remove(position);
            let keys_alone = self.config.merge == MergeRule::Nearest;
            let unit = self.normalization.unit("key", &slot.key).ok();
            let Some(unit) = unit.filter(|_| keys_alone || !slot.value.is_empty()) else {
                report.dropped += 1;
                continue;
            };
            let into = match self.twin(store, &slot, &unit) {
                Some(twin) => {
                    report.merged += 1;
                    Some(self.absorb(store, twin, &slot))
                }
                None => self.settle(store, slot, &unit, report),
            };
            heirs.extend(into.map(|into| (id, into)));
        }
    }

    /// The nearest slot that says the same, ended or not as the other is.
    fn twin(&self, store: StoreKind, slot: &Slot, unit: &[f32]) -> Option<usize> {
        let least = match store {
            StoreKind::Stm => self.config.merge_threshold,
            StoreKind::Ltm => self.config.novelty_threshold,
        };
        let holds = |slot: &Slot| slot.validity.holds(self.now);
        let alike = self.bank(store).cosines(unit).filter(|(near, found)| {
            found.value == slot.value && holds(found) == holds(slot) && near.cosine >= least
        });
        let best = alike.max_by(|(a, first), (b, second)| {
            a.cosine.total_cmp(&b.cosine).then(second.id.cmp(&first.id))
        });
        best.map(|(near, _)| near.position)
    }

    fn absorb(&mut self, store: StoreKind, position: usize, other: &Slot) -> SlotId {
        let normalization = self.normalization.clone();
        let bank = self.bank_mut(store);
        let slot = bank.slot(position);
        let weights = [slot, other].map(|slot| f64::from(slot.energy) * slot.count as f64);
        let mut key = slot.key.clone();
        let share = weights[1] / (weights[0] + weights[1]).max(f64::MIN_POSITIVE);
        vector::blend(&mut key, &other.key, share as f32);
        bank.slot_mut(position).absorb(other);
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = normalization.unit("key", &key) {
            bank.slot_mut(position).key = key;
            bank.set_unit(position, &unit);
        }
        bank.slot(position).id
    }

    /// Gives a slot a place, and a new id. Where there is none, one slot is dropped.
    fn settle(
        &mut self,
        store: StoreKind,
        slot: Slot,
        unit: &[f32],
        report: &mut UnionReport,
    ) -> Option<SlotId> {
        let free = self.bank(store).free_position();
        report.dropped += usize::from(free.is_none());
        let position = free.or_else(|| self.make_room(store, &slot))?;
        report.added += 1;
        let id = self.issue_id();
        let goals = slot.goals.len().saturating_sub(self.config.goal_vectors as usize);
        let goals = slot.goals[goals..].to_vec();
        self.bank_mut(store).place(position, Slot { id, goals, ..slot }, unit);
        Some(id)
    }

    /// Takes out what is worth less than a slot, if there is such.
    fn make_room(&mut self, store: StoreKind, slot: &Slot) -> Option<usize> {
        let at = self.now;
        let holds = slot.validity.holds(at);
        let (position, gives_way) = match store {
            StoreKind::Ltm => {
                let (position, entry_holds, least) = least_worth(&self.ltm, at);
                let worth = holds.cmp(&entry_holds).then(slot.gated_energy().total_cmp(&least));
                (position, worth.is_gt())
            }
            StoreKind::Stm => {
                let age = |slot: &Slot| (slot.validity.holds(at), slot.refreshed);
                let oldest = self.stm.iter().min_by_key(|(_, slot)| (age(slot), slot.id));
                let (position, oldest) = oldest.expect("a full ring has a slot");
                (position, age(slot) > age(oldest))
            }
        };
        if !gives_way {
            return None;
        }
        let gone = self.bank_mut(store).remove(position);
        self.succeed(&gone, None, &mut Vec::new());
        Some(position)
    }

    /// Lets what came in name each other by the new ids, and brings in the links between them.
    ///
    /// * `first`: the lowest new id
    fn connect(&mut self, other: &Self, heirs: &BTreeMap<SlotId, SlotId>, first: SlotId) {
        let all: Vec<SlotRef> = self.slots().map(|(slot, _)| slot).collect();
        for at in all.into_iter().filter(|at| at.id >= first) {
            let mut slot = self.find_mut(at).expect("the slot was found in this memory");
            let heir = |id: SlotId| heirs.get(&id).copied();
            slot.validity.superseded_by = slot.validity.superseded_by.and_then(heir);
            let Some(done) = &mut slot.consolidation else { continue };
            let Some(into) = done.into else { continue };
            done.into = heir(into);
            if done.into.is_none() {
                // What it was offered to stayed behind, with its sums: it is as new here.
                slot.consolidation = None;
                slot.statistics = KeyStatistics::of(&slot.key, slot.energy);
            }
        }
        let Some(rules) = self.config.graph else { return };
        for link in other.graph.links() {
            if let (Some(&from), Some(&to)) = (heirs.get(&link.from), heirs.get(&link.to))
                && from != to
            {
                self.graph.strengthen(from, to, f64::from(link.strength), &rules);
            }
        }
    }

    /// Adds up what is about the memory as a whole.
    fn pool(&mut self, other: &Self) {
        let steps = self.goal.steps + other.goal.steps;
        let share = other.goal.steps as f64 / steps.max(1) as f64;
        vector::blend(&mut self.goal.vector, &other.goal.vector, share as f32);
        self.goal.steps = steps;
        self.goal.cut(self.config.goal_cap);
        if other.surprise.count > self.surprise.count {
            self.surprise = other.surprise;
        }
        self.counters.add(&other.counters);
    }
}

#[cfg(test)]
mod tests {
    use cart_format::SpaceId;

    use super::*;
    use crate::config::GraphRules;
    use crate::{MemoryConfig, Normalization, Observation};

    fn memory(graph: bool, told: &[(u64, &str, f32)]) -> UnifiedMemory {
        let graph = graph.then(GraphRules::default);
        let config = MemoryConfig {
            stm_slots: 3,
            ltm_slots: 4,
            observer_interval: 1,
            graph,
            ..MemoryConfig::default()
        };
        let space = SpaceId::of(b"one");
        let mut memory =
            UnifiedMemory::new(space, Normalization::identity(3).unwrap(), config).unwrap();
        for &(at, text, energy) in told {
            let turn = text.bytes().map(u32::from).sum::<u32>() as f32;
            let seen = Observation {
                key: vec![turn.sin(), turn.cos(), 1.0],
                token_keys: Vec::new(),
                token_ids: text.bytes().map(u32::from).collect(),
                text: text.to_owned(),
                surprise: vec![2.0],
                energy,
                source: "test".to_owned(),
            };
            memory.observe(at, &seen).unwrap();
        }
        memory
    }

    fn texts(memory: &UnifiedMemory, store: StoreKind) -> Vec<String> {
        let slots = memory.slots().filter(|(at, _)| at.store == store);
        let mut texts: Vec<String> = slots.map(|(_, slot)| slot.value.text.clone()).collect();
        texts.sort();
        texts
    }

    /// It can be saved and read again.
    fn whole(memory: &UnifiedMemory) {
        let snapshot = memory.snapshot();
        assert_eq!(UnifiedMemory::restore(&snapshot).unwrap().snapshot(), snapshot);
    }

    #[test]
    fn a_union_has_what_both_say_once() {
        let own = memory(true, &[(1, "a", 0.9), (2, "b", 0.9)]);
        let other = memory(true, &[(101, "b", 0.8), (102, "c", 0.7)]);
        let (both, report) = own.united(&other).unwrap();
        whole(&both);
        assert_eq!(texts(&both, StoreKind::Ltm), ["a", "b", "c"]);
        assert_eq!(texts(&both, StoreKind::Stm), ["a", "b", "c"]);
        assert_eq!(report, UnionReport { added: 2, merged: 2, dropped: 0 });
        let twice =
            both.slots().find(|(at, slot)| at.store == StoreKind::Ltm && slot.value.text == "b");
        let twice = twice.unwrap().1;
        assert_eq!((twice.count, twice.statistics.count, twice.energy), (2, 2, 0.9));
        assert_eq!(both.counters().observations, 4);
        assert_eq!(both.goal().steps(), own.goal().steps() + other.goal().steps());
        // The clock of the one behind was put forward, so that ages stay.
        assert_eq!(both.now(), 102);
        let made = |text: &str| {
            both.slots().find(|(_, slot)| slot.value.text == text).map(|(_, slot)| slot.made)
        };
        assert_eq!((made("a"), made("c")), (Some(101), Some(102)));
        // a before b in one memory, b before c in the other.
        let link = |from: &str, to: &str| {
            let says = |id: SlotId, text: &str| {
                both.slots().any(|(at, slot)| at.id == id && slot.value.text == text)
            };
            both.links().any(|link| says(link.from, from) && says(link.to, to))
        };
        assert!(link("a", "b") && link("b", "c") && !link("a", "c"));
    }

    #[test]
    fn where_there_is_no_room_the_best_and_the_newest_stay() {
        let own = memory(false, &[(1, "a", 0.9), (2, "b", 0.7), (3, "c", 0.9)]);
        let other = memory(false, &[(1, "d", 0.95), (2, "e", 0.65), (3, "f", 0.95)]);
        let (both, report) = own.united(&other).unwrap();
        whole(&both);
        assert_eq!(texts(&both, StoreKind::Ltm), ["a", "c", "d", "f"]);
        assert_eq!(texts(&both, StoreKind::Stm), ["c", "e", "f"]);
        assert_eq!(report.merged, 0);
        assert!(report.dropped >= 3, "{report:?}");
    }

    #[test]
    fn short_term_memory_and_goal_move_alone() {
        let own = memory(true, &[(1, "a", 0.9), (2, "b", 0.9)]);
        let other = memory(true, &[(1, "c", 0.9), (2, "d", 0.9)]);
        let (moved, report) = own.with_stm_of(&other).unwrap();
        whole(&moved);
        assert_eq!(texts(&moved, StoreKind::Stm), ["c", "d"]);
        assert_eq!(texts(&moved, StoreKind::Ltm), ["a", "b"]);
        assert_eq!(report, UnionReport { added: 2, merged: 0, dropped: 0 });
        assert_eq!(moved.goal(), own.goal());
        // Its long-term memory stayed behind, so what moved is offered to this one.
        let mut later = moved.clone();
        later.advance(later.now() + 1).unwrap();
        assert_eq!(texts(&later, StoreKind::Ltm), ["a", "b", "c", "d"]);
        assert!(later.slots().all(|(at, slot)| at.store == StoreKind::Stm || slot.count == 1));

        let wanting = own.with_goal_of(&other).unwrap();
        whole(&wanting);
        assert_eq!(
            (wanting.goal(), texts(&wanting, StoreKind::Stm)),
            (other.goal(), texts(&own, StoreKind::Stm))
        );
    }

    #[test]
    fn memories_of_two_spaces_are_not_joined() {
        let own = memory(false, &[(1, "a", 0.9)]);
        let mut other = own.clone();
        other.space = SpaceId::of(b"two");
        assert!(own.united(&other).is_err());
        assert!(own.with_stm_of(&other).is_err());
        assert!(own.with_goal_of(&other).is_err());
    }
}
