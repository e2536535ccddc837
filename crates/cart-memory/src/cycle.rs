//! Cycles between conversations: what time without ticks leaves of the two stores.

use crate::event::MemoryEvent;
use crate::observation::{MAX_CYCLES, MemoryError, check_tick};
use crate::slot::{SlotRef, StoreKind};
use crate::{Tick, UnifiedMemory};

impl UnifiedMemory {
    /// Lets cycles pass: energies shrink by the `retention` of `buffer` and `store`, to
    /// `energy · retention^cycles`, and what is under their `floor` leaves.
    ///
    /// # Errors
    /// Neither `buffer` nor `store` is set, the number of cycles is out of range, or time would run
    /// backwards.
    pub fn cycle(&mut self, at: Tick, cycles: u32) -> Result<Vec<MemoryEvent>, MemoryError> {
        check_tick(at, self.now)?;
        if !(1..=MAX_CYCLES).contains(&cycles) {
            return Err(MemoryError::Cycles { found: cycles });
        }
        let stm = self.config.buffer.map(|rules| (rules.retention, rules.floor));
        // A long-term memory that many share has its cycles where it is.
        let ltm = self.config.store.filter(|_| self.offers.is_none());
        let ltm = ltm.map(|rules| (rules.retention, rules.floor));
        if stm.is_none() && ltm.is_none() {
            return Err(MemoryError::RuleNotSet { rule: "buffer` or `store" });
        }
        self.now = at;
        self.counters.cycles += u64::from(cycles);
        let mut events = Vec::new();
        for (store, rules) in [(StoreKind::Stm, stm), (StoreKind::Ltm, ltm)] {
            if let Some((retention, floor)) = rules {
                self.fade(store, retention, floor, cycles, &mut events);
            }
        }
        let (stm, ltm) = (self.stm.len() as u64, self.ltm.len() as u64);
        events.push(MemoryEvent::Cycled { cycles, stm, ltm });
        Ok(events)
    }

    fn fade(
        &mut self,
        store: StoreKind,
        retention: f32,
        floor: f32,
        cycles: u32,
        events: &mut Vec<MemoryEvent>,
    ) {
        let kept = libm::pow(f64::from(retention), f64::from(cycles));
        let bank = self.bank_mut(store);
        bank.change_all(|slot| slot.energy = (f64::from(slot.energy) * kept) as f32);
        let faint: Vec<usize> = bank
            .iter()
            .filter(|(_, slot)| slot.energy < floor)
            .map(|(position, _)| position)
            .collect();
        for position in faint {
            let home = match store {
                StoreKind::Stm => self.long_term_home(position),
                StoreKind::Ltm => None,
            };
            let slot = self.bank_mut(store).remove(position);
            self.counters.faded += 1;
            let at = SlotRef { store, id: slot.id };
            let (text, energy) = (slot.value.text.clone(), slot.energy);
            events.push(MemoryEvent::Faded { slot: at, text, energy });
            self.succeed(&slot, home, events);
        }
    }
}
