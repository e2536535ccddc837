//! The decoder as a whole: against plain arithmetic, and against itself in other pieces.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod ahead;
mod loading;
mod plain;
mod refusals;
mod spans;
mod specimens;
mod states;

use cart_nn::{KernelLevel, LogitsFor, Model, Run, State};

use crate::plain::Plain;
use crate::specimens::{Specimen, all, tokens};

fn model(specimen: &Specimen) -> Model {
    Model::load(&specimen.spec, &specimen.tensors).unwrap()
}

fn forward(model: &Model, state: &mut State, tokens: &[u32], logits: LogitsFor) -> Vec<f32> {
    let run = Run { state, tokens, logits, taps: None };
    model.forward(&mut [run]).unwrap().remove(0).data
}

fn assert_close(found: &[f32], expected: impl IntoIterator<Item = f64>, what: &str) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error < 1e-4, "{what}, number {index}: {found}, expected {expected}");
    }
}

#[test]
fn logits_are_those_of_plain_arithmetic_and_the_same_at_every_level() {
    for (name, specimen) in all() {
        let tokens = tokens(75);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let expected = plain.logits(&tokens, &|_, _| Some(0.0)).concat();
        let mut first = None;
        for level in KernelLevel::ALL.into_iter().filter(|level| level.is_supported()) {
            let model = model(&specimen).with_kernel_level(level).unwrap();
            assert_eq!(model.kernel_level(), level);
            let whole = forward(&model, &mut model.new_state(), &tokens, LogitsFor::All);
            assert_close(&whole, expected.iter().copied(), &format!("{name} {level} whole"));
            let mut state = model.new_state();
            let steps: Vec<f32> = tokens
                .iter()
                .flat_map(|token| forward(&model, &mut state, &[*token], LogitsFor::Last))
                .collect();
            assert_close(&steps, expected.iter().copied(), &format!("{name} {level} steps"));
            let found = (whole, steps);
            let first = first.get_or_insert_with(|| found.clone());
            assert!(*first == found, "{name}: {level} gives other bits than portable");
        }
    }
}
