//! Dreams: redundant slots become one, nothing is forgotten, and a bad dream leaves no trace.

use cart_memory::config::{GraphRules, Part};
use cart_memory::{DreamOptions, MemoryConfig, StoreKind, UnifiedMemory, fuse};

use crate::given::{eager, memory, seen, texts};

/// Directions that are all different, the same in every run.
fn direction(index: u32) -> Vec<f32> {
    let mut state = u64::from(index) * 7919 + 17;
    (0..16)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// 20 facts, each in long-term memory twice: with other punctuation and a slightly other key.
fn with_near_duplicates() -> UnifiedMemory {
    let graph = Some(GraphRules::default());
    let config = MemoryConfig { ltm_slots: 64, prune_age: 1 << 40, graph, ..eager() };
    let mut memory = memory(16, config);
    for fact in 0..20 {
        let key = direction(fact);
        let near: Vec<f32> =
            key.iter().zip(direction(fact + 100)).map(|(a, b)| a + 0.1 * b).collect();
        let at = u64::from(fact) * 2;
        memory.observe(at, &seen(&format!("Fact {fact} holds."), &key, 0.9)).unwrap();
        memory.observe(at + 1, &seen(&format!("fact {fact} holds"), &near, 0.8)).unwrap();
    }
    memory
}

#[test]
fn near_duplicates_become_one_and_everything_is_still_known() {
    let memory = with_near_duplicates();
    let (dreamed, report) = memory.dream(&DreamOptions::default()).unwrap();
    assert!(report.accepted, "{report:?}");
    assert_eq!((report.slots_before, report.slots_after, report.merged.len()), (40, 20, 20));
    assert!(report.after.recall >= report.before.recall && report.before.recall > 0.95);
    assert_eq!(texts(&dreamed, StoreKind::Ltm).len(), 20);
    assert!(report.rehearsed > 0 && report.refined == 20);
    // The sums of both are in the one that stayed.
    let counted = |memory: &UnifiedMemory| -> u64 {
        memory.slots().map(|(_, slot)| slot.statistics.count).sum()
    };
    assert_eq!(counted(&dreamed), counted(&memory));
    for fact in 0..20 {
        let hits = dreamed.peek(dreamed.now(), &direction(fact), 1).unwrap();
        assert_eq!(hits[0].text, format!("Fact {fact} holds."));
    }
    let again = UnifiedMemory::restore(&dreamed.snapshot()).unwrap();
    assert_eq!(again.snapshot(), dreamed.snapshot());
    // The same dream again, and another seed: the same and allowed.
    assert_eq!(memory.dream(&DreamOptions::default()).unwrap().0.snapshot(), dreamed.snapshot());
}

#[test]
fn a_dream_makes_up_no_part_that_is_missing() {
    let part = |name: &str| Part { name: name.to_owned(), dim: 8, weight: 1.0 };
    let parts = vec![part("text"), part("audio")];
    let mut memory = memory(16, MemoryConfig { parts: parts.clone(), ..eager() });
    for fact in 0..12 {
        let key = direction(fact);
        let both = [("text", &key[..8]), ("audio", &key[8..])];
        let given = if fact % 2 == 0 { &both[..] } else { &both[..1] };
        let key = fuse(&parts, given).unwrap();
        memory.observe(u64::from(fact), &seen(&format!("fact {fact}"), &key, 0.9)).unwrap();
    }
    // Probes are of unit length in each part, and what was only read is asked as read: all are known.
    let options = DreamOptions { refine: 0.05, ..DreamOptions::default() };
    let (dreamed, report) = memory.dream(&options).unwrap();
    assert!(report.accepted && report.refined == 12, "{report:?}");
    for (slot, found) in dreamed.slots().filter(|(slot, _)| slot.store == StoreKind::Ltm) {
        let before = memory.slot(slot).unwrap();
        assert_ne!(found.key, before.key);
        let heard = found.key[8..].iter().any(|&value| value != 0.0);
        assert_eq!(
            heard,
            before.key[8..].iter().any(|&value| value != 0.0),
            "{}",
            found.value.text
        );
    }
    assert!(report.before.reconstruction < 0.2, "{report:?}");
}

#[test]
fn a_bad_dream_is_taken_back() {
    let memory = with_near_duplicates();
    let forced = DreamOptions { redundancy: -1.0, overlap: 0.0, ..DreamOptions::default() };
    let (after, report) = memory.dream(&forced).unwrap();
    assert!(!report.accepted && report.slots_after < 5, "{report:?}");
    assert!(report.after.recall < report.before.recall);
    assert_eq!(after.snapshot(), memory.snapshot());
    let smeared = DreamOptions { refine: 1.0, temperature: 10.0, ..DreamOptions::default() };
    let (after, report) = memory.dream(&smeared).unwrap();
    assert!(!report.accepted, "{report:?}");
    assert_eq!(after.snapshot(), memory.snapshot());
}

#[test]
fn different_texts_are_never_merged_by_default() {
    let mut memory = memory(16, eager());
    let key = direction(1);
    memory.observe(1, &seen("The code is 417.", &key, 0.9)).unwrap();
    memory.observe(2, &seen("The code is 418.", &key, 0.9)).unwrap();
    let (dreamed, report) = memory.dream(&DreamOptions::default()).unwrap();
    assert!(report.merged.is_empty());
    assert_eq!(texts(&dreamed, StoreKind::Ltm).len(), 2);
}

#[test]
fn options_out_of_range_and_empty_memories() {
    let memory = memory(2, eager());
    let refused = memory.dream(&DreamOptions { temperature: 0.0, ..Default::default() });
    assert_eq!(refused.unwrap_err().name, "temperature");
    let refused = memory.dream(&DreamOptions { refine: f32::NAN, ..Default::default() });
    assert_eq!(refused.unwrap_err().name, "refine");
    let (after, report) = memory.dream(&DreamOptions::default()).unwrap();
    assert!(report.accepted && report.before.probes == 0);
    assert_eq!(after.snapshot(), memory.snapshot());
}
