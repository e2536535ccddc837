//! Save, load, save again; and what is not believed.

use cart_format::{BlobId, DType};
use cart_memory::config::GraphRules;
use cart_memory::{
    MemoryConfig, MemorySnapshot, NextTokenQuery, Observation, RestoreError, SlotProblem,
    StoreKind, UnifiedMemory,
};
use serde_json::{Value, json};

use crate::given::{eager, find, memory, quiet, seen, spanned};

fn filled() -> UnifiedMemory {
    let mut memory = memory(3, MemoryConfig { max_span_tokens: 4, ..eager() });
    memory
        .observe(1, &spanned("ab", &[1.0, 0.1, 0.0], &[&[1.0, 0.3, -2.0], &[0.1, 0.2, 0.3]]))
        .unwrap();
    memory.observe(2, &seen("cd", &[0.0, 1.0, 0.7], 0.2)).unwrap();
    let odd = "ef\u{1f980} \"\\\n";
    let odd = Observation { token_ids: vec![9], ..seen(odd, &[-0.3, 0.0, 1.0 / 3.0], 0.9) };
    memory.observe(3, &odd).unwrap();
    memory.set_gate(find(&memory, StoreKind::Ltm, "ab"), 0.1).unwrap();
    memory.recall(4, &[1.0, 1.0, 0.0], 2).unwrap();
    memory
}

#[test]
fn save_load_save_is_the_same_and_so_is_what_follows() {
    let mut memory = filled();
    let saved = memory.snapshot();
    // Through canonical JSON, as in a cartridge.
    let bytes = cart_format::json::to_canonical(&saved.state).unwrap();
    let state: Value = serde_json::from_slice(&bytes).unwrap();
    let mut restored = UnifiedMemory::restore(&MemorySnapshot { state, ..saved.clone() }).unwrap();
    assert_eq!(restored.snapshot(), saved);
    assert_eq!(cart_format::json::to_canonical(&restored.snapshot().state).unwrap(), bytes);
    assert_eq!(
        restored.knn(NextTokenQuery::of_state(&[1.0, 0.0, 0.5]), 5),
        memory.knn(NextTokenQuery::of_state(&[1.0, 0.0, 0.5]), 5)
    );
    let next = seen("gh", &[0.5, 0.5, 0.5], 0.8);
    assert_eq!(restored.observe(5, &next), memory.observe(5, &next));
    assert_eq!(restored.snapshot(), memory.snapshot());
}

#[test]
fn an_empty_memory_survives_too() {
    let saved = memory(3, eager()).snapshot();
    let names: Vec<&str> = saved.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["centre", "goal", "scale"]);
    let restored = UnifiedMemory::restore(&saved).unwrap();
    assert!(restored.is_empty());
    assert_eq!(restored.snapshot(), saved);
}

/// A trace in which everything happens: blends, evictions, merges, replacements, prunings.
fn long_trace() -> UnifiedMemory {
    let config = MemoryConfig { stm_slots: 8, ltm_slots: 7, prune_age: 40, ..Default::default() };
    let mut memory = memory(24, config);
    let mut state = 3_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let topics: Vec<Vec<f32>> = (0..20).map(|_| (0..24).map(|_| next() - 0.5).collect()).collect();
    for tick in 1..600_u64 {
        // Topics come and go, so that some are asked for no more.
        let topic = (tick / 60 + (next() * 9.0) as u64) as usize;
        let key: Vec<f32> = topics[topic].iter().map(|value| value + 0.1 * next()).collect();
        let surprise = next() * 6.0;
        let energy = memory.energy_from_surprise(surprise);
        let mut seen = seen(&format!("t{topic}"), &key, energy);
        seen.token_keys = (0..seen.token_ids.len() * 24).map(|_| next() - 0.5).collect();
        seen.surprise = vec![surprise];
        memory.observe(tick, &seen).unwrap();
        if tick % 7 == 0 {
            memory.recall(tick, &key, 3).unwrap();
        }
    }
    memory
}

/// Pins the bits: another machine, another build or another order of a sum would show here.
#[test]
fn a_long_trace_gives_the_same_bits_everywhere() {
    let memory = long_trace();
    let counters = memory.counters();
    let rarest = [counters.blended, counters.merged, counters.replaced, counters.pruned];
    assert!(rarest.iter().all(|&count| count > 0), "{counters:?}");
    let saved = memory.snapshot();
    let mut bytes = cart_format::json::to_canonical(&saved.state).unwrap();
    for tensor in &saved.tensors {
        bytes.extend(format!("{tensor:?}").bytes());
        bytes.extend(&tensor.bytes);
    }
    assert_eq!(BlobId::of(&bytes).short(), "f3d2cc7ad4b2");
}

