//! Whole sequences in operations of one pass are those of plain operations.

use std::collections::BTreeMap;

use cart_nn::graph::{
    CrossEntropy, DType, Device, Graph, GraphRun, GraphTaps, Parameters, Tensor, TensorError, Var,
    load_parameters,
};

use crate::numbers;
use crate::specimens::{Specimen, all, llama, tokens};

type Gradients = BTreeMap<String, Vec<f64>>;

/// The graph with a variable for every tensor.
fn trainable(specimen: &Specimen, dtype: DType) -> (Graph, BTreeMap<String, Var>) {
    let frozen = load_parameters(&specimen.spec, &specimen.tensors, &Device::Cpu, dtype).unwrap();
    let vars: BTreeMap<String, Var> = frozen
        .iter()
        .map(|(name, tensor)| (name.clone(), Var::from_tensor(tensor).unwrap()))
        .collect();
    let parameters: Parameters =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    (Graph::new(&specimen.spec, &parameters).unwrap(), vars)
}

fn with_gradients(loss: &Tensor, vars: &BTreeMap<String, Var>) -> (f64, Gradients) {
    let gradients = loss.backward().unwrap();
    let of = |(name, var): (&String, &Var)| Some((name.clone(), numbers(gradients.get(var)?)));
    (numbers(loss)[0], vars.iter().filter_map(of).collect())
}

fn targets(tokens: &[u32]) -> (Vec<u32>, Vec<f32>) {
    let targets = tokens[1..].iter().chain(&tokens[..1]).copied().collect();
    (targets, (0..tokens.len()).map(|at| (at % 3) as f32 * 0.5).collect())
}

/// In `f64`, with plain operations and states.
fn plainly(specimen: &Specimen, tokens: &[u32]) -> (f64, Gradients) {
    let (graph, vars) = trainable(specimen, DType::F64);
    let mut state = graph.new_state(2);
    let run = GraphRun { state: &mut state, tokens, taps: None };
    let hidden = graph.hidden(&mut [run]).unwrap().remove(0).flatten(0, 1).unwrap();
    let (targets, weights) = targets(tokens);
    let soft_cap = graph.spec().logit_softcap;
    let loss = CrossEntropy { head: graph.head(), soft_cap, chunk: 7 };
    with_gradients(&loss.sum(&hidden, &targets, &weights).unwrap(), &vars)
}

/// In `f32`, in parts of the layers.
fn at_once(specimen: &Specimen, tokens: &[u32]) -> (f64, Gradients) {
    let (graph, vars) = trainable(specimen, DType::F32);
    let layers = specimen.spec.layers.len();
    let sequences = graph.sequences(2, tokens.len() / 2).unwrap();
    let hidden = sequences.embed(tokens).unwrap();
    let hidden = sequences.layers(0..1, &hidden, None).unwrap();
    let hidden = sequences.layers(1..layers, &hidden, None).unwrap();
    let (targets, weights) = targets(tokens);
    with_gradients(&sequences.loss(&hidden, &targets, &weights, 7).unwrap(), &vars)
}

#[test]
fn losses_and_gradients_are_those_of_plain_operations() {
    for (name, specimen) in all() {
        let tokens = tokens(150);
        let (expected, expected_gradients) = plainly(&specimen, &tokens);
        let (found, gradients) = at_once(&specimen, &tokens);
        assert!((found - expected).abs() < 1e-4 * expected, "{name}: {found} {expected}");
        assert_eq!(
            gradients.keys().collect::<Vec<_>>(),
            expected_gradients.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (tensor, expected) in expected_gradients {
            let norm = |of: &[f64]| of.iter().map(|slope| slope * slope).sum::<f64>().sqrt();
            let error: Vec<f64> =
                gradients[&tensor].iter().zip(&expected).map(|(a, b)| a - b).collect();
            let (error, size) = (norm(&error), norm(&expected));
            assert!(error <= 2e-3 * size + 1e-6, "{name} {tensor}: {error} of {size}");
        }
    }
}

/// Adds a variable to the residual stream after a layer.
struct Steer(Var);

impl GraphTaps for Steer {
    fn wants(&self, layer: usize) -> bool {
        layer == 1
    }

    fn after_layer(
        &mut self,
        layer: usize,
        first_position: usize,
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, TensorError> {
        assert_eq!((layer, first_position, hidden.dims()), (1, 0, &[2, 8, 32][..]));
        hidden.broadcast_add(&self.0).map(Some)
    }
}

/// Nothing of a frozen model is a node of the tape but what comes after the first variable, and none of its
/// tensors gets a gradient.
#[test]
fn frozen_layers_under_a_tap_cost_no_gradient() {
    let specimen = llama();
    let parameters =
        load_parameters(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
    let graph = Graph::new(&specimen.spec, &parameters).unwrap();
    let tokens = tokens(16);
    let sequences = graph.sequences(2, 8).unwrap();
    let below = sequences.layers(0..1, &sequences.embed(&tokens).unwrap(), None).unwrap();
    assert!(!below.track_op());
    let steer = Var::zeros(32, DType::F32, &Device::Cpu).unwrap();
    let mut taps = Steer(steer.clone());
    let layers = specimen.spec.layers.len();
    let above = sequences.layers(1..layers, &below, Some(&mut taps)).unwrap();
    let (targets, weights) = targets(&tokens);
    let loss = sequences.loss(&above, &targets, &weights, 100).unwrap();
    let gradients = loss.backward().unwrap();
    assert!(numbers(gradients.get(&steer).unwrap()).iter().any(|slope| *slope != 0.0));
    assert!(parameters.values().all(|tensor| gradients.get(tensor).is_none()));
}

#[test]
fn sequences_that_do_not_fit_are_refused() {
    let specimen = llama();
    let graph = Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
    let context = specimen.spec.context_length as usize;
    let refused = graph.sequences(1, context + 1).unwrap_err().to_string();
    assert!(refused.contains(&format!("the context of {context}")), "{refused}");
    let sequences = graph.sequences(2, 4).unwrap();
    assert!(sequences.embed(&[1; 7]).is_err());
    assert!(sequences.embed(&[1; 10]).is_err());
    let beyond = specimen.spec.vocab_size as u32;
    assert!(sequences.embed(&[beyond; 8]).unwrap_err().to_string().contains("the vocabulary has"));
}
