//! Contradictions: the same key with another value. Both are kept; which of them holds is a policy.
//! And succession: what follows for others where a slot leaves, so that no value is lost because
//! something took its place that is gone itself.

use crate::bank::Bank;
use crate::config::ContradictionPolicy;
use crate::event::MemoryEvent;
use crate::slot::{SlotRef, StoreKind};
use crate::{Slot, SlotId, Tick, UnifiedMemory};

/// A slot that holds and says something else under nearly the same key.
struct Rival {
    at: SlotRef,
    cosine: f32,
    worth: f32,
}

impl UnifiedMemory {
    /// Looks for slots that contradict the slot at `position`, which was just written. What is said
    /// again holds again, unless it loses against them.
    pub(crate) fn contradict(
        &mut self,
        at: Tick,
        (store, position): (StoreKind, usize),
        events: &mut Vec<MemoryEvent>,
    ) {
        let slot = self.bank(store).slot(position);
        let own = SlotRef { store, id: slot.id };
        let Some(rules) = self.config.contradictions else { return self.reopen(own, events) };
        let worth = slot.gated_energy();
        let rivals = self.rivals(at, (store, position), rules.cosine);
        if rules.policy == ContradictionPolicy::KeepBoth {
            self.reopen(own, events);
            let event = |rival: Rival| MemoryEvent::Contradicted {
                slot: own,
                other: rival.at,
                cosine: rival.cosine,
            };
            return events.extend(rivals.into_iter().map(event));
        }
        let winner = match rules.policy {
            ContradictionPolicy::HighestEnergy => rivals
                .iter()
                .filter(|rival| rival.worth > worth)
                .min_by(|a, b| b.worth.total_cmp(&a.worth).then(a.at.id.cmp(&b.at.id)))
                .map_or(own, |rival| rival.at),
            _ => own,
        };
        if winner == own {
            self.reopen(own, events);
        } else {
            self.end(at, own, winner, events);
        }
        for rival in rivals.into_iter().filter(|rival| rival.at != winner) {
            self.end(at, rival.at, winner, events);
        }
    }

    fn rivals(&self, at: Tick, (store, position): (StoreKind, usize), least: f32) -> Vec<Rival> {
        let slot = self.bank(store).slot(position);
        let unit = self.bank(store).unit(position);
        let others = self.stores().flat_map(|(store, bank)| {
            bank.iter().map(move |(position, slot)| (store, slot, bank.unit(position)))
        });
        others
            .filter(|(_, other, _)| {
                let differs = other.value != slot.value;
                let both_speak = !other.value.is_empty() && !slot.value.is_empty();
                differs && both_speak && other.validity.holds(at)
            })
            .map(|(store, other, key)| Rival {
                at: SlotRef { store, id: other.id },
                cosine: self.normalization.metric().cosine(key, unit),
                worth: other.gated_energy(),
            })
            .filter(|rival| rival.cosine >= least)
            .collect()
    }

    fn reopen(&mut self, slot: SlotRef, events: &mut Vec<MemoryEvent>) {
        let mut found = self.find_mut(slot).expect("the slot was found in this memory");
        if found.validity.until.take().is_some() {
            found.validity.superseded_by = None;
            events.push(MemoryEvent::Reopened { slot });
        }
    }

    /// Whether a short-term slot holds in place of another that is still there. It is worth keeping
    /// then whatever its energy: without it, the other would be what is known.
    pub(crate) fn corrects(&self, at: Tick, position: usize) -> bool {
        let slot = self.stm.slot(position);
        let has_ended_others = |(_, bank): (_, &Bank)| !bank.succeeded_by(slot.id).is_empty();
        slot.validity.holds(at) && self.stores().any(has_ended_others)
    }

    /// A slot is gone. Its links, and what it took the place of, go to the slot that keeps what it
    /// said; the latter otherwise to the slot that took its own place. Where there is none of these,
    /// what it took the place of holds again.
    pub(crate) fn succeed(
        &mut self,
        gone: &Slot,
        home: Option<SlotId>,
        events: &mut Vec<MemoryEvent>,
    ) {
        self.unlink(gone.id, home);
        let heir = home.or(gone.validity.superseded_by);
        let in_store = |(store, bank): (StoreKind, &Bank)| -> Vec<SlotRef> {
            let positions = bank.succeeded_by(gone.id).into_iter();
            positions.map(|position| SlotRef { store, id: bank.slot(position).id }).collect()
        };
        let ended: Vec<SlotRef> = self.stores().flat_map(in_store).collect();
        for slot in ended {
            // Two slots may have been told to take each other's place.
            match heir.filter(|&heir| heir != slot.id) {
                Some(heir) => {
                    let mut found = self.find_mut(slot).expect("the slot was found in this memory");
                    found.validity.superseded_by = Some(heir);
                }
                None => self.reopen(slot, events),
            }
        }
    }

    fn end(&mut self, at: Tick, slot: SlotRef, by: SlotRef, events: &mut Vec<MemoryEvent>) {
        let mut found = self.find_mut(slot).expect("rivals were found in this memory");
        if found.validity.holds(at) {
            found.validity.until = Some(at);
            found.validity.superseded_by = Some(by.id);
            events.push(MemoryEvent::Superseded { slot, by });
        }
    }
}
