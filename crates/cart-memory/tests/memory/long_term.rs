//! The codebook and the observer: consolidate, merge, replace, prune.

use cart_memory::{Cause, Intake, MemoryConfig, MemoryEvent, Observation, Perturbation, StoreKind};

use crate::given::{consolidated, eager, find, memory, quiet, seen, texts};

#[test]
fn the_best_slots_above_the_threshold_are_consolidated_once_each() {
    let config = MemoryConfig {
        observer_interval: 3,
        consolidate_most: 1,
        consolidate_threshold: 0.3,
        ..quiet()
    };
    let mut memory = memory(3, config);
    // Gated at birth: 0.35, 0.45 and 0.25.
    memory.observe(1, &seen("good", &[1.0, 0.0, 0.0], 0.7)).unwrap();
    memory.observe(2, &seen("best", &[0.0, 1.0, 0.0], 0.9)).unwrap();
    let events = memory.observe(3, &seen("poor", &[0.0, 0.0, 1.0], 0.5)).unwrap();
    assert_eq!(consolidated(&events), [find(&memory, StoreKind::Stm, "best").id]);
    assert_eq!(consolidated(&memory.advance(5).unwrap()), []);
    assert_eq!(
        consolidated(&memory.advance(6).unwrap()),
        [find(&memory, StoreKind::Stm, "good").id]
    );
    assert_eq!(memory.advance(60).unwrap(), []);
    assert_eq!(texts(&memory, StoreKind::Ltm), ["best", "good"]);
}

