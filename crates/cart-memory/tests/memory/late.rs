//! Recall by the tokens of a query.

use cart_memory::config::GraphRules;
use cart_memory::{
    MemoryConfig, MemoryError, NextTokenQuery, Observation, StoreKind, TokenQuery, VectorError,
};

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
    let found = memory.peek_tokens(0, TokenQuery::of_rows(&query), 5).unwrap();
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
    assert_eq!(memory.peek_tokens(5, TokenQuery::of_rows(&[1.0, 0.0]), 1).unwrap()[0].cosine, 1.0);
    assert_eq!(memory.snapshot(), before);
    memory.recall_tokens(5, TokenQuery::of_rows(&[1.0, 0.0]), 1).unwrap();
    let slot = find(&memory, StoreKind::Stm, "by key");
    assert_eq!((memory.slot(slot).unwrap().read, memory.now()), (5, 5));
    assert_eq!(memory.counters().recalls, 1);
}

#[test]
fn broken_queries_are_refused() {
    let mut memory = memory(2, quiet());
    for query in [&[][..], &[1.0], &[1.0, 0.0, 1.0]] {
        let refused = memory.recall_tokens(1, TokenQuery::of_rows(query), 1);
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
    let found = memory.knn_among(&[only], NextTokenQuery::of_state(&[1.0, 0.0]), 9).unwrap();
    assert_eq!(found.iter().map(|near| near.slot).collect::<Vec<_>>(), [only]);
    assert_eq!(memory.knn_among(&[], NextTokenQuery::of_state(&[1.0, 0.0]), 9).unwrap(), []);
}

#[test]
fn words_that_stand_together_answer_and_the_same_words_scattered_do_not() {
    let mut memory = memory(3, quiet());
    let rows: [&[f32]; 3] = [&[1.0, 0.0, 0.0], &[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0]];
    memory.observe(0, &spanned("abc", &[1.0, 1.0, 0.0], &rows)).unwrap();
    // Both queries have both words; in the second more than a window lies between them.
    let filler = [0.0, 0.0, 1.0].repeat(40);
    let (one, other) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]);
    let together = [&filler[..], &one, &other, &filler].concat();
    let scattered = [&filler[..], &one, &filler, &other].concat();
    assert_eq!(memory.peek_tokens(0, TokenQuery::of_rows(&together), 1).unwrap()[0].cosine, 1.0);
    assert_eq!(memory.peek_tokens(0, TokenQuery::of_rows(&scattered), 1).unwrap()[0].cosine, 0.5);
}

#[test]
fn what_was_said_last_goes_first_where_two_ends_match_about_equally() {
    let mut memory = memory(2, quiet());
    let told = |text: &str, end: [f32; 2]| {
        let rows: [&[f32]; 5] = [&[1.0, 0.0], &[1.0, 0.0], &[1.0, 0.0], &[1.0, 0.0], &end];
        Observation { token_ids: (0..5).collect(), ..spanned(text, &[1.0, 0.1], &rows) }
    };
    memory.observe(0, &told("Anna lives in Oslo", [0.95, 0.3])).unwrap();
    memory.observe(1, &told("Anna lives in Lima", [0.9, 0.4])).unwrap();
    memory.observe(2, &told("Boris lives in Rome", [0.88, 0.4])).unwrap();
    let first = |query: &[f32]| {
        let found = memory.peek_tokens(2, TokenQuery::of_rows(query), 3).unwrap();
        found.into_iter().map(|hit| hit.text).collect::<Vec<_>>()
    };
    let newest = ["Anna lives in Lima", "Anna lives in Oslo", "Boris lives in Rome"];
    assert_eq!(first(&[1.0, 0.0]), newest);
    // Both still hold.
    assert_eq!(memory.slots().filter(|(_, slot)| slot.validity.holds(2)).count(), 3);
}

#[test]
fn reads_by_tokens_spread_to_what_came_after() {
    let texts = |focus: f32| {
        let graph = Some(GraphRules { focus, alpha: 0.3, ..GraphRules::default() });
        let mut memory = memory(2, MemoryConfig { graph, ..quiet() });
        let told = [("a bell", [1.0, 0.0]), ("a dog", [-1.0, 0.2]), ("a gong", [0.8, 0.6])];
        for (at, (text, key)) in told.iter().enumerate() {
            memory.observe(at as u64, &seen(text, key, 1.0)).unwrap();
        }
        let found = memory.peek_associated_tokens(2, TokenQuery::of_rows(&[1.0, 0.0]), 2).unwrap();
        found.into_iter().map(|hit| hit.text).collect::<Vec<_>>()
    };
    // The dog came after the bell; the gong only sounds like it.
    assert_eq!(texts(16.0), ["a bell", "a dog"]);
    assert_eq!(texts(1.0), ["a bell", "a gong"]);
}

#[test]
fn rare_words_that_a_slot_shares_with_the_query_count() {
    let mut memory = memory(2, quiet());
    // What stood before them makes the rows of the one that is asked for a little worse.
    let rows: [&[f32]; 2] = [&[1.0, 0.0], &[1.0, 0.0]];
    let worse: [&[f32]; 2] = [&[1.0, 0.0], &[0.8, 0.6]];
    memory.observe(0, &spanned("ab", &[1.0, 0.0], &rows)).unwrap();
    memory.observe(0, &spanned("ac", &[0.0, 1.0], &worse)).unwrap();
    let query = [9.0, 9.0, 1.0, 0.0, 1.0, 0.0];
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let ask = |text: &str| {
        let token_ids = &ids(text);
        memory.peek_tokens(0, TokenQuery { rows: &query, token_ids }, 2).unwrap()
    };
    let by_rows = memory.peek_tokens(0, TokenQuery::of_rows(&query), 2).unwrap();
    assert_eq!((by_rows[0].text.as_str(), by_rows[0].cosine), ("ab", 1.0));
    // Of 2 slots both have `a` and one has `c`: weights ln(1 + 0.5 / 2.5) and ln(1 + 1.5 / 1.5).
    let found = ask(".ac");
    assert_eq!(found[0].text, "ac");
    assert!((found[0].cosine - (0.8 + 0.3)).abs() < 1e-3, "{}", found[0].cosine);
    let (both, one) = (1.2_f32.ln(), 2.0_f32.ln());
    let share = both / (both + one);
    assert!((found[1].cosine - (1.0 + 0.3 * share)).abs() < 1e-6, "{}", found[1].cosine);
    // The first token of a query does not count, as its row does not.
    assert_eq!(ask("c..")[0].text, "ab");
    let refused = memory.peek_tokens(0, TokenQuery { rows: &query, token_ids: &[1, 2] }, 1);
    assert!(
        matches!(
            refused,
            Err(MemoryError::Vector(VectorError::Dimension { what: "token ids", .. }))
        ),
        "{refused:?}"
    );
}
