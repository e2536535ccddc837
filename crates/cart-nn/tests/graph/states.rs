//! States of the graph are values, and what does not fit is refused.

use cart_nn::graph::{GraphRun, GraphSpan, GraphState, Tensor};
use cart_nn::{ForwardError, LogitsFor, TruncateError};

use crate::plain::Plain;
use crate::specimens::{all, attending, gemma, llama, recurring, tokens};
use crate::{assert_close, exact, forward};

#[test]
fn a_clone_is_a_fork() {
    for (name, specimen) in all() {
        let graph = exact(&specimen);
        let tokens = tokens(30);
        let mut state = graph.new_state(1);
        forward(&graph, &mut state, &tokens[..20]);
        let mut fork = state.clone();
        forward(&graph, &mut fork, &[1, 2, 3, 4]);
        assert_eq!((state.len(), fork.len()), (20, 24));
        let mut fresh = graph.new_state(1);
        forward(&graph, &mut fresh, &tokens[..20]);
        let found = forward(&graph, &mut state, &tokens[20..]);
        let expected = forward(&graph, &mut fresh, &tokens[20..]);
        assert_close(&found, &expected, 1e-12, name);
        assert!(state.bytes() > 0);
    }
}

#[test]
fn truncating_goes_back() {
    for (name, specimen) in attending() {
        let graph = exact(&specimen);
        let tokens = tokens(30);
        let mut state = graph.new_state(1);
        forward(&graph, &mut state, &tokens);
        state.truncate(12).unwrap();
        let found = forward(&graph, &mut state, &tokens[12..]);
        let mut fresh = graph.new_state(1);
        let expected = forward(&graph, &mut fresh, &tokens);
        assert_close(&found, &expected[12 * 50..], 1e-9, name);
        state.truncate(0).unwrap();
        assert!(state.is_empty());
        assert_close(&forward(&graph, &mut state, &tokens), &expected, 1e-12, name);
    }
    for (_, specimen) in recurring() {
        let graph = exact(&specimen);
        let mut state = graph.new_state(1);
        forward(&graph, &mut state, &tokens(5));
        let refused = state.truncate(3).unwrap_err();
        assert!(matches!(refused, TruncateError::Recurrent { found: 5, asked: 3, .. }));
        state.truncate(0).unwrap();
        assert!(state.is_empty());
    }
}

/// A span at another place is what plain arithmetic has for keys that see only themselves, with a
/// bias on their scores.
#[test]
fn spans_are_those_of_plain_arithmetic() {
    for specimen in [llama(), gemma()] {
        let graph = exact(&specimen);
        let tokens = tokens(20);
        let (span, rest) = tokens.split_at(3);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let sees = |_, key| Some(if key < 3 { -0.7 } else { 0.0 });
        let expected = plain.logits(&tokens, &|query, key| {
            if query < 3 { Some(0.0) } else { sees(query, key) }
        });
        let encoded = graph.encode_span(&[], span).unwrap();
        let bias = Tensor::new(&[-0.7_f32; 3], graph.device()).unwrap();
        let mut state = graph.new_state(1);
        graph.push_span(&mut state, &encoded, Some(&bias)).unwrap();
        assert_eq!(state.len(), 3);
        let found = forward(&graph, &mut state, rest);
        assert_close(&found, &expected[3..].concat(), 1e-5, "behind a span");
    }
}

#[test]
fn nothing_attends_to_what_was_hushed() {
    for specimen in [llama(), gemma()] {
        let graph = exact(&specimen);
        let tokens = tokens(20);
        let (span, rest) = tokens.split_at(3);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let sees = |query, key| match (query < 3, key < 3) {
            (false, true) => (query < 8).then_some(0.5),
            _ => Some(0.0),
        };
        let expected = plain.logits(&tokens, &sees);
        let encoded = graph.encode_span(&[], span).unwrap();
        let bias = Tensor::new(&[0.5_f32; 3], graph.device()).unwrap();
        let mut state = graph.new_state(1);
        graph.push_span(&mut state, &encoded, Some(&bias)).unwrap();
        forward(&graph, &mut state, &rest[..5]);
        state.hush(0..3).unwrap();
        let found = forward(&graph, &mut state, &rest[5..]);
        assert_close(&found, &expected[8..].concat(), 1e-5, "hushed");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let graph = exact(&llama());
    let other = exact(&gemma());
    let read = |state: &mut GraphState, tokens: &[u32]| {
        graph
            .forward(&mut [GraphRun { state, tokens, taps: None }], LogitsFor::None)
            .map(|logits| assert!(logits[0].is_none()))
    };
    let mut state = graph.new_state(2);
    assert!(matches!(read(&mut state, &[]), Err(ForwardError::Empty { run: 0 })));
    let uneven = read(&mut state, &[1, 2, 3]);
    assert!(matches!(uneven, Err(ForwardError::Uneven { found: 3, batch: 2, .. })));
    let outside = read(&mut state, &[1, 50]);
    assert!(matches!(outside, Err(ForwardError::TokenOutOfRange { index: 1, token: 50, .. })));
    let full = read(&mut state, &vec![1; 1402]);
    assert!(matches!(full, Err(ForwardError::ContextFull { new: 701, context: 700, .. })));
    assert!(state.is_empty());
    assert!(matches!(read(&mut other.new_state(1), &[1]), Err(ForwardError::OtherModel { .. })));
    let span = other.encode_span(&[], &[1, 2]).unwrap();
    let mut state = graph.new_state(1);
    let refused = graph.push_span(&mut state, &span, None);
    assert!(matches!(refused, Err(ForwardError::OtherModel { .. })));
    for (_, specimen) in recurring() {
        let graph = exact(&specimen);
        assert!(!graph.takes_spans());
        assert!(matches!(graph.encode_span(&[], &[1]), Err(ForwardError::NoKeys { .. })));
        let span = GraphSpan { len: 1, layers: Vec::new() };
        let refused = graph.push_span(&mut graph.new_state(1), &span, None);
        assert!(matches!(refused, Err(ForwardError::NoKeys { .. })));
    }
}
