//! Rules that are set, by hand.

use cart_memory::config::{
    AddressingRules, BiasRules, ContradictionPolicy, ContradictionRules, GraphRules, MergeRule,
    Part,
};
use cart_memory::{
    Answer, Flag, Input, MemoryConfig, MemoryError, MemoryEvent, Normalization, StoreKind,
    UnifiedMemory, fuse,
};

use crate::given::{eager, find, memory, quiet, seen, texts};

fn contradicting(policy: ContradictionPolicy) -> UnifiedMemory {
    let rules = ContradictionRules { policy, cosine: 0.95 };
    memory(2, MemoryConfig { contradictions: Some(rules), ..quiet() })
}

fn recalled(memory: &UnifiedMemory, query: &[f32]) -> Vec<String> {
    let hits = memory.peek(memory.now(), query, 9).unwrap();
    hits.into_iter().map(|hit| hit.text).collect()
}

#[test]
fn the_newest_value_holds_and_the_older_is_kept() {
    let mut memory = contradicting(ContradictionPolicy::Newest);
    memory.observe(1, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("other", &[0.0, 1.0], 1.0)).unwrap();
    let events = memory.observe(3, &seen("B", &[1.0, 0.1], 0.3)).unwrap();
    let (a, b) = (find(&memory, StoreKind::Stm, "A"), find(&memory, StoreKind::Stm, "B"));
    assert!(events.contains(&MemoryEvent::Superseded { slot: a, by: b }), "{events:?}");
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["B", "other"]);
    let validity = memory.slot(a).unwrap().validity;
    assert_eq!((validity.from, validity.until, validity.superseded_by), (1, Some(3), Some(b.id)));
    // Told A again, A holds again.
    let events = memory.observe(4, &seen("A", &[1.0, 0.0], 0.3)).unwrap();
    assert!(events.contains(&MemoryEvent::Reopened { slot: a }));
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["A", "other"]);
}

/// A ring of two, with values that are worth nothing to long-term memory by themselves.
fn small(policy: ContradictionPolicy) -> UnifiedMemory {
    let rules = ContradictionRules { policy, cosine: 0.95 };
    memory(2, MemoryConfig { stm_slots: 2, contradictions: Some(rules), ..quiet() })
}

#[test]
fn what_is_told_again_outlives_what_took_its_place() {
    let mut memory = small(ContradictionPolicy::Newest);
    for (at, text) in [(1, "A"), (2, "B"), (3, "A")] {
        memory.observe(at, &seen(text, &[1.0, 0.0], 0.1)).unwrap();
    }
    // The ring is full; what has ended leaves first, though `A` was made before.
    memory.observe(4, &seen("other", &[0.0, 1.0], 0.1)).unwrap();
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["A", "other"]);
}

#[test]
fn a_correction_is_kept_whatever_it_is_worth() {
    let mut memory = small(ContradictionPolicy::Newest);
    memory.observe(1, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("other", &[0.0, 1.0], 0.9)).unwrap();
    // `A` goes to long-term memory; `B` ends it there, and leaves the ring in turn.
    memory.observe(3, &seen("another", &[0.1, 1.0], 0.8)).unwrap();
    memory.observe(4, &seen("B", &[1.0, 0.1], 0.01)).unwrap();
    memory.observe(5, &seen("x", &[-1.0, 0.0], 0.8)).unwrap();
    memory.observe(6, &seen("y", &[-1.0, 1.0], 0.8)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Stm), ["x", "y"]);
    let known = recalled(&memory, &[1.0, 0.0]);
    assert!(known.contains(&"B".to_owned()) && !known.contains(&"A".to_owned()), "{known:?}");
    let (a, b) = (find(&memory, StoreKind::Ltm, "A"), find(&memory, StoreKind::Ltm, "B"));
    assert_eq!(memory.slot(a).unwrap().validity.superseded_by, Some(b.id));
}

#[test]
fn where_the_winner_is_forgotten_the_loser_holds_again() {
    let mut memory = small(ContradictionPolicy::Newest);
    memory.observe(1, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("B", &[1.0, 0.0], 0.9)).unwrap();
    for (at, text) in [(3, "x"), (4, "y")] {
        memory.observe(at, &seen(text, &[0.0, 1.0], 0.9)).unwrap();
    }
    let (a, b) = (find(&memory, StoreKind::Ltm, "A"), find(&memory, StoreKind::Ltm, "B"));
    assert_eq!(memory.slot(a).unwrap().validity.superseded_by, Some(b.id));
    assert_eq!(recalled(&memory, &[1.0, 0.0])[0], "B");
    // `B` was read long ago and `A` was not, so that pruning takes `B` alone.
    let mut saved = memory.snapshot();
    for slot in saved.state["ltm"].as_array_mut().unwrap() {
        let says_a = slot["text"] == "A";
        slot["read"] = u64::from(if says_a { 4_u8 } else { 2 }).into();
        slot["made"] = 1.into();
        slot["refreshed"] = 1.into();
    }
    saved.state["config"]["prune_interval"] = 1.into();
    saved.state["config"]["prune_age"] = 3.into();
    let mut memory = UnifiedMemory::restore(&saved).unwrap();
    let events = memory.advance(6).unwrap();
    assert!(events.contains(&MemoryEvent::Reopened { slot: a }), "{events:?}");
    assert_eq!(recalled(&memory, &[1.0, 0.0])[0], "A");
}

