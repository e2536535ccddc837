//! What differs between two memories, slot by slot.

use std::collections::BTreeSet;

use cart_format::SpaceId;
use cart_memory::{MemoryConfig, Normalization, Observation, StoreKind, UnifiedMemory};
use cart_merge::diff::{MemoryDiff, SlotFacts};
use proptest::prelude::*;

/// Facts and how much they matter, told one after the other. What matters is consolidated after a while.
fn memory(space: &[u8], told: &[(u8, f32)]) -> UnifiedMemory {
    let normalization = Normalization::identity(4).unwrap();
    let config = MemoryConfig { stm_slots: 5, ltm_slots: 6, ..MemoryConfig::default() };
    let mut memory = UnifiedMemory::new(SpaceId::of(space), normalization, config).unwrap();
    for (at, &(fact, energy)) in told.iter().enumerate() {
        tell(&mut memory, at as u64 + 1, fact, energy);
    }
    memory
}

fn tell(memory: &mut UnifiedMemory, at: u64, fact: u8, energy: f32) {
    let angle = f32::from(fact);
    let seen = Observation {
        key: vec![angle.sin(), angle.cos(), (angle * 3.0).sin(), 0.3],
        token_keys: Vec::new(),
        token_ids: vec![u32::from(fact)],
        text: format!("fact {fact}"),
        surprise: Vec::new(),
        energy,
        source: "prompt".to_owned(),
    };
    memory.observe(at, &seen).unwrap();
}

fn texts(facts: &[SlotFacts]) -> BTreeSet<&str> {
    facts.iter().map(|one| one.text.as_str()).collect()
}

fn texts_of(memory: &UnifiedMemory) -> BTreeSet<&str> {
    memory.slots().map(|(_, slot)| slot.value.text.as_str()).collect()
}

#[test]
fn what_was_learned_moved_and_reweighed_is_told_apart() {
    let before = memory(b"space", &[(1, 0.2), (2, 0.3)]);
    let mut after = before.clone();
    tell(&mut after, 3, 3, 0.25);
    let slot = before.slots().next().unwrap().0;
    after.set_gate(slot, 1.5).unwrap();
    let found = MemoryDiff::new(Some(&before), Some(&after));
    assert!(found.is_changed() && !found.foreign_space);
    assert_eq!((texts(&found.added), found.removed.len()), (BTreeSet::from(["fact 3"]), 0));
    assert_eq!((found.same, found.changed.len(), found.moved.len()), (1, 1, 0));
    let changed = &found.changed[0];
    assert_eq!((changed.text.as_str(), changed.a.gate, changed.b.gate), ("fact 1", 0.0, 1.5));
    assert_eq!(changed.key_cosine, Some(1.0));
    let counters: Vec<_> =
        found.counters.iter().map(|one| (one.name.as_str(), one.a, one.b)).collect();
    assert!(counters.contains(&("observations", 2, 3)), "{counters:?}");
    assert_eq!(found.surprise, None);
    assert!(!MemoryDiff::new(Some(&after), Some(&after)).is_changed());

    // What matters goes to long-term memory as well.
    let mut kept = before.clone();
    for (at, fact) in (3..40).enumerate() {
        tell(&mut kept, at as u64 + 3, fact, 0.95);
    }
    let stores: BTreeSet<StoreKind> = kept.slots().map(|(slot, _)| slot.store).collect();
    assert_eq!(stores.len(), 2);
    let halfway = memory(b"space", &(3..12).map(|fact| (fact, 0.95)).collect::<Vec<_>>());
    let found = MemoryDiff::new(Some(&halfway), Some(&kept));
    for moved in &found.moved {
        assert_ne!(moved.from, moved.to);
    }
    let goal = found.goal.unwrap();
    assert!(goal.degrees.unwrap() > 0.0 && goal.steps_b > goal.steps_a, "{goal:?}");

    let elsewhere =
        MemoryDiff::new(Some(&before), Some(&memory(b"elsewhere", &[(1, 0.2), (9, 0.3)])));
    assert!(elsewhere.foreign_space);
    assert_eq!(elsewhere.goal.unwrap().cosine, None);
    assert_eq!(
        (texts(&elsewhere.added), texts(&elsewhere.removed)),
        (BTreeSet::from(["fact 9"]), BTreeSet::from(["fact 2"]))
    );
}

#[test]
fn links_are_compared_by_what_they_connect() {
    let with_graph = |facts: &[u8]| {
        let settings = serde_json::json!({"stm_slots": 6, "graph": {"rate": 0.5}});
        let config: MemoryConfig = serde_json::from_value(settings).unwrap();
        let normalization = Normalization::identity(4).unwrap();
        let mut memory = UnifiedMemory::new(SpaceId::of(b"space"), normalization, config).unwrap();
        for (at, fact) in facts.iter().enumerate() {
            tell(&mut memory, at as u64 + 1, *fact, 0.2);
        }
        memory
    };
    let (a, b) = (with_graph(&[1, 2, 3]), with_graph(&[7, 1, 2, 9]));
    let found = MemoryDiff::new(Some(&a), Some(&b));
    // 1 → 2 is in both under other ids; 2 → 3 only in A; 7 → 1 and 2 → 9 only in B.
    assert_eq!(found.links_same, 1, "{:?}", found.links);
    let links: BTreeSet<(&str, &str, bool)> = found
        .links
        .iter()
        .map(|link| (link.from.as_str(), link.to.as_str(), link.b.is_some()))
        .collect();
    let expected =
        [("fact 2", "fact 3", false), ("fact 7", "fact 1", true), ("fact 2", "fact 9", true)];
    assert_eq!(links, expected.into_iter().collect());
}

proptest! {
    /// Nothing is overlooked, and a difference turned around says the same of the other side.
    #[test]
    fn every_text_of_both_is_accounted_for(
        told in prop::collection::vec((0_u8..12, 0.0_f32..1.0), 0..30),
        others in prop::collection::vec((0_u8..12, 0.0_f32..1.0), 0..30),
    ) {
        let (a, b) = (memory(b"space", &told), memory(b"space", &others));
        let there = MemoryDiff::new(Some(&a), Some(&b));
        let back = MemoryDiff::new(Some(&b), Some(&a));
        prop_assert_eq!(texts(&there.added), texts(&back.removed));
        prop_assert_eq!(texts(&there.removed), texts(&back.added));
        prop_assert_eq!(there.same, back.same);
        let (all_a, all_b) = (texts_of(&a), texts_of(&b));
        prop_assert_eq!(texts(&there.added), all_b.difference(&all_a).copied().collect());
        prop_assert_eq!(texts(&there.removed), all_a.difference(&all_b).copied().collect());
        prop_assert_eq!(there.is_changed(), back.is_changed());
        prop_assert!(!MemoryDiff::new(Some(&a), Some(&a)).is_changed());
    }
}
