//! Laws that hold whatever is observed.

use std::collections::BTreeMap;

use cart_memory::{
    Cause, MemoryConfig, MemoryEvent, Observation, SlotId, StoreKind, UnifiedMemory,
};
use proptest::prelude::*;

use crate::given::memory;

pub(crate) const DIM: usize = 3;

/// One call on a memory.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Observe(Observation),
    Recall(Vec<f32>),
    Advance(u64),
    Gate(usize, f32),
}

fn key() -> impl Strategy<Value = Vec<f32>> {
    // Few directions, so that slots meet; never zero.
    prop::collection::vec(-2_i8..=2, DIM)
        .prop_filter("a direction", |key| key.iter().any(|&value| value != 0))
        .prop_map(|key| key.into_iter().map(|value| f32::from(value) / 3.0).collect())
}

fn observation() -> impl Strategy<Value = Observation> {
    (key(), 0_u32..6, 0_usize..4, 0.0_f32..=1.0, 0.0_f32..9.0, any::<bool>()).prop_flat_map(
        |(key_values, name, tokens, energy, surprise, with_keys)| {
            let rows = if with_keys { tokens } else { 0 };
            prop::collection::vec(key(), rows).prop_map(move |rows| Observation {
                key: key_values.clone(),
                token_keys: rows.concat(),
                token_ids: (0..tokens as u32).map(|token| name * 10 + token).collect(),
                text: format!("text {name} {tokens}"),
                surprise: vec![surprise],
                energy,
                source: "property".to_owned(),
            })
        },
    )
}

pub(crate) fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        8 => observation().prop_map(Call::Observe),
        2 => key().prop_map(Call::Recall),
        1 => (1_u64..20).prop_map(Call::Advance),
        1 => (0_usize..8, -3.0_f32..3.0).prop_map(|(slot, gate)| Call::Gate(slot, gate)),
    ];
    prop::collection::vec(call, 0..60)
}

pub(crate) fn small() -> MemoryConfig {
    MemoryConfig {
        stm_slots: 4,
        ltm_slots: 3,
        max_span_tokens: 4,
        observer_interval: 2,
        consolidate_most: 2,
        prune_interval: 7,
        prune_age: 15,
        ..MemoryConfig::default()
    }
}

pub(crate) fn apply(memory: &mut UnifiedMemory, calls: &[Call]) -> Vec<MemoryEvent> {
    let mut events = Vec::new();
    for call in calls {
        let next = memory.now() + 1;
        match call {
            Call::Observe(seen) => events.extend(memory.observe(next, seen).unwrap()),
            Call::Recall(query) => drop(memory.recall(next, query, 2).unwrap()),
            Call::Advance(ticks) => events.extend(memory.advance(next + ticks).unwrap()),
            Call::Gate(slot, gate) => {
                let slot = memory.slots().nth(*slot).map(|(at, _)| at);
                if let Some(slot) = slot {
                    memory.set_gate(slot, *gate).unwrap();
                }
            }
        }
    }
    events
}

proptest! {
    #[test]
    fn a_snapshot_restores_to_the_same_memory(calls in calls(), more in calls()) {
        let mut memory = memory(DIM, small());
        apply(&mut memory, &calls);
        let saved = memory.snapshot();
        let mut restored = UnifiedMemory::restore(&saved).unwrap();
        prop_assert_eq!(restored.snapshot(), saved);
        prop_assert_eq!(apply(&mut restored, &more), apply(&mut memory, &more));
        prop_assert_eq!(restored.snapshot(), memory.snapshot());
    }

    #[test]
    fn the_same_calls_give_the_same_bytes_and_events(calls in calls()) {
        let (mut first, mut second) = (memory(DIM, small()), memory(DIM, small()));
        prop_assert_eq!(apply(&mut first, &calls), apply(&mut second, &calls));
        prop_assert_eq!(first.snapshot(), second.snapshot());
    }

    #[test]
    fn capacities_hold_and_energies_stay_shares(calls in calls()) {
        let mut memory = memory(DIM, small());
        apply(&mut memory, &calls);
        let report = memory.report();
        prop_assert!(report.stm.slots <= 4 && report.ltm.slots <= 3);
        prop_assert!(report.goal_norm <= 0.5 + 1e-5);
        for (_, slot) in memory.slots() {
            prop_assert!((0.0..=1.0).contains(&slot.energy));
            let rows = slot.token_keys.len();
            prop_assert!(rows == 0 || rows == slot.value.token_ids.len());
        }
    }

    #[test]
    fn every_observation_is_in_exactly_one_sum_or_gone(calls in calls()) {
        // Nothing leaves such a memory, so nothing may be lost or counted twice.
        let config = MemoryConfig { stm_slots: 99, ltm_slots: 99, prune_age: 1 << 40, ..small() };
        let mut memory = memory(DIM, config);
        apply(&mut memory, &calls);
        let summed: u64 = memory.slots().map(|(_, slot)| slot.statistics.count).sum();
        prop_assert_eq!(summed, memory.counters().observations);
    }

    #[test]
    fn no_slot_is_consolidated_twice_unless_it_rose(calls in calls()) {
        let mut memory = memory(DIM, small());
        let mut energies: BTreeMap<SlotId, f32> = BTreeMap::new();
        for call in &calls {
            for event in apply(&mut memory, std::slice::from_ref(call)) {
                let MemoryEvent::Consolidated { from, cause: Cause::Observer, .. } = event else {
                    continue;
                };
                let slot = memory.slots().find(|(_, slot)| slot.id == from).unwrap().1;
                let before = energies.insert(from, slot.energy);
                if let Some(before) = before {
                    prop_assert!(slot.energy >= before + 0.1, "{} after {}", slot.energy, before);
                }
            }
        }
    }

    #[test]
    fn no_text_is_lost_while_there_is_room(calls in calls()) {
        let config = MemoryConfig { stm_slots: 99, ..small() };
        let mut memory = memory(DIM, config);
        apply(&mut memory, &calls);
        for call in &calls {
            let Call::Observe(seen) = call else { continue };
            let kept = memory
                .slots()
                .any(|(at, slot)| at.store == StoreKind::Stm && slot.value.text == seen.text);
            prop_assert!(kept, "{}", seen.text);
        }
    }
}
