//! Bad input: a typed error, and nothing has changed.

use cart_format::SpaceId;
use cart_memory::{
    MAX_TICK, MemoryConfig, MemoryError, NextTokenQuery, Normalization, Observation, RestoreError,
    SlotRef, StoreKind, UnifiedMemory, VectorError,
};

use crate::given::{find, memory, quiet, seen};

fn good() -> Observation {
    Observation {
        key: vec![1.0, 0.5],
        token_keys: vec![1.0, 0.0, 0.0, 1.0],
        token_ids: vec![7, 8],
        text: "ab".to_owned(),
        surprise: vec![1.0, 2.0],
        energy: 0.5,
        source: "test".to_owned(),
    }
}

#[test]
fn malformed_observations_are_refused_and_change_nothing() {
    let mut memory = memory(2, MemoryConfig { max_span_tokens: 2, ..quiet() });
    memory.observe(1, &good()).unwrap();
    let before = memory.snapshot();
    let vector = |problem| MemoryError::Vector(problem);
    let inf = f32::INFINITY;
    let cases = [
        (
            Observation { key: vec![1.0], ..good() },
            vector(VectorError::Dimension { what: "key", found: 1, expected: 2 }),
        ),
        (
            Observation { key: vec![1.0, inf], ..good() },
            vector(VectorError::NotFinite { what: "key", index: 1, found: inf }),
        ),
        (
            Observation { key: vec![0.0, 0.0], ..good() },
            vector(VectorError::Zero { what: "key", row: 0 }),
        ),
        (
            Observation { token_keys: vec![1.0, 0.0, 0.0, 0.0], ..good() },
            vector(VectorError::Zero { what: "token keys", row: 1 }),
        ),
        (
            Observation { token_keys: vec![1.0, 0.0, inf, 0.0], ..good() },
            vector(VectorError::NotFinite { what: "token keys", index: 2, found: inf }),
        ),
        (
            Observation { token_keys: vec![1.0, 0.0], ..good() },
            MemoryError::TokenKeys { found: 2, tokens: 2, dim: 2 },
        ),
        (
            Observation { surprise: vec![1.0; 3], ..good() },
            MemoryError::SurpriseLength { found: 3, tokens: 2 },
        ),
        (
            Observation { surprise: vec![1.0, -2.0], ..good() },
            MemoryError::Surprise { index: 1, found: -2.0 },
        ),
        (Observation { energy: 1.5, ..good() }, MemoryError::Energy { found: 1.5 }),
        (Observation { energy: -0.1, ..good() }, MemoryError::Energy { found: -0.1 }),
        (
            Observation { token_ids: vec![1, 2, 3], ..good() },
            MemoryError::SpanTooLong { found: 3, allowed: 2 },
        ),
        (Observation { text: String::new(), token_ids: vec![], ..good() }, MemoryError::NoValue),
    ];
    for (bad, expected) in cases {
        assert_eq!(memory.observe(2, &bad), Err(expected));
        assert_eq!(memory.snapshot(), before);
    }
    for bad in [f32::NAN, inf] {
        assert!(memory.observe(2, &Observation { energy: bad, ..good() }).is_err());
        assert!(memory.observe(2, &Observation { surprise: vec![bad], ..good() }).is_err());
        assert!(memory.observe(2, &Observation { key: vec![bad, 1.0], ..good() }).is_err());
        assert_eq!(memory.snapshot(), before);
    }
}

#[test]
fn time_does_not_run_backwards() {
    let mut memory = memory(2, quiet());
    memory.observe(5, &good()).unwrap();
    let back = MemoryError::TimeRanBack { found: 4, now: 5 };
    assert_eq!(memory.observe(4, &good()), Err(back));
    let back = MemoryError::TimeRanBack { found: 4, now: 5 };
    assert_eq!(memory.recall(4, &[1.0, 0.0], 1), Err(back));
    let large = MemoryError::TickTooLarge { found: MAX_TICK + 1 };
    assert_eq!(memory.advance(MAX_TICK + 1), Err(large));
    assert_eq!(memory.now(), 5);
}

#[test]
fn queries_and_slots_that_can_not_be_are_refused() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    let slot = find(&memory, StoreKind::Stm, "a");
    assert!(matches!(
        memory.knn(NextTokenQuery::of_state(&[0.0, 0.0]), 1),
        Err(MemoryError::Vector(_))
    ));
    assert!(matches!(memory.recall(2, &[1.0], 1), Err(MemoryError::Vector(_))));
    assert!(matches!(memory.set_gate(slot, f32::NAN), Err(MemoryError::Gate { .. })));
    let gone = SlotRef { store: StoreKind::Ltm, id: slot.id };
    assert_eq!(memory.set_gate(gone, 1.0), Err(MemoryError::NoSuchSlot { slot: gone }));
    assert_eq!(memory.supersede(2, slot, slot), Err(MemoryError::SupersedesItself { slot }));
    assert_eq!(memory.supersede(2, slot, gone), Err(MemoryError::NoSuchSlot { slot: gone }));
}

#[test]
fn impossible_settings_make_no_memory() {
    let normalization = Normalization::identity(2).unwrap();
    let config = MemoryConfig { stm_slots: 0, ..MemoryConfig::default() };
    let refused = UnifiedMemory::new(SpaceId::of(b"s"), normalization, config).unwrap_err();
    assert_eq!(refused.to_string(), "memory setting `stm_slots` is 0; allowed: 1 to 1048576");
}

#[test]
fn another_space_is_refused() {
    let memory = memory(2, quiet());
    let other = SpaceId::of(b"other");
    assert!(memory.require_space(other).is_err());
    assert_eq!(memory.require_space(memory.space()), Ok(()));
    let snapshot = memory.snapshot();
    assert!(matches!(
        UnifiedMemory::restore_for(&snapshot, other),
        Err(RestoreError::ForeignSpace(_))
    ));
    assert!(UnifiedMemory::restore_for(&snapshot, memory.space()).is_ok());
}
