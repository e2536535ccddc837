//! The control: values exchanged against keys.

use std::collections::BTreeMap;

use cart_memory::{MemoryError, SlotRef, UnifiedMemory};

use crate::given::{eager, memory, seen, spanned};

fn filled() -> UnifiedMemory {
    let mut memory = memory(3, eager());
    let row: &[f32] = &[1.0, 2.0, 3.0];
    memory.observe(1, &spanned("ab", &[1.0, 0.0, 0.0], &[row; 2])).unwrap();
    memory.observe(2, &spanned("cdefg", &[0.0, 1.0, 0.0], &[row; 5])).unwrap();
    memory.observe(3, &seen("hij", &[0.0, 0.0, 1.0], 0.2)).unwrap();
    memory
}

fn texts(memory: &UnifiedMemory) -> BTreeMap<SlotRef, String> {
    memory.slots().map(|(at, slot)| (at, slot.value.text.clone())).collect()
}

#[test]
fn no_slot_keeps_what_it_said_and_nothing_is_lost() {
    let memory = filled();
    assert_eq!(texts(&memory).len(), 5, "two of the three are in both stores");
    for seed in 0..20 {
        let shuffled = memory.shuffled(seed).unwrap();
        for ((at, before), (_, after)) in texts(&memory).iter().zip(&texts(&shuffled)) {
            assert_ne!(before, after, "{at} with seed {seed}");
        }
        let distinct = |memory| {
            let mut all: Vec<String> = texts(memory).into_values().collect();
            all.sort();
            all.dedup();
            all
        };
        assert_eq!(distinct(&memory), distinct(&shuffled));
        for (at, slot) in shuffled.slots() {
            assert_eq!(slot.key, memory.slot(at).unwrap().key);
            let rows = slot.token_keys.len();
            assert!(rows == 0 || rows == slot.value.token_ids.len());
        }
        // A shuffled memory is a memory: it can be saved and restored.
        let snapshot = shuffled.snapshot();
        assert_eq!(UnifiedMemory::restore(&snapshot).unwrap().snapshot(), snapshot);
        assert_eq!(memory.shuffled(seed).unwrap().snapshot(), snapshot);
    }
}

#[test]
fn one_value_can_not_be_shuffled() {
    let mut memory = memory(2, eager());
    assert_eq!(memory.shuffled(1).unwrap_err(), MemoryError::NothingToShuffle { distinct: 0 });
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    assert_eq!(memory.shuffled(1).unwrap_err(), MemoryError::NothingToShuffle { distinct: 1 });
}
