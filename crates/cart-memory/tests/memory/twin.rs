//! The rules against an independent implementation: `fixtures/scripts/memory_twin.py`, whose answers to
//! seven traces of 1,000 operations each are frozen in `fixtures/memory`. Every decision is equal, and every
//! number within 1e-5.

use std::path::{Path, PathBuf};

use cart_memory::trace::{SlotView, Trace};
use cart_memory::{Answer, Cause, Intake, MemoryEvent, Share, SlotId, StoreKind, UnifiedMemory};
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    // Other traces of the script are tried where this says.
    match std::env::var_os("CART_MEMORY_TRACES") {
        Some(folder) => Path::new(&folder).join(name),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/memory").join(name),
    }
}

#[test]
fn short_term_memory_is_that_of_the_twin() {
    let counts = follows("stm");
    assert!(counts("added") > 100 && counts("blended") > 100 && counts("evicted") > 100);
}

#[test]
fn long_term_memory_is_that_of_the_twin() {
    let counts = follows("ltm");
    for decision in ["merged", "inserted", "replaced", "outranked", "pruned"] {
        assert!(counts(decision) > 3, "{decision}: {}", counts(decision));
    }
}

#[test]
fn the_observer_is_that_of_the_twin() {
    let counts = follows("observer");
    for decision in ["observer", "eviction", "pruned", "merged", "superseded"] {
        assert!(counts(decision) > 3, "{decision}: {}", counts(decision));
    }
}

#[test]
fn the_goal_is_that_of_the_twin() {
    assert!(follows("goal")("goal") > 300);
}

#[test]
fn the_surprise_gated_store_is_that_of_the_twin() {
    let counts = follows("store");
    for decision in ["surprise", "faded", "cycled", "merged"] {
        assert!(counts(decision) > 10, "{decision}: {}", counts(decision));
    }
}

#[test]
fn the_association_graph_is_that_of_the_twin() {
    let counts = follows("graph");
    assert!(counts("evicted") > 50 && counts("pruned") > 3);
}

#[test]
fn what_holds_is_what_the_twin_says() {
    let counts = follows("validity");
    for decision in ["superseded", "reopened", "eviction", "replaced", "merged", "pruned"] {
        assert!(counts(decision) > 10, "{decision}: {}", counts(decision));
    }
}

/// Runs a trace beside what the twin made of it; tells how often a decision was taken.
fn follows(name: &str) -> impl Fn(&str) -> usize {
    let text = std::fs::read_to_string(fixture(&format!("{name}.trace.jsonl"))).unwrap();
    let expected = std::fs::read_to_string(fixture(&format!("{name}.expected.jsonl"))).unwrap();
    let mut trace = Trace::open(&text).unwrap();
    let mut operations = 0;
    for expected in expected.lines() {
        let step = trace.step().unwrap().expect("the trace has a line for each expected one");
        let place = format!("{name}, line {}", step.line);
        let expected: Value = serde_json::from_str(expected).unwrap();
        let decisions: Vec<Value> = step.outcome.events.iter().map(decision).collect();
        agree(&json!(decisions), &expected[0], &place);
        agree(&answer(step.outcome.answer.as_ref()), &expected[1], &format!("{place}, answer"));
        if let Some(few) = expected.get(2) {
            agree(&sums(trace.memory()), few, &format!("{place}, sums"));
        }
        if let Some(whole) = expected.get(3) {
            agree(&state(trace.memory()), whole, &format!("{place}, state"));
        }
        operations += 1;
    }
    assert!(trace.step().unwrap().is_none() && operations >= 1000);
    // How rare a decision is says something about the frozen traces only.
    let frozen = std::env::var_os("CART_MEMORY_TRACES").is_none();
    move |decision| {
        if frozen { expected.matches(&format!("\"{decision}\"")).count() } else { usize::MAX }
    }
}

/// The same shape and words; numbers within the tolerance, relative where they are over 1.
fn agree(ours: &Value, theirs: &Value, place: &str) {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}: {ours} is not {theirs}");
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| agree(a, b, &format!("{place}/{i}")));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{place}: {ours} is not {theirs}");
            a.iter().for_each(|(key, a)| agree(a, &b[key], &format!("{place}/{key}")));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{place}: {a} is not {b}");
        }
        _ => assert_eq!(ours, theirs, "{place}"),
    }
}

