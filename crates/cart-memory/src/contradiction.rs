//! Contradictions: the same key with another value. Both are kept; which of them holds is a policy.

use crate::config::ContradictionPolicy;
use crate::event::MemoryEvent;
use crate::slot::{SlotRef, StoreKind};
use crate::{Tick, UnifiedMemory};

/// A slot that holds and says something else under nearly the same key.
struct Rival {
    at: SlotRef,
    cosine: f32,
    worth: f32,
}

impl UnifiedMemory {
    /// Looks for slots that contradict the short-term slot at `position`, which was just written.
    pub(crate) fn contradict(&mut self, at: Tick, position: usize, events: &mut Vec<MemoryEvent>) {
        let Some(rules) = self.config.contradictions else { return };
        let slot = self.stm.slot(position);
        let own = SlotRef { store: StoreKind::Stm, id: slot.id };
        let worth = slot.gated_energy();
        let rivals = self.rivals(at, position, rules.cosine);
        if rules.policy == ContradictionPolicy::KeepBoth {
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

    fn rivals(&self, at: Tick, position: usize, least: f32) -> Vec<Rival> {
        let slot = self.stm.slot(position);
        let unit = self.stm.unit(position);
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
        let found = self.find_mut(slot).expect("the slot was just written");
        if found.validity.until.take().is_some() {
            found.validity.superseded_by = None;
            events.push(MemoryEvent::Reopened { slot });
        }
    }

    fn end(&mut self, at: Tick, slot: SlotRef, by: SlotRef, events: &mut Vec<MemoryEvent>) {
        let found = self.find_mut(slot).expect("rivals were found in this memory");
        if found.validity.holds(at) {
            found.validity.until = Some(at);
            found.validity.superseded_by = Some(by.id);
            events.push(MemoryEvent::Superseded { slot, by });
        }
    }
}
