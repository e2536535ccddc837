//! Logits of the graph are those of plain arithmetic.

use crate::plain::Plain;
use crate::specimens::{all, tokens};
use crate::{assert_close, exact, forward, numbers};
use cart_nn::graph::{DType, Device, Graph, GraphRun};
use cart_nn::{LogitsFor, Model, Run};

#[test]
fn logits_are_those_of_plain_arithmetic() {
    for (name, specimen) in all() {
        let graph = exact(&specimen);
        let tokens = tokens(75);
        let plain = Plain { spec: &specimen.spec, weights: &specimen.weights };
        let expected = plain.logits(&tokens, &|_, _| Some(0.0)).concat();
        let whole = forward(&graph, &mut graph.new_state(1), &tokens);
        // Rotations are in `f32` whatever computes.
        assert_close(&whole, &expected, 1e-5, &format!("{name} whole"));
        for size in [1, 11, 70] {
            let mut state = graph.new_state(1);
            let pieces = tokens.chunks(size);
            let pieces: Vec<f64> =
                pieces.flat_map(|piece| forward(&graph, &mut state, piece)).collect();
            assert_close(&pieces, &whole, 1e-9, &format!("{name} in pieces of {size}"));
        }
    }
}

#[test]
fn both_decoders_give_the_same_logits() {
    for (name, specimen) in all() {
        let graph =
            Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
        let model = Model::load(&specimen.spec, &specimen.tensors).unwrap();
        let tokens = tokens(70);
        let found = forward(&graph, &mut graph.new_state(1), &tokens);
        let mut state = model.new_state();
        let run = Run { state: &mut state, tokens: &tokens, logits: LogitsFor::All, taps: None };
        let expected = model.forward(&mut [run]).unwrap().remove(0).data;
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_close(&found, &expected, 1e-4, name);
    }
}

#[test]
fn sequences_together_give_what_each_gives_alone() {
    for (name, specimen) in all() {
        let graph = exact(&specimen);
        let tokens = tokens(48);
        let alone: Vec<f64> = tokens
            .chunks(16)
            .flat_map(|tokens| forward(&graph, &mut graph.new_state(1), tokens))
            .collect();
        let batch = forward(&graph, &mut graph.new_state(3), &tokens);
        assert_close(&batch, &alone, 1e-9, &format!("{name} as a batch"));
        // Runs of other lengths, with other pasts.
        let mut states = [graph.new_state(1), graph.new_state(1)];
        forward(&graph, &mut states[1], &tokens[..20]);
        let expected = [
            forward(&graph, &mut graph.new_state(1), &tokens[..7]),
            forward(&graph, &mut states[1].clone(), &tokens[20..21]),
        ];
        let [first, second] = &mut states;
        let found = graph
            .forward(
                &mut [
                    GraphRun { state: first, tokens: &tokens[..7], taps: None },
                    GraphRun { state: second, tokens: &tokens[20..21], taps: None },
                ],
                LogitsFor::All,
            )
            .unwrap();
        let found: Vec<f64> = found.iter().flat_map(|x| numbers(x.as_ref().unwrap())).collect();
        assert_close(&found, &expected.concat(), 1e-9, &format!("{name} in one pass"));
    }
}

#[test]
fn halves_are_near_to_floats() {
    for (name, specimen) in all() {
        for dtype in [DType::BF16, DType::F16] {
            let graph =
                Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, dtype).unwrap();
            assert_eq!(graph.dtype(), dtype);
            let found = forward(&graph, &mut graph.new_state(1), &tokens(20));
            let expected = exact(&specimen);
            let expected = forward(&expected, &mut expected.new_state(1), &tokens(20));
            // An expert may be another one; the mean does not go far.
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f64>();
            let mean = error / found.len() as f64;
            assert!(mean < 0.05, "{name} {dtype:?}: mean error {mean}");
        }
    }
}