#[test]
fn what_has_ended_goes_into_nothing_that_holds() {
    let mut memory = memory(2, MemoryConfig { stm_slots: 2, ltm_slots: 2, ..quiet() });
    memory.observe(1, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("x", &[0.0, 1.0], 1.0)).unwrap();
    // `A` goes to long-term memory and is told again; that one ends, and leaves the ring.
    memory.observe(3, &seen("y", &[0.1, 1.0], 1.0)).unwrap();
    memory.observe(4, &seen("A", &[1.0, 0.1], 1.0)).unwrap();
    let (told, y) = (find(&memory, StoreKind::Stm, "A"), find(&memory, StoreKind::Stm, "y"));
    let kept = find(&memory, StoreKind::Ltm, "A");
    let before = memory.slot(kept).unwrap().clone();
    memory.supersede(5, told, y).unwrap();
    let events = memory.observe(6, &seen("z", &[-1.0, 0.0], 1.0)).unwrap();
    assert!(
        events.iter().any(|event| matches!(event, MemoryEvent::Outranked { .. })),
        "{events:?}"
    );
    // Neither was it merged into the `A` that holds, nor did it take the place of one that does.
    assert_eq!(memory.slot(kept), Some(&before));
    assert_eq!(texts(&memory, StoreKind::Ltm), ["A", "x"]);
    // And the observer chooses nothing that has ended.
    let mut memory = crate::given::memory(2, MemoryConfig { observer_interval: 4, ..quiet() });
    memory.observe(1, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("x", &[0.0, 1.0], 0.9)).unwrap();
    let (a, x) = (find(&memory, StoreKind::Stm, "A"), find(&memory, StoreKind::Stm, "x"));
    memory.supersede(3, a, x).unwrap();
    memory.advance(4).unwrap();
    assert_eq!(texts(&memory, StoreKind::Ltm), ["x"]);
    // Said again, it holds again, also without a rule about contradictions.
    let events = memory.observe(5, &seen("A", &[1.0, 0.0], 1.0)).unwrap();
    assert!(events.contains(&MemoryEvent::Reopened { slot: a }), "{events:?}");
}

#[test]
fn the_value_with_most_energy_holds() {
    let mut memory = contradicting(ContradictionPolicy::HighestEnergy);
    memory.observe(1, &seen("A", &[1.0, 0.0], 0.8)).unwrap();
    memory.observe(2, &seen("B", &[1.0, 0.1], 0.3)).unwrap();
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["A"]);
    memory.observe(3, &seen("C", &[1.0, 0.1], 0.9)).unwrap();
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["C"]);
    assert_eq!(texts(&memory, StoreKind::Stm).len(), 3);
}

#[test]
fn both_values_hold_where_they_should() {
    let mut memory = contradicting(ContradictionPolicy::KeepBoth);
    memory.observe(1, &seen("A", &[1.0, 0.0], 0.8)).unwrap();
    let events = memory.observe(2, &seen("B", &[1.0, 0.0], 0.7)).unwrap();
    assert!(events.iter().any(|event| matches!(event, MemoryEvent::Contradicted { .. })));
    assert_eq!(recalled(&memory, &[1.0, 0.0]), ["A", "B"]);
}

#[test]
fn the_filter_drops_or_weakens_and_says_why() {
    let rules = BiasRules {
        words: vec!["secret plan".to_owned()],
        centres: vec![vec![0.0, 1.0]],
        cosine: 0.9,
        keep: 0.0,
    };
    let mut memory = memory(2, MemoryConfig { bias: Some(rules.clone()), ..eager() });
    let events = memory.observe(1, &seen("A Secret, plan!", &[1.0, 0.0], 1.0)).unwrap();
    let word = |event: &MemoryEvent| matches!(event, MemoryEvent::Withheld { flag: Flag::Word { word }, .. } if word == "secret plan");
    assert!(events.iter().any(word), "{events:?}");
    memory.observe(2, &seen("near", &[0.1, 1.0], 1.0)).unwrap();
    memory.observe(3, &seen("fine", &[1.0, 0.2], 1.0)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Ltm), ["fine"]);
    assert_eq!((memory.flagged().len(), memory.counters().withheld), (2, 2));

    let rules = BiasRules { keep: 0.5, ..rules };
    let mut memory = crate::given::memory(2, MemoryConfig { bias: Some(rules), ..eager() });
    memory.observe(1, &seen("near", &[0.1, 1.0], 0.8)).unwrap();
    let slot = memory.slot(find(&memory, StoreKind::Ltm, "near")).unwrap();
    assert_eq!(slot.energy, 0.4);
}

