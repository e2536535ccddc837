//! Recall by the tokens of a query.

use cart_memory::{MemoryError, StoreKind, VectorError};

use crate::given::{find, memory, quiet, seen, spanned};

#[test]
fn each_token_of_a_slot_looks_for_its_best_match_and_first_tokens_do_not_count() {
    let mut memory = memory(2, quiet());
    let rows: [&[f32]; 3] = [&[-1.0, 0.0], &[1.0, 0.0], &[0.6, 0.8]];
    memory.observe(0, &spanned("abc", &[1.0, 0.0], &rows)).unwrap();
    memory
        .observe(0, &spanned("xyz", &[0.0, -1.0], &[&[1.0, 0.0], &[0.0, -1.0], &[0.0, -1.0]]))
        .unwrap();
    // The first row would match `xyz` exactly; it does not count.
    let query = [0.0, -5.0, 2.0, 0.0, 0.0, 3.0];
    let found = memory.peek_tokens(0, &query, 5).unwrap();
    assert_eq!(found[0].text, "abc");
    // (1, 0) meets itself; (0.6, 0.8) is nearest to (0, 1).
    assert!((found[0].cosine - 0.9).abs() < 1e-3, "{}", found[0].cosine);
    assert!((found[0].score - (found[0].cosine + 0.02 * found[0].bias)).abs() < 1e-6);
    assert!(found[1].cosine.abs() < 1e-3, "{}", found[1].cosine);
}

#[test]
fn reading_leaves_a_trace_and_peeking_does_not() {
    let mut memory = memory(2, quiet());
    memory.observe(1, &seen("by key", &[1.0, 0.0], 1.0)).unwrap();
    let before = memory.snapshot();
    assert_eq!(memory.peek_tokens(5, &[1.0, 0.0], 1).unwrap()[0].cosine, 1.0);
    assert_eq!(memory.snapshot(), before);
    memory.recall_tokens(5, &[1.0, 0.0], 1).unwrap();
    let slot = find(&memory, StoreKind::Stm, "by key");
    assert_eq!((memory.slot(slot).unwrap().read, memory.now()), (5, 5));
    assert_eq!(memory.counters().recalls, 1);
}

#[test]
fn broken_queries_are_refused() {
    let mut memory = memory(2, quiet());
    for query in [&[][..], &[1.0], &[1.0, 0.0, 1.0]] {
        let refused = memory.recall_tokens(1, query, 1);
        assert!(
            matches!(refused, Err(MemoryError::Vector(VectorError::Dimension { .. }))),
            "{refused:?}"
        );
    }
    assert_eq!(memory.now(), 0);
}

#[test]
fn a_scan_among_slots_sees_no_others() {
    let mut memory = memory(2, quiet());
    memory.observe(0, &spanned("ab", &[1.0, 0.0], &[&[1.0, 0.0], &[0.0, 1.0]])).unwrap();
    memory.observe(0, &spanned("xy", &[0.0, 1.0], &[&[1.0, 0.0], &[0.0, 1.0]])).unwrap();
    let only = find(&memory, StoreKind::Stm, "xy");
    let found = memory.knn_among(&[only], &[1.0, 0.0], 9).unwrap();
    assert_eq!(found.iter().map(|near| near.slot).collect::<Vec<_>>(), [only]);
    assert_eq!(memory.knn_among(&[], &[1.0, 0.0], 9).unwrap(), []);
}
