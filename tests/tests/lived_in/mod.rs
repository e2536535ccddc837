//! A memory in which everything has happened.

use cart_format::SpaceId;
use cart_memory::{MemoryConfig, MemorySnapshot, Normalization, Observation, UnifiedMemory};
use cart_tests::Chance;

/// Values in its keys.
pub(crate) const DIM: usize = 24;

/// A memory that has seen, merged, consolidated, recalled and superseded.
pub(crate) fn lived_in() -> MemorySnapshot {
    let config = MemoryConfig {
        observer_interval: 1,
        max_span_tokens: 6,
        stm_slots: 20,
        ..MemoryConfig::default()
    };
    let mut chance = Chance::new(3);
    let mut vector = |len: usize| -> Vec<f32> {
        (0..len).map(|_| chance.below(2000) as f32 / 1000.0 - 1.0).collect()
    };
    let normalization = Normalization::fit(&vector(DIM * 9), DIM).unwrap();
    let space = SpaceId::of(b"a space");
    let mut memory = UnifiedMemory::new(space, normalization, config).unwrap();
    let mut key = vector(DIM);
    for tick in 0..40_u64 {
        if tick % 3 == 0 {
            key = vector(DIM);
        }
        let tokens = 1 + tick as usize / 3 % 6;
        let seen = Observation {
            token_keys: if tick % 4 == 0 { Vec::new() } else { vector(DIM * tokens) },
            token_ids: (0..tokens as u32).collect(),
            text: format!("fact {}", tick / 3),
            surprise: vec![2.0 + tick as f32 / 8.0; tokens],
            energy: (tick % 10) as f32 / 9.0,
            source: "prompt".to_owned(),
            key: key.clone(),
        };
        memory.observe(tick, &seen).unwrap();
    }
    memory.recall(41, &key, 3).unwrap();
    let slots: Vec<_> = memory.slots().map(|(slot, _)| slot).collect();
    memory.supersede(42, slots[0], slots[1]).unwrap();
    let counters = memory.counters();
    assert!(
        counters.blended > 0 && counters.consolidated > 0 && counters.recalls > 0,
        "{counters:?}"
    );
    memory.snapshot()
}
