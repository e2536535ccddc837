//! The ring: blend, append, evict.

use cart_memory::{MemoryConfig, MemoryEvent, StoreKind};

use crate::given::{find, memory, quiet, seen, texts};

#[test]
fn the_same_text_near_by_is_blended_by_ema() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.5)).unwrap();
    let events = memory.observe(2, &seen("a", &[0.96, 0.28], 1.0)).unwrap();
    let [MemoryEvent::Blended { cosine, energy_before, energy, .. }] = events[..] else {
        panic!("{events:?}")
    };
    assert!((cosine - 0.96).abs() < 1e-6);
    assert_eq!(energy_before, 0.5);
    assert!((energy - 0.55).abs() < 1e-6);

    let slot = memory.slot(find(&memory, StoreKind::Stm, "a")).unwrap();
    // 0.9 · (1, 0) + 0.1 · (0.96, 0.28)
    assert!((slot.key[0] - 0.996).abs() < 1e-6 && (slot.key[1] - 0.028).abs() < 1e-6);
    assert_eq!((slot.made, slot.refreshed, slot.count), (1, 2, 2));
    // The sums do not depend on the order: ½ · (1, 0) + 1 · (0.96, 0.28).
    assert!((slot.statistics.weighted_sum[0] - 1.46).abs() < 1e-6);
    assert!((slot.statistics.weighted_sum[1] - 0.28).abs() < 1e-6);
    assert_eq!((slot.statistics.weight, slot.statistics.count), (1.5, 2));
}

#[test]
fn another_text_near_by_is_kept_apart_and_said_so() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.5)).unwrap();
    let events = memory.observe(2, &seen("b", &[1.0, 0.0], 0.5)).unwrap();
    let [MemoryEvent::Added { kept_apart: Some(near), .. }] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((near.slot.number(), near.cosine), (0, 1.0));
    assert_eq!(texts(&memory, StoreKind::Stm), ["a", "b"]);
    // The slot of the same text is found behind a nearer one of another text.
    memory.observe(3, &seen("a", &[1.0, 0.01], 0.5)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Stm), ["a", "b"]);
    assert_eq!(memory.counters().blended, 1);
}

#[test]
fn the_same_text_far_away_gets_its_own_slot() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.5)).unwrap();
    memory.observe(2, &seen("a", &[0.94, 0.341_174], 0.5)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Stm), ["a", "a"]);
}

#[test]
fn centring_decides_what_is_near() {
    use cart_format::SpaceId;
    use cart_memory::{Normalization, UnifiedMemory};
    // Raw, the two keys have a cosine of 0.9998; around the centre they are opposite.
    let normalization = Normalization::new(vec![100.0, 0.0], vec![1.0, 1.0]).unwrap();
    let mut memory = UnifiedMemory::new(SpaceId::of(b"s"), normalization, quiet()).unwrap();
    memory.observe(1, &seen("a", &[100.0, 1.0], 0.5)).unwrap();
    memory.observe(2, &seen("a", &[100.0, -1.0], 0.5)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Stm).len(), 2);
}

#[test]
fn the_full_ring_evicts_the_oldest_and_gives_its_place() {
    let mut memory = memory(2, MemoryConfig { stm_slots: 2, ..quiet() });
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.1)).unwrap();
    memory.observe(2, &seen("b", &[0.0, 1.0], 0.1)).unwrap();
    // A refresh does not make a slot younger: a ring goes by when slots were made.
    memory.observe(3, &seen("a", &[1.0, 0.0], 0.1)).unwrap();
    let events = memory.observe(4, &seen("c", &[-1.0, 0.0], 0.1)).unwrap();
    let [MemoryEvent::Evicted { text, in_ltm: None, .. }, MemoryEvent::Added { .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(text, "a");
    assert_eq!(texts(&memory, StoreKind::Stm), ["c", "b"]);
}

#[test]
fn eviction_offers_the_slot_to_long_term_memory_first() {
    let mut memory = memory(2, MemoryConfig { stm_slots: 1, ..quiet() });
    memory.observe(1, &seen("worth", &[1.0, 0.0], 0.9)).unwrap();
    let events = memory.observe(2, &seen("nothing", &[0.0, 1.0], 0.1)).unwrap();
    let kept = find(&memory, StoreKind::Ltm, "worth").id;
    assert!(events.iter().any(
        |event| matches!(event, MemoryEvent::Evicted { in_ltm: Some(id), .. } if *id == kept)
    ));
    let events = memory.observe(3, &seen("next", &[1.0, 1.0], 0.1)).unwrap();
    assert!(matches!(events[0], MemoryEvent::Evicted { in_ltm: None, .. }), "{events:?}");
    assert_eq!(texts(&memory, StoreKind::Ltm), ["worth"]);
}

#[test]
fn a_blend_that_meets_at_the_centre_keeps_the_old_direction() {
    let config = MemoryConfig { merge_threshold: -1.0, stm_ema_alpha: 0.5, ..quiet() };
    let mut memory = memory(2, config);
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.5)).unwrap();
    memory.observe(2, &seen("a", &[-1.0, 0.0], 0.5)).unwrap();
    let slot = memory.slot(find(&memory, StoreKind::Stm, "a")).unwrap();
    assert_eq!((slot.key.as_slice(), slot.count), ([1.0, 0.0].as_slice(), 2));
}