#[test]
fn one_more_long_term_slot_changes_one_block_of_each_tensor() {
    let mut memory = memory(4, MemoryConfig { max_span_tokens: 4, ..eager() });
    let fill = |memory: &mut UnifiedMemory, tick: u64| {
        let angle = tick as f32;
        let key = [angle.sin(), angle.cos(), (2.0 * angle).sin(), 0.1];
        memory.observe(tick, &spanned(&format!("{tick:03}"), &key, &[key.as_slice(); 3])).unwrap();
    };
    for tick in 1..=40 {
        fill(&mut memory, tick);
    }
    let before = memory.snapshot();
    fill(&mut memory, 41);
    let after = memory.snapshot();
    for name in ["ltm.keys", "ltm.key_sums", "ltm.token_keys", "ltm.token_norms"] {
        let (old, new) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
        let old: Vec<&[u8]> = old.blocks().collect();
        let changed = new
            .blocks()
            .enumerate()
            .filter(|(at, block)| old.get(*at).is_none_or(|old| old != block))
            .count();
        assert_eq!(changed, 1, "{name}");
        let size: usize = new.blocks().map(<[u8]>::len).sum();
        assert_eq!(size, new.bytes.len());
    }
    assert_eq!(before.tensor("ltm.keys").unwrap().rows_per_block, 16);
    assert_eq!(before.tensor("ltm.token_keys").unwrap().dtype, DType::F16);
}

/// Restores a good snapshot after a change to it.
fn damaged(change: impl FnOnce(&mut MemorySnapshot)) -> RestoreError {
    let mut saved = filled().snapshot();
    change(&mut saved);
    UnifiedMemory::restore(&saved).unwrap_err()
}

fn set(pointer: &str, value: Value) -> RestoreError {
    damaged(|saved| *saved.state.pointer_mut(pointer).unwrap() = value)
}

