//! The scan over token positions.

use cart_memory::{NextTokenQuery, StoreKind};

use crate::given::{eager, find, memory, quiet, spanned};

#[test]
fn a_neighbour_is_the_token_after_the_nearest_state() {
    let mut memory = memory(2, quiet());
    memory
        .observe(1, &spanned("abc", &[1.0, 1.0], &[&[1.0, 0.0], &[0.0, 1.0], &[-1.0, 0.0]]))
        .unwrap();
    memory.observe(2, &spanned("xy", &[-1.0, 1.0], &[&[3.0, 4.0], &[1.0, 0.0]])).unwrap();
    assert_eq!(memory.knn_rows(), 3);
    let found = memory.knn(NextTokenQuery::of_state(&[5.0, 0.0]), 10).unwrap();
    let seen: Vec<(u32, u32)> = found.iter().map(|near| (near.token, near.offset)).collect();
    // The last state of a span has no next token, so (1, 0) of `xy` and (−1, 0) of `abc` are out.
    assert_eq!(seen, [(u32::from(b'b'), 0), (u32::from(b'y'), 0), (u32::from(b'c'), 1)]);
    assert_eq!(found[0].slot, find(&memory, StoreKind::Stm, "abc"));
    let cosines: Vec<f32> = found.iter().map(|near| near.cosine).collect();
    // Half precision holds 0.6 to 4 digits.
    assert!((cosines[0] - 1.0).abs() < 1e-3 && (cosines[1] - 0.6).abs() < 1e-3);
    assert!(cosines[2].abs() < 1e-3);
    assert!((found[0].bias - (0.5 * 0.999_f32.ln().exp() + 1e-6).ln()).abs() < 1e-3);
    assert_eq!(memory.knn(NextTokenQuery::of_state(&[5.0, 0.0]), 1).unwrap(), found[..1]);
    assert_eq!(memory.knn(NextTokenQuery::of_state(&[5.0, 0.0]), 0).unwrap(), []);
}

#[test]
fn what_was_read_before_counts_beside_the_state() {
    let mut memory = memory(2, quiet());
    let states: [&[f32]; 5] = [&[0.0, 1.0]; 5];
    memory.observe(1, &spanned("qabcx", &[1.0, 1.0], &states)).unwrap();
    memory.observe(2, &spanned("ddbcy", &[-1.0, 1.0], &states)).unwrap();
    let read: Vec<u32> = "zzabc".bytes().map(u32::from).collect();
    let query = NextTokenQuery { hidden: &[0.0, 1.0], read: &read };
    let found = memory.knn(query, 9).unwrap();
    let best: Vec<(u32, u32)> = found[..2].iter().map(|near| (near.token, near.matched)).collect();
    assert_eq!(best, [(u32::from(b'x'), 3), (u32::from(b'y'), 2)]);
    assert_eq!(found[2].matched, 0);
    assert!((found[0].score() - found[0].cosine - 0.072).abs() < 1e-6);
    // One place is asked for: the longest match, though all states are alike.
    assert_eq!(memory.knn(query, 1).unwrap(), found[..1]);
    let alone = memory.knn(NextTokenQuery::of_state(&[0.0, 1.0]), 9).unwrap();
    assert!(alone.iter().all(|near| near.matched == 0));
    // A match ends at 16, and where the span begins.
    let long = "b".repeat(40);
    let states: Vec<&[f32]> = vec![&[0.0, 1.0]; 40];
    memory.observe(3, &spanned(&long, &[0.0, -1.0], &states)).unwrap();
    let read = [u32::from(b'b'); 30];
    let found = memory.knn(NextTokenQuery { read: &read, ..query }, 100).unwrap();
    let of_long: Vec<u32> = (found.iter().filter(|near| near.token == u32::from(b'b')))
        .filter(|near| near.offset == 5 || near.offset == 30)
        .map(|near| near.matched)
        .collect();
    assert_eq!(of_long, [16, 6]);
}

#[test]
fn a_span_in_both_stores_is_scanned_once() {
    let mut memory = memory(2, eager());
    memory.observe(1, &spanned("ab", &[1.0, 0.0], &[&[1.0, 0.0], &[0.0, 1.0]])).unwrap();
    assert_eq!(memory.report().ltm.token_keys, 2);
    let found = memory.knn(NextTokenQuery::of_state(&[1.0, 0.0]), 10).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].slot.store, StoreKind::Stm);
}

#[test]
fn the_scan_finds_what_sorting_everything_finds() {
    let mut memory = memory(4, quiet());
    let mut state = 9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for tick in 0..20_u64 {
        let span: Vec<Vec<f32>> = (0..5).map(|_| (0..4).map(|_| next()).collect()).collect();
        let views: Vec<&[f32]> = span.iter().map(Vec::as_slice).collect();
        let key: Vec<f32> = (0..4).map(|_| next()).collect();
        memory.observe(tick, &spanned(&format!("{tick:05}"), &key, &views)).unwrap();
        rows.extend(span.into_iter().take(4));
    }
    let query = [0.3, -0.2, 0.9, 0.1];
    let cosine = |row: &[f32]| -> f32 {
        let dot: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        dot / (length(row) * length(&query))
    };
    let mut expected: Vec<f32> = rows.iter().map(|row| cosine(row)).collect();
    expected.sort_by(|a, b| b.total_cmp(a));
    let found = memory.knn(NextTokenQuery::of_state(&query), 12).unwrap();
    for (near, expected) in found.iter().zip(&expected) {
        assert!((near.cosine - expected).abs() < 1e-3, "{near:?} {expected}");
    }
    assert_eq!(found.len(), 12);
}
