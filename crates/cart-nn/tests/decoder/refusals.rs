//! What a forward refuses, and that it leaves the states as they were.

use cart_format::arch::TensorNaming;
use cart_nn::{ForwardError, LogitsFor, Run};

use crate::specimens::{gemma, hybrid, llama, mamba, one_part, tokens};
use crate::{forward, model};

#[test]
fn bad_runs_are_refused_and_change_nothing() {
    let (model, other) = (model(&llama()), model(&gemma()));
    let mut good = model.new_state();
    forward(&model, &mut good, &tokens(690), LogitsFor::None);
    let before = good.clone();
    let mut foreign = other.new_state();
    let mut refuse = |state: Option<&mut cart_nn::State>, tokens: &[u32]| {
        let mut second = before.clone();
        let state = state.unwrap_or(&mut second);
        let mut runs = [
            Run { state: &mut good, tokens: &[1], logits: LogitsFor::Last, taps: None },
            Run { state, tokens, logits: LogitsFor::Last, taps: None },
        ];
        let error = model.forward(&mut runs).unwrap_err();
        assert_eq!(good, before);
        error
    };
    assert!(matches!(refuse(None, &[]), ForwardError::Empty { run: 1 }));
    let error = refuse(None, &[0, 50]);
    assert!(matches!(
        error,
        ForwardError::TokenOutOfRange { run: 1, index: 1, token: 50, vocab: 50 }
    ));
    let error = refuse(None, &tokens(11));
    assert!(matches!(
        error,
        ForwardError::ContextFull { run: 1, past: 690, new: 11, context: 700 }
    ));
    assert_eq!(
        refuse(Some(&mut foreign), &[1]).to_string(),
        "run 1: the state or span has 4 layers, but this model has 3; make it with this model"
    );
    forward(&model, &mut good, &tokens(10), LogitsFor::None);
    assert_eq!(good.len(), 700);
}

#[test]
fn a_state_of_another_model_is_told_by_the_first_layer_that_differs() {
    let naming = TensorNaming::HfBackbone;
    let models = [llama(), one_part(naming), mamba(naming), hybrid(naming)].map(|s| model(&s));
    let refuse = |state: usize, of: usize| {
        let mut state = models[state].new_state();
        let run = Run { state: &mut state, tokens: &[1], logits: LogitsFor::None, taps: None };
        models[of].forward(&mut [run]).unwrap_err().to_string()
    };
    let found = [
        (
            refuse(0, 2),
            "keys and values of 2 × 8 in layer 0, but this model has a state of 1 × 50 \
                        channels of 5 numbers and 3 inputs of a convolution over 50 there",
        ),
        (
            refuse(1, 3),
            "nothing in layer 0, but this model has a state of 6 × 20 channels of 9 \
                        numbers and 2 inputs of a convolution over 156 there",
        ),
        (refuse(3, 0), "5 layers, but this model has 3"),
    ];
    for (found, expected) in found {
        let expected = format!("run 0: the state or span has {expected}; make it with this model");
        assert_eq!(found, expected);
    }
}

#[test]
fn bad_spans_are_refused() {
    let (model, other) = (model(&llama()), model(&gemma()));
    assert!(matches!(model.encode_span(&[1], &[]), Err(ForwardError::Empty { .. })));
    assert!(matches!(
        model.encode_span(&[], &[1, 99]),
        Err(ForwardError::TokenOutOfRange { token: 99, .. })
    ));
    let span = other.encode_span(&[], &[1, 2]).unwrap();
    let mut state = model.new_state();
    assert!(matches!(
        model.push_span(&mut state, &span, 0.0),
        Err(ForwardError::OtherModel { .. })
    ));
    let span = model.encode_span(&[], &tokens(400)).unwrap();
    model.push_span(&mut state, &span, 0.0).unwrap();
    let error = model.push_span(&mut state, &span, 0.0).unwrap_err();
    assert!(matches!(error, ForwardError::ContextFull { past: 400, new: 400, .. }));
    assert_eq!(state.len(), 400);
}