fn slot_problem(error: RestoreError) -> SlotProblem {
    match error {
        RestoreError::Slot { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_state_is_refused() {
    assert!(matches!(
        set("/version", json!(2)),
        RestoreError::OtherVersion { found: 2, lowest: 1 }
    ));
    assert!(matches!(set("/now", json!(-1)), RestoreError::State { .. }));
    assert!(matches!(
        damaged(|saved| saved.state["surplus"] = json!(1)),
        RestoreError::State { .. }
    ));
    assert!(matches!(damaged(|saved| saved.state = json!(null)), RestoreError::State { .. }));
    assert!(matches!(set("/config/ltm_slots", json!(0)), RestoreError::Config(_)));
    assert!(matches!(
        set("/observed_at", json!(5)),
        RestoreError::Tick { name: "observed_at", .. }
    ));
    assert!(matches!(set("/surprise/variance", json!(-1.0)), RestoreError::Surprise { .. }));
    assert!(matches!(set("/config/goal_cap", json!(0.01)), RestoreError::Goal { .. }));
}

#[test]
fn a_damaged_slot_is_refused() {
    use SlotProblem as P;
    let problem = |pointer: &str, value| slot_problem(set(pointer, value));
    assert!(matches!(
        problem("/stm/0/position", json!(32)),
        P::PositionTooLarge { found: 32, .. } | P::PositionOrder { .. }
    ));
    assert!(matches!(problem("/stm/1/position", json!(0)), P::PositionOrder { found: 0 }));
    assert!(matches!(
        problem("/config/stm_slots", json!(2)),
        P::PositionTooLarge { found: 2, capacity: 2 }
    ));
    assert!(matches!(problem("/stm/1/id", json!(0)), P::IdTaken));
    assert!(matches!(problem("/ltm/0/id", json!(99)), P::IdNotIssued { .. }));
    assert!(matches!(problem("/stm/0/energy", json!(1.5)), P::Number { name: "energy", .. }));
    assert!(matches!(problem("/stm/0/gate", json!(1e300)), P::Number { name: "gate", .. }));
    assert!(matches!(problem("/stm/0/read", json!(99)), P::Tick { name: "read", .. }));
    assert!(matches!(
        problem("/stm/1/token_ids", json!([1, 2, 3, 4, 5])),
        P::Tokens { found: 5, allowed: 4 }
    ));
}

#[test]
fn a_graph_that_the_rules_do_not_make_is_refused() {
    use cart_memory::GraphProblem as P;
    let rules = GraphRules { out_degree: 2, floor: 0.05, ..GraphRules::default() };
    let mut memory = memory(2, MemoryConfig { graph: Some(rules), ..quiet() });
    for at in 1..=4 {
        let text = at.to_string();
        memory.observe(at, &seen(&text, &[1.0, at as f32], 1.0)).unwrap();
    }
    let good = memory.snapshot();
    assert_eq!(UnifiedMemory::restore(&good).unwrap().snapshot(), good);
    let link =
        |from: u64, to: u64, strength: f64| json!({"from": from, "to": to, "strength": strength});
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut saved = good.clone();
        change(&mut saved.state["graph"]);
        match UnifiedMemory::restore(&saved) {
            Err(RestoreError::Graph(problem)) => problem,
            other => panic!("{other:?}"),
        }
    };
    let links = |all: &[Value]| refused(&|graph| graph["links"] = json!(all));
    for bad in [link(0, 0, 0.5), link(0, 9, 0.5), link(9, 0, 0.5), link(0, 1, 0.0)] {
        assert!(matches!(links(&[bad]), P::Link(_)));
    }
    for bad in [link(0, 1, 0.04), link(0, 1, 1.01), link(0, 1, -0.5)] {
        assert!(matches!(links(&[bad]), P::Link(_)));
    }
    assert!(matches!(links(&[link(1, 0, 0.5), link(0, 1, 0.5)]), P::Link(_)));
    assert!(matches!(links(&[link(0, 1, 0.5), link(0, 1, 0.5)]), P::Link(_)));
    let three = [link(0, 1, 0.5), link(0, 2, 0.5), link(0, 3, 0.5)];
    assert!(matches!(links(&three), P::Degree { most: 2, .. }));
    let active = |slots: Value| refused(&|graph| graph["current"]["slots"] = slots.clone());
    for bad in
        [json!([[9, 1.0]]), json!([[0, 0.0]]), json!([[0, 1.5]]), json!([[1, 1.0], [0, 1.0]])]
    {
        assert!(matches!(active(bad), P::Activity { .. }));
    }
    let at = |part: &str, tick: u64| {
        refused(&|graph| match part {
            "decayed_at" => graph["decayed_at"] = tick.into(),
            part => graph[part]["at"] = tick.into(),
        })
    };
    for (part, tick) in
        [("current", 5), ("current", 3), ("previous", 4), ("decayed_at", 3), ("decayed_at", 5)]
    {
        assert!(matches!(at(part, tick), P::Ticks { .. }), "{part} {tick}");
    }
    let nothing = json!({"links": [], "current": {"at": 0, "slots": []}, "previous": {"at": 0, "slots": []}, "decayed_at": 0});
    assert_eq!(refused(&|graph| *graph = nothing.clone()), P::Empty);
    let mut saved = good.clone();
    saved.state["config"].as_object_mut().unwrap().remove("graph");
    assert!(matches!(UnifiedMemory::restore(&saved), Err(RestoreError::Graph(P::NoRules))));
}

#[test]
fn damaged_tensors_are_refused() {
    fn edit<'s>(saved: &'s mut MemorySnapshot, name: &str) -> &'s mut cart_memory::MemoryTensor {
        saved.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }
    use RestoreError as E;
    assert!(matches!(
        damaged(|saved| saved.tensors.retain(|tensor| tensor.name != "ltm.keys")),
        E::MissingTensor { name: "ltm.keys" }
    ));
    assert!(matches!(
        damaged(|saved| edit(saved, "ltm.keys").name = "ltm.kyes".to_owned()),
        E::MissingTensor { .. }
    ));
    assert!(matches!(
        damaged(|saved| {
            let twice = edit(saved, "goal").clone();
            saved.tensors.push(twice);
        }),
        E::StrayTensor { .. }
    ));
    assert!(matches!(damaged(|saved| saved.dim = 4), E::Layout { .. }));
    assert!(matches!(damaged(|saved| saved.dim = u64::MAX), E::Layout { .. }));
    assert!(matches!(damaged(|saved| edit(saved, "goal").dtype = DType::F64), E::Layout { .. }));
    assert!(matches!(
        damaged(|saved| edit(saved, "stm.keys").bytes.truncate(5)),
        E::Bytes { found: 5, expected: 36, .. }
    ));
    assert!(matches!(damaged(|saved| edit(saved, "scale").bytes.fill(0)), E::Normalization(_)));
    assert!(matches!(
        slot_problem(damaged(|saved| edit(saved, "stm.keys").bytes.fill(0))),
        SlotProblem::Vector(_)
    ));
    assert!(matches!(
        slot_problem(damaged(|saved| edit(saved, "stm.key_sums").bytes.fill(0xff))),
        SlotProblem::Number { name: "key_sums", .. }
    ));
    // The third and fourth row of `ab`'s span belong to no token: byte 12 on.
    assert!(matches!(
        damaged(|saved| edit(saved, "stm.token_keys").bytes[17] = 1),
        E::StrayRow { name: "stm.token_keys", byte: 17 }
    ));
}