#[test]
fn what_was_seen_just_before_brings_up_what_followed() {
    let rules = GraphRules { rate: 0.5, alpha: 0.5, ..GraphRules::default() };
    let mut memory = memory(4, MemoryConfig { graph: Some(rules), ..quiet() });
    memory.observe(1, &seen("fire", &[1.0, 0.0, 0.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("smoke", &[0.0, 1.0, 0.0, 0.0], 1.0)).unwrap();
    memory.observe(9, &seen("rain", &[0.0, 0.0, 1.0, 0.0], 1.0)).unwrap();
    let query = [1.0, 0.0, 0.0, 0.0];
    let hits = memory.associate(10, &query, 3).unwrap();
    let found: Vec<(&str, f32)> = hits.iter().map(|hit| (hit.text.as_str(), hit.direct)).collect();
    assert_eq!(found, [("fire", 1.0), ("smoke", 0.0)]);
    assert!((hits[1].weight - 0.5).abs() < 1e-6);
    let (fire, smoke) =
        (find(&memory, StoreKind::Stm, "fire"), find(&memory, StoreKind::Stm, "smoke"));
    assert_eq!(memory.successors(fire.id)[0].0, smoke.id);
    assert!(memory.successors(smoke.id).is_empty());
}

#[test]
fn links_go_with_a_slot_into_long_term_memory() {
    let rules = GraphRules { decay: 0.0, ..GraphRules::default() };
    let mut memory = memory(3, MemoryConfig { stm_slots: 2, graph: Some(rules), ..eager() });
    for (at, (text, key)) in
        [("a", [1.0, 0.0, 0.0]), ("b", [0.0, 1.0, 0.0]), ("c", [0.0, 0.0, 1.0])]
            .into_iter()
            .enumerate()
    {
        memory.observe(at as u64, &seen(text, &key, 1.0)).unwrap();
    }
    let (a, b) = (find(&memory, StoreKind::Ltm, "a"), find(&memory, StoreKind::Stm, "b"));
    assert!(memory.successors(a.id).iter().any(|&(to, _)| to == b.id));
    let again = UnifiedMemory::restore(&memory.snapshot()).unwrap();
    assert_eq!(again.snapshot(), memory.snapshot());
    assert_eq!(memory.snapshot().state["version"], 2);
}

#[test]
fn reads_are_mixed_by_uncertainty() {
    let sure = AddressingRules { bias: [50.0, 0.0, 0.0], slope: [0.0; 3] };
    let mut memory = memory(2, MemoryConfig { addressing: Some(sure), ..quiet() });
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("b", &[0.0, 1.0], 1.0)).unwrap();
    let read = memory.address(3, &[1.0, 0.0], 1, 7).unwrap().unwrap();
    assert!(read.uncertainty < 0.1 && read.mixture[0] > 0.999);
    assert!(read.reads[0].share > 0.999);
    let all: f32 = read.reads.iter().map(|read| read.share).sum();
    assert!((all + read.rest - 1.0).abs() < 1e-6);
    let even = memory.address(4, &[1.0, 1.0], 2, 7).unwrap().unwrap();
    assert!(even.uncertainty > 0.99);
    assert!(crate::given::memory(2, quiet()).address(1, &[1.0, 0.0], 3, 0).unwrap().is_none());
}

#[test]
fn only_what_an_address_returns_counts_as_read() {
    let even = AddressingRules { bias: [0.0; 3], slope: [0.0; 3] };
    let graph = GraphRules { read_activity: 1.0, ..GraphRules::default() };
    let config = MemoryConfig { addressing: Some(even), graph: Some(graph), ..quiet() };
    let mut memory = memory(2, config);
    for at in 1..=8 {
        memory.observe(at, &seen(&at.to_string(), &[1.0, at as f32], 1.0)).unwrap();
    }
    let input = Input::Address { at: 9, query: vec![1.0, 1.0], k: 2, seed: 3 };
    let outcome = memory.apply(&input).unwrap();
    let Some(Answer::Addressed { read: Some(read) }) = outcome.answer else { panic!() };
    assert!((2..=4).contains(&read.reads.len()), "{read:?}");
    let all: f32 = read.reads.iter().map(|read| read.share).sum();
    assert!(read.rest > 0.1 && (all + read.rest - 1.0).abs() < 1e-6, "{read:?}");
    let read_at_9 = memory.slots().filter(|(_, slot)| slot.read == 9).map(|(at, _)| at);
    let mut returned: Vec<_> = read.reads.iter().map(|read| read.slot).collect();
    returned.sort();
    assert_eq!(read_at_9.collect::<Vec<_>>(), returned);
    let [MemoryEvent::Read { slots }] = &outcome.events[..] else { panic!() };
    assert_eq!(slots.len(), returned.len());
    assert!((slots.iter().map(|read| read.share).sum::<f32>() - 1.0).abs() < 1e-6);
    // Links come from what was read to what follows.
    memory.observe(10, &seen("next", &[-1.0, 0.0], 1.0)).unwrap();
    let next = find(&memory, StoreKind::Stm, "next").id;
    let linked = memory.links().filter(|link| link.to == next).count();
    assert_eq!(linked, returned.len());
}

#[test]
fn goal_vectors_are_kept_saved_and_bounded() {
    let config = MemoryConfig { goal_vectors: 2, merge: MergeRule::Nearest, ..quiet() };
    let mut memory = memory(2, config);
    memory.observe(1, &seen("", &[1.0, 0.0], 1.0)).unwrap();
    let slot = memory.slots().next().unwrap().0;
    for goal in [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]] {
        memory.attach_goal(slot, &goal).unwrap();
    }
    memory.set_prompt(Some(&[0.0, 3.0])).unwrap();
    assert_eq!(memory.slot(slot).unwrap().goals, [[0.0, 1.0], [0.5, 0.5]]);
    assert_eq!(memory.goal().prompt(), Some(&[0.0, 1.0][..]));
    let saved = memory.snapshot();
    let again = UnifiedMemory::restore(&saved).unwrap();
    assert_eq!((again.snapshot(), again.slot(slot)), (saved, memory.slot(slot)));
    let refused = crate::given::memory(2, quiet()).attach_goal(slot, &[1.0, 0.0]);
    assert_eq!(refused, Err(MemoryError::RuleNotSet { rule: "goal_vectors" }));
}

