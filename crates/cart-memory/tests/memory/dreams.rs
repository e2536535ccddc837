//! Dreams: redundant slots become one, nothing is forgotten, and a bad dream leaves no trace.

use cart_memory::config::GraphRules;
use cart_memory::{DreamOptions, MemoryConfig, StoreKind, UnifiedMemory};

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
