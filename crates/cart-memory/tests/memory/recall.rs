//! What comes back, in which order.

use cart_memory::{MemoryConfig, NextTokenQuery, SlotRef, StoreKind};

use crate::given::{eager, find, memory, quiet, seen};

#[test]
fn the_score_is_cosine_times_gated_energy_times_decay() {
    let mut memory = memory(2, MemoryConfig { age_beta: 0.01, ..quiet() });
    memory.observe(0, &seen("old", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(100, &seen("new", &[0.6, 0.8], 1.0)).unwrap();
    let recalled = memory.peek(100, &[2.0, 0.0], 5).unwrap();
    let texts: Vec<&str> = recalled.iter().map(|hit| hit.text.as_str()).collect();
    // old: 1 · ½ · e^−1 = 0.184; new: 0.6 · ½ · 1 = 0.3.
    assert_eq!(texts, ["new", "old"]);
    assert!((recalled[0].score - 0.3).abs() < 1e-6);
    assert!((recalled[1].score - 0.183_939_7).abs() < 1e-6);
    assert!((recalled[1].bias - (0.183_939_7_f32 + 1e-6).ln()).abs() < 1e-5);
    assert_eq!(recalled[0].token_ids, [110, 101, 119]);
}

#[test]
fn top_k_cuts_and_zero_gives_nothing() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("b", &[0.0, 1.0], 1.0)).unwrap();
    assert_eq!(memory.peek(2, &[1.0, 0.1], 1).unwrap()[0].text, "a");
    assert_eq!(memory.peek(2, &[1.0, 0.1], 0).unwrap(), []);
}

#[test]
fn a_text_in_both_stores_comes_once() {
    let mut memory = memory(2, eager());
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    let recalled = memory.peek(500, &[1.0, 0.0], 5).unwrap();
    assert_eq!(recalled.len(), 1);
    // In long-term memory it has not aged.
    assert_eq!(recalled[0].slot, find(&memory, StoreKind::Ltm, "a"));
    assert_eq!(recalled[0].also, [find(&memory, StoreKind::Stm, "a")]);
}

#[test]
fn a_recall_is_a_read_and_a_peek_is_none() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("a", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(1, &seen("b", &[0.0, 1.0], 1.0)).unwrap();
    let before = memory.snapshot();
    memory.peek(7, &[1.0, 0.0], 1).unwrap();
    assert_eq!(memory.snapshot(), before);
    memory.recall(7, &[1.0, 0.0], 1).unwrap();
    let read = |slot: SlotRef| memory.slot(slot).unwrap().read;
    assert_eq!(read(find(&memory, StoreKind::Stm, "a")), 7);
    assert_eq!(read(find(&memory, StoreKind::Stm, "b")), 1);
    assert_eq!((memory.now(), memory.counters().recalls), (7, 1));
}

#[test]
fn what_was_superseded_is_kept_but_not_recalled() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("Alice", &[1.0, 0.0], 1.0)).unwrap();
    memory.observe(2, &seen("Sarah", &[1.0, 0.1], 1.0)).unwrap();
    let (old, new) =
        (find(&memory, StoreKind::Stm, "Alice"), find(&memory, StoreKind::Stm, "Sarah"));
    memory.supersede(3, old, new).unwrap();
    let texts = |at| -> Vec<String> {
        memory.peek(at, &[1.0, 0.0], 5).unwrap().into_iter().map(|hit| hit.text).collect()
    };
    assert_eq!(texts(3), ["Sarah"]);
    assert_eq!(texts(2), ["Alice", "Sarah"]);
    assert_eq!(memory.slot(old).unwrap().validity.superseded_by, Some(new.id));
}

#[test]
fn an_empty_memory_recalls_nothing() {
    let memory = memory(2, quiet());
    assert_eq!(memory.peek(0, &[1.0, 0.0], 5).unwrap(), []);
    assert_eq!(memory.knn(NextTokenQuery::of_state(&[1.0, 0.0]), 5).unwrap(), []);
    let report = memory.report();
    assert!(report.empty && report.stm.energy.is_none());
}