#[test]
fn what_is_known_is_not_novel() {
    let mut memory = memory(2, eager());
    assert_eq!(memory.novelty(&[1.0, 0.0]).unwrap().novelty, 1.0);
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    let known = memory.reflect(&[2.0, 0.0], 3).unwrap();
    assert!(known.novelty.novelty.abs() < 1e-6 && !known.novelty.novel);
    assert_eq!(known.known[0].text, "a");
    assert!(memory.novelty(&[0.0, 1.0]).unwrap().novel);
}

#[test]
fn a_missing_part_is_masked_and_not_noise() {
    let part = |name: &str, dim| Part { name: name.to_owned(), dim, weight: 1.0 };
    let parts = vec![part("text", 2), part("audio", 2)];
    let config = MemoryConfig { parts: parts.clone(), ..eager() };
    let mut memory = memory(4, config.clone());
    let key = |given: &[(&str, &[f32])]| fuse(&parts, given).unwrap();
    let bark = key(&[("text", &[1.0, 0.0]), ("audio", &[0.0, 7.0])]);
    memory.observe(1, &seen("dog", &bark, 1.0)).unwrap();
    let written = key(&[("text", &[0.0, 1.0])]);
    memory.observe(2, &seen("cat", &written, 1.0)).unwrap();
    // Heard alone, the dog is as near as can be; the cat was never heard.
    let heard = memory.peek(2, &key(&[("audio", &[0.0, 0.1])]), 2).unwrap();
    assert_eq!((heard[0].text.as_str(), heard[0].cosine, heard[1].cosine), ("dog", 1.0, 0.0));
    let read = memory.peek(2, &key(&[("text", &[1.0, 0.0])]), 2).unwrap();
    assert_eq!((read[0].text.as_str(), read[0].cosine), ("dog", 1.0));
    let again = UnifiedMemory::restore(&memory.snapshot()).unwrap();
    assert_eq!(again.snapshot(), memory.snapshot());
    assert_eq!(again.peek(2, &written, 2).unwrap(), memory.peek(2, &written, 2).unwrap());

    let space = memory.space();
    let new = |dim, config: MemoryConfig| {
        UnifiedMemory::new(space, Normalization::identity(dim).unwrap(), config)
    };
    assert!(new(4, config.clone()).is_ok() && new(5, config.clone()).is_err());
    let twice = MemoryConfig { parts: vec![part("a", 2), part("a", 2)], ..config };
    assert!(new(4, twice).is_err());
}
