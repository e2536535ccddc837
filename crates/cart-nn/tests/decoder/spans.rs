//! Spans that are read alone and put anywhere.

use cart_nn::LogitsFor;

use crate::plain::Plain;
use crate::specimens::{attending, tokens};
use crate::{assert_close, forward, model};

#[test]
fn a_span_at_the_start_is_the_same_as_its_tokens() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let tokens = tokens(50);
        let span = model.encode_span(&[], &tokens[..30]).unwrap();
        assert!(span.len() == 30 && !span.is_empty());
        let mut read = model.new_state();
        forward(&model, &mut read, &tokens[..30], LogitsFor::None);
        let mut pushed = model.new_state();
        model.push_span(&mut pushed, &span, 0.0).unwrap();
        assert_eq!(pushed, read, "{name}");
        let expected = forward(&model, &mut read, &tokens[30..], LogitsFor::All);
        assert_eq!(forward(&model, &mut pushed, &tokens[30..], LogitsFor::All), expected, "{name}");
    }
}

#[test]
fn a_span_further_on_is_seen_by_what_follows_and_sees_only_itself() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let (before, span, after) = (13, 21, 16);
        let tokens = tokens(before + span + after);
        let in_span = |position: usize| (before..before + span).contains(&position);
        for bias in [0.0_f32, -1.25, 0.5] {
            // Rotation is relative, so a span that sees only itself is the same at any position.
            let sees = |query: usize, key: usize| match (in_span(query), in_span(key)) {
                (true, false) => None,
                (false, true) => Some(f64::from(bias)),
                _ => Some(0.0),
            };
            let expected = plain.logits(&tokens, &sees).split_off(before + span).concat();
            let mut state = model.new_state();
            forward(&model, &mut state, &tokens[..before], LogitsFor::None);
            let kept = model.encode_span(&[], &tokens[before..before + span]).unwrap();
            model.push_span(&mut state, &kept, bias).unwrap();
            assert_eq!(state.len(), before + span);
            let mut steps = state.clone();
            let found = forward(&model, &mut state, &tokens[before + span..], LogitsFor::All);
            assert_close(&found, expected.iter().copied(), &format!("{name}, bias {bias}"));
            let found: Vec<f32> = tokens[before + span..]
                .iter()
                .flat_map(|token| forward(&model, &mut steps, &[*token], LogitsFor::Last))
                .collect();
            assert_close(&found, expected, &format!("{name}, bias {bias}, steps"));
        }
    }
}

#[test]
fn a_sink_is_seen_but_not_kept() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let tokens = tokens(40);
        let span = model.encode_span(&tokens[..4], &tokens[4..]).unwrap();
        assert_eq!(span.len(), 36);
        assert_ne!(span, model.encode_span(&[], &tokens[4..]).unwrap(), "{name}");
        let mut read = model.new_state();
        forward(&model, &mut read, &tokens, LogitsFor::None);
        let mut pushed = model.new_state();
        forward(&model, &mut pushed, &tokens[..4], LogitsFor::None);
        model.push_span(&mut pushed, &span, 0.0).unwrap();
        let expected = forward(&model, &mut read, &[3], LogitsFor::Last);
        let found = forward(&model, &mut pushed, &[3], LogitsFor::Last);
        assert_close(&found, expected.iter().map(|logit| f64::from(*logit)), name);
    }
}

#[test]
fn a_bias_goes_with_the_positions_that_have_it() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let mut state = model.new_state();
        forward(&model, &mut state, &tokens(6), LogitsFor::None);
        let before = state.clone();
        let span = model.encode_span(&[], &tokens(5)).unwrap();
        model.push_span(&mut state, &span, -3.0).unwrap();
        state.truncate(6).unwrap();
        assert_eq!(state, before, "{name}");
    }
}

#[test]
fn nothing_attends_to_what_was_hushed() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let (before, span, more, after) = (13, 21, 4, 12);
        let tokens = tokens(before + span + more + after);
        let in_span = |position: usize| (before..before + span).contains(&position);
        let sees = |query: usize, key: usize| match (in_span(query), in_span(key)) {
            (true, false) => None,
            (false, true) => (query < before + span + more).then_some(0.5),
            _ => Some(0.0),
        };
        let expected = plain.logits(&tokens, &sees).split_off(before + span + more).concat();
        let mut state = model.new_state();
        forward(&model, &mut state, &tokens[..before], LogitsFor::None);
        let kept = model.encode_span(&[], &tokens[before..before + span]).unwrap();
        model.push_span(&mut state, &kept, 0.5).unwrap();
        let (heard, rest) = tokens[before + span..].split_at(more);
        forward(&model, &mut state, heard, LogitsFor::None);
        state.hush(before..before + span);
        let found = forward(&model, &mut state, rest, LogitsFor::All);
        assert_close(&found, expected, name);
    }
}