fn decision(event: &MemoryEvent) -> Value {
    use MemoryEvent as E;
    match event {
        E::Added { slot, energy, kept_apart } => {
            let near = kept_apart.map(|near| near.slot);
            json!(["added", slot, energy, near, kept_apart.map(|near| near.cosine)])
        }
        E::Blended { slot, cosine, energy_before, energy } => {
            json!(["blended", slot, cosine, energy_before, energy])
        }
        E::Evicted { slot, gated_energy, in_ltm, .. } => {
            json!(["evicted", slot, gated_energy, in_ltm])
        }
        E::Consolidated { from, into, intake, gated_energy, cause } => {
            let how = match intake {
                Intake::Inserted => vec![json!("inserted")],
                Intake::Merged { cosine } => vec![json!("merged"), json!(cosine)],
                Intake::Replaced { slot, gated_energy } => {
                    vec![json!("replaced"), json!(slot), json!(gated_energy)]
                }
            };
            let cause = match cause {
                Cause::Observer => "observer",
                Cause::Eviction => "eviction",
                Cause::Surprise => "surprise",
            };
            let mut all = vec![json!("consolidated"), json!(from), json!(into)];
            all.extend(how);
            all.extend([json!(gated_energy), json!(cause)]);
            json!(all)
        }
        E::Outranked { slot, gated_energy, least } => {
            json!(["outranked", slot, gated_energy, least])
        }
        E::GoalMoved { rate, norm, drift, confidence } => {
            json!(["goal", rate, norm, drift, confidence])
        }
        E::Pruned { slot, idle, .. } => json!(["pruned", slot, idle]),
        E::Superseded { slot, by } => json!(["superseded", slot.to_string(), by.to_string()]),
        E::Reopened { slot } => json!(["reopened", slot.to_string()]),
        E::Surprised { slot, z, needed, offered } => {
            json!(["surprised", slot, z, needed, offered])
        }
        E::Cycled { cycles, stm, ltm } => json!(["cycled", cycles, stm, ltm]),
        E::Faded { slot, energy, .. } => json!(["faded", slot.to_string(), energy]),
        E::Read { slots } => json!(["read", slots.iter().map(share).collect::<Vec<_>>()]),
        other => panic!("the traces do not set a rule for {other:?}"),
    }
}

fn share(read: &Share) -> Value {
    json!([read.slot.to_string(), read.share])
}

fn answer(answer: Option<&Answer>) -> Value {
    let Some(answer) = answer else { return Value::Null };
    match answer {
        Answer::Recalled { hits } => hits
            .iter()
            .map(|hit| json!([hit.slot.to_string(), hit.cosine, hit.decay, hit.score, hit.bias]))
            .collect(),
        Answer::Associated { hits } => hits
            .iter()
            .map(|hit| json!([hit.slot.to_string(), hit.direct, hit.weight, hit.bias]))
            .collect(),
        Answer::Addressed { read: None } => Value::Null,
        Answer::Addressed { read: Some(read) } => {
            let numbers = std::iter::once(read.uncertainty).chain(read.mixture).chain([read.rest]);
            numbers.map(|number| json!(number)).chain(read.reads.iter().map(share)).collect()
        }
        Answer::Counterfactual { score } => {
            json!(score.map(|score| [score.base, score.score, score.best]))
        }
        Answer::Novelty { novelty } => {
            json!([novelty.novelty, novelty.nearest.map(|slot| slot.to_string()), novelty.novel])
        }
        Answer::Reflected { reflection } => {
            let new = reflection.novelty;
            let mut all = vec![json!(new.novelty), json!(new.nearest.map(|slot| slot.to_string()))];
            all.push(json!(new.novel));
            let known = reflection.known.iter();
            all.extend(known.map(|hit| json!([hit.slot.to_string(), hit.cosine])));
            json!(all)
        }
        Answer::Successors { links } => json!(links),
    }
}

fn state(memory: &UnifiedMemory) -> Value {
    let view = memory.view();
    let slot = |slot: &SlotView| {
        let offered = slot.consolidation.map(|done| json!([done.at, done.into, done.energy]));
        json!([
            slot.position,
            slot.id,
            slot.key,
            slot.energy,
            slot.gate,
            slot.gated_energy,
            slot.made,
            slot.refreshed,
            slot.read,
            slot.count,
            slot.sum_weight,
            slot.sum_count,
            slot.until,
            slot.superseded_by,
            offered,
            slot.goals.concat()
        ])
    };
    let surprise = view.surprise;
    json!({
        "now": view.now, "steps": view.goal_steps, "goal": view.goal,
        "surprise": [json!(surprise.count), json!(surprise.mean), json!(surprise.variance)],
        "stm": view.stm.iter().map(slot).collect::<Vec<_>>(),
        "ltm": view.ltm.iter().map(slot).collect::<Vec<_>>(),
        "links": view.links,
    })
}

/// Few numbers that any change to the state moves, as the twin computes them.
fn sums(memory: &UnifiedMemory) -> Value {
    let weight = |i: u64| 1.0 + (i * 7 % 11) as f64 / 11.0;
    let id = |id: SlotId| weight(id.number());
    let (mut keys, mut ticks, mut energies) = (0.0, 0.0, 0.0);
    for store in [StoreKind::Stm, StoreKind::Ltm] {
        for (_, slot) in memory.slots().filter(|(at, _)| at.store == store) {
            let unit = memory.normalization().unit("key", &slot.key).unwrap();
            let of = unit.iter().enumerate().map(|(i, &v)| f64::from(v) * weight(i as u64));
            keys += of.sum::<f64>() * id(slot.id);
            ticks += (slot.refreshed % 97 + slot.read % 89) as f64 * id(slot.id);
            energies += (f64::from(slot.energy) + slot.statistics.weight) * id(slot.id);
        }
    }
    let goal = memory.goal().vector().iter().enumerate();
    let goal: f64 = goal.map(|(i, &v)| f64::from(v) * weight(i as u64)).sum();
    let links: f64 = memory
        .links()
        .map(|l| f64::from(l.strength) * weight(l.from.number() + 3 * l.to.number()))
        .sum();
    let surprise = memory.surprise();
    json!([keys, ticks, energies, goal + links, surprise.mean + surprise.variance])
}
