//! The control of every experiment: the same memory with its values exchanged.

use std::collections::BTreeMap;

use crate::observation::MemoryError;
use crate::seeded::Seeded;
use crate::slot::{Slot, SlotValue};
use crate::{Recalled, UnifiedMemory};

impl UnifiedMemory {
    /// A copy in which every slot says what another one said, with its own key.
    ///
    /// The different values are exchanged along one random cycle, so that no slot keeps its own, not
    /// even from a twin in the other store. Keys, energies and ticks stay; the source goes with the
    /// value. A slot's token keys stay as well, repeated or cut to the new value's length, so that
    /// each now has another span's next token. The goal's values are exchanged along a random cycle too:
    /// a goal as long as before that nothing has led to.
    ///
    /// # Errors
    /// There are fewer than two different values.
    pub fn shuffled(&self, seed: u64) -> Result<Self, MemoryError> {
        let mut values: BTreeMap<&SlotValue, &str> = BTreeMap::new();
        for (_, slot) in self.slots() {
            values.entry(&slot.value).or_insert(&slot.source);
        }
        if values.len() < 2 {
            return Err(MemoryError::NothingToShuffle { distinct: values.len() });
        }
        let order = Seeded::new(seed).cycle(values.len());
        let values: Vec<(&SlotValue, &str)> = values.into_iter().collect();
        let mut shuffled = self.clone();
        let change = |slot: &mut Slot| {
            let own = values
                .binary_search_by(|(value, _)| (*value).cmp(&slot.value))
                .expect("the values were collected from the same slots");
            exchange(slot, values[order[own]]);
        };
        shuffled.stm.change_all(change);
        shuffled.ltm.change_all(change);
        let exchanged = Seeded::new(!seed).cycle(self.dim());
        let goal = &self.goal.vector;
        shuffled.goal.vector = exchanged.into_iter().map(|place| goal[place]).collect();
        Ok(shuffled)
    }

    /// Lets what was recalled from another memory say what the same slot says here. Where there is no such slot,
    /// it stays.
    pub fn restate(&self, recalled: &mut Recalled) {
        if let Some(slot) = self.slot(recalled.slot) {
            recalled.text.clone_from(&slot.value.text);
            recalled.token_ids.clone_from(&slot.value.token_ids);
            recalled.source.clone_from(&slot.source);
        }
    }
}

fn exchange(slot: &mut Slot, (value, source): (&SlotValue, &str)) {
    slot.token_keys = slot.token_keys.cycled(value.token_ids.len());
    slot.value = value.clone();
    source.clone_into(&mut slot.source);
}