#[test]
fn a_slot_that_has_risen_comes_again_and_is_counted_once() {
    let mut memory = memory(2, MemoryConfig { stm_ema_alpha: 0.5, ..eager() });
    memory.observe(1, &seen("a", &[1.0, 0.0], 0.7)).unwrap();
    // 0.7 → 0.72 is no news, 0.72 → 0.86 is.
    let events = memory.observe(2, &seen("a", &[1.0, 0.0], 0.74)).unwrap();
    assert_eq!(consolidated(&events), []);
    let events = memory.observe(3, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    let taken = events.iter().find_map(|event| match event {
        MemoryEvent::Consolidated { intake, cause, .. } => Some((*intake, *cause)),
        _ => None,
    });
    assert_eq!(taken, Some((Intake::Merged { cosine: 1.0 }, Cause::Observer)));

    let entry = memory.slot(find(&memory, StoreKind::Ltm, "a")).unwrap();
    // 0.8 · 0.7 + 0.2 · 0.86
    assert!((entry.energy - 0.732).abs() < 1e-6);
    // Three observations in the world, three in the entry's sums, none left in the slot's.
    assert_eq!((entry.count, entry.statistics.count), (3, 3));
    assert!((entry.statistics.weight - 2.44).abs() < 1e-6);
    let slot = memory.slot(find(&memory, StoreKind::Stm, "a")).unwrap();
    assert_eq!((slot.count, slot.statistics.count, slot.statistics.weight), (3, 0, 0.0));
}

#[test]
fn entries_that_say_something_else_are_never_merged() {
    let mut memory = memory(2, eager());
    memory.observe(1, &seen("the sky is blue", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("the sky is grey", &[1.0, 0.0], 1.0)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Ltm), ["the sky is blue", "the sky is grey"]);
}

#[test]
fn the_full_codebook_gives_up_its_least_unless_all_are_worth_more() {
    let mut memory = memory(4, MemoryConfig { ltm_slots: 2, ..eager() });
    memory.observe(1, &seen("0.8", &[1.0, 0.0, 0.0, 0.0], 0.8)).unwrap();
    memory.observe(2, &seen("0.9", &[0.0, 1.0, 0.0, 0.0], 0.9)).unwrap();
    let least = find(&memory, StoreKind::Ltm, "0.8").id;

    let events = memory.observe(3, &seen("0.7", &[0.0, 0.0, 1.0, 0.0], 0.7)).unwrap();
    let outranked = events.iter().find_map(|event| match event {
        MemoryEvent::Outranked { gated_energy, least, .. } => Some((*gated_energy, *least)),
        _ => None,
    });
    assert_eq!(outranked, Some((0.35, 0.4)));

    let events = memory.observe(4, &seen("1.0", &[0.0, 0.0, 0.0, 1.0], 1.0)).unwrap();
    assert!(events.iter().any(|event| matches!(
        event,
        MemoryEvent::Consolidated { intake: Intake::Replaced { slot, gated_energy }, .. }
            if *slot == least && *gated_energy == 0.4
    )));
    assert_eq!(texts(&memory, StoreKind::Ltm), ["1.0", "0.9"]);
}

#[test]
fn a_gate_decides_what_a_slot_is_worth() {
    let mut memory = memory(2, MemoryConfig { observer_interval: 5, ..quiet() });
    memory.observe(1, &seen("closed", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("open", &[0.0, 1.0], 0.4)).unwrap();
    memory.set_gate(find(&memory, StoreKind::Stm, "closed"), -4.0).unwrap();
    memory.set_gate(find(&memory, StoreKind::Stm, "open"), 4.0).unwrap();
    memory.advance(5).unwrap();
    assert_eq!(texts(&memory, StoreKind::Ltm), ["open"]);
    assert_eq!(memory.slot(find(&memory, StoreKind::Ltm, "open")).unwrap().gate, 4.0);
}

#[test]
fn pruning_goes_by_the_last_access_and_a_read_is_one() {
    let config = MemoryConfig { prune_age: 10, prune_interval: 4, age_beta: 0.0, ..eager() };
    let mut memory = memory(2, config);
    memory.observe(1, &seen("read", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("idle", &[0.0, 1.0], 1.0)).unwrap();
    assert_eq!(texts(&memory, StoreKind::Ltm), ["read", "idle"]);
    memory.recall(8, &[1.0, 0.0], 1).unwrap();
    let events = memory.advance(13).unwrap();
    let [MemoryEvent::Pruned { text, idle, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((text.as_str(), *idle), ("idle", 11));
    assert_eq!(texts(&memory, StoreKind::Ltm), ["read"]);
}

#[test]
fn the_goal_follows_what_was_consolidated() {
    let mut memory = memory(2, eager());
    assert!(memory.is_empty());
    let events = memory.observe(1, &seen("a", &[0.0, 7.0], 1.0)).unwrap();
    assert!(events.contains(&MemoryEvent::GoalMoved {
        rate: 0.05,
        norm: 0.05,
        drift: None,
        confidence: None
    }));
    assert_eq!(memory.goal().vector(), [0.0, 0.05]);
    assert!(!memory.is_empty());
}

#[test]
fn what_the_goal_points_to_comes_by_cosine_whatever_it_is_worth() {
    let mut memory = memory(2, MemoryConfig { goal_rate: 0.5, ..quiet() });
    let first = memory.goal().next_rate(memory.config());
    assert_eq!(first, 0.5);
    memory.observe(1, &seen("across", &[1.0, 0.0], 1.0)).unwrap();
    assert_eq!(memory.wanted(3), []);

    let mut memory = memory_with_a_goal();
    memory.observe(2, &seen("across", &[1.0, 0.0], 0.2)).unwrap();
    memory.observe(3, &seen("near", &[1.0, 2.0], 0.0)).unwrap();
    let wanted = memory.wanted(3);
    let texts: Vec<&str> = wanted.iter().map(|hit| hit.text.as_str()).collect();
    assert_eq!(texts, ["along", "near", "across"]);
    assert!((wanted[1].cosine - 2.0 / 5.0_f32.sqrt()).abs() < 1e-6, "{wanted:?}");
    assert_eq!((wanted[0].also.len(), memory.wanted(1).len()), (1, 1), "both stores say it");
    let next = memory.goal().next_rate(memory.config());
    assert!((next - 0.05 * (-1e-3_f32).exp()).abs() < 1e-8);
}

#[test]
fn how_alike_slots_are_is_said_of_each_pair() {
    let mut memory = memory(2, quiet());
    for (at, (text, key)) in
        [("a", [1.0, 0.0]), ("b", [0.0, 2.0]), ("c", [3.0, 3.0])].into_iter().enumerate()
    {
        assert_eq!(memory.cosines(StoreKind::Stm).len(), [0, 0, 1][at]);
        memory.observe(at as u64, &seen(text, &key, 0.5)).unwrap();
    }
    let found = memory.cosines(StoreKind::Stm);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    for (cosine, expected) in found.iter().zip([0.0, half, half]) {
        assert!((cosine - expected).abs() < 1e-6, "{found:?}");
    }
    assert_eq!((found.len(), memory.cosines(StoreKind::Ltm).len()), (3, 0));
}

/// Its goal points along the second axis.
fn memory_with_a_goal() -> cart_memory::UnifiedMemory {
    let mut memory = memory(2, eager());
    memory.observe(1, &seen("along", &[0.0, 7.0], 1.0)).unwrap();
    memory
}

#[test]
fn counterfactuals_are_seeded_and_fall_with_the_noise() {
    let mut memory = memory(8, eager());
    let key = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let ask = |memory: &cart_memory::UnifiedMemory, seed, sigma| {
        let how = Perturbation { seed, samples: 64, sigma };
        memory.counterfactual(&key, how).unwrap()
    };
    assert_eq!(ask(&memory, 1, 0.1), None);
    memory.observe(1, &seen("a", &key, 1.0)).unwrap();
    let near = ask(&memory, 1, 0.1).unwrap();
    assert_eq!(ask(&memory, 1, 0.1), Some(near));
    assert_ne!(ask(&memory, 2, 0.1), Some(near));
    assert_eq!(near.base, 1.0);
    // The noise is σ long and at a right angle to the key but for one part in eight, so the cosine
    // is about 1 / √(1 + 7/8 · σ²): 0.996 for σ = 0.1, 0.73 for σ = 1.
    assert!((near.score - 0.996).abs() < 0.003, "{near:?}");
    let far = ask(&memory, 1, 1.0).unwrap();
    assert!((far.score - 0.73).abs() < 0.08, "{far:?}");
    assert!(far.best > far.score);
}

#[test]
fn energy_follows_surprise_through_the_statistics() {
    let mut memory = memory(2, quiet());
    assert_eq!(memory.energy_from_surprise(3.0), 0.5);
    let dull = Observation { surprise: vec![1.0, 1.0], ..seen("ab", &[1.0, 0.0], 0.5) };
    for tick in 1..40 {
        memory.observe(tick, &dull).unwrap();
    }
    assert!((memory.surprise().mean - 1.0).abs() < 0.05);
    assert!(memory.energy_from_surprise(3.0) > 0.95);
    assert!(memory.energy_from_surprise(1.0) < 0.55);
}
