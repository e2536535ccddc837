//! Gradients of whole models.

use cart_nn::LogitsFor;
use cart_nn::graph::{
    CrossEntropy, DType, Device, Graph, GraphRun, GraphTaps, Parameters, Tensor, TensorError, Var,
    load_parameters,
};

use crate::differences::random;
use crate::specimens::{Specimen, all, llama, tokens};
use crate::{assert_close, numbers};

/// The graph with a variable for every tensor, and the variables.
fn trainable(specimen: &Specimen) -> (Graph, Vec<(String, Var)>) {
    let frozen =
        load_parameters(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F64).unwrap();
    let vars: Vec<(String, Var)> = frozen
        .iter()
        .map(|(name, tensor)| (name.clone(), Var::from_tensor(tensor).unwrap()))
        .collect();
    let parameters: Parameters =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    (Graph::new(&specimen.spec, &parameters).unwrap(), vars)
}

/// The loss of predicting each token of two sequences from those before.
fn loss(graph: &Graph, tokens: &[u32]) -> Tensor {
    let mut state = graph.new_state(2);
    let run = GraphRun { state: &mut state, tokens, taps: None };
    let hidden = graph.hidden(&mut [run]).unwrap().remove(0);
    let hidden = hidden.flatten(0, 1).unwrap();
    let targets: Vec<u32> = tokens[1..].iter().chain(&tokens[..1]).copied().collect();
    let soft_cap = graph.spec().logit_softcap;
    let loss = CrossEntropy { head: graph.head(), soft_cap, chunk: 5 };
    loss.sum(&hidden, &targets, &vec![1.0; targets.len()]).unwrap()
}

/// Every tensor of every kind of layer has a gradient, and together they are the slope of the loss
/// in a direction that moves all numbers.
#[test]
fn every_tensor_of_every_specimen_has_its_gradient() {
    for (name, specimen) in all() {
        let (graph, vars) = trainable(&specimen);
        let tokens = tokens(48);
        let gradients = loss(&graph, &tokens).backward().unwrap();
        let mut expected = 0.0;
        let mut directions = Vec::new();
        for (seed, (tensor, var)) in vars.iter().enumerate() {
            // Divisors of rotations are constants.
            if tensor.starts_with("rope_") {
                continue;
            }
            let gradient =
                gradients.get(var).unwrap_or_else(|| panic!("{name}: {tensor} has none"));
            let flat = numbers(gradient);
            assert!(flat.iter().all(|slope| slope.is_finite()), "{name}: {tensor}");
            assert!(flat.iter().any(|slope| *slope != 0.0), "{name}: {tensor} has only zeros");
            let direction = random(seed as u64, var.dims());
            let along: f64 =
                flat.iter().zip(numbers(&direction)).map(|(slope, by)| slope * by).sum();
            expected += along;
            directions.push((var, var.as_tensor().copy().unwrap(), direction));
        }
        let moved = |by: f64| {
            for (var, before, direction) in &directions {
                var.set(&(before + direction.affine(by, 0.0).unwrap()).unwrap()).unwrap();
            }
            loss(&graph, &tokens).to_scalar::<f64>().unwrap()
        };
        let step = 1e-6;
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let error = (slope - expected).abs() / slope.abs().max(1.0);
        assert!(error < 1e-5, "{name}: {expected}, but the difference says {slope}");
    }
}

/// Takes the place of a layer's output.
struct Add<'a> {
    layer: usize,
    what: &'a Tensor,
    seen: usize,
}

impl GraphTaps for Add<'_> {
    fn wants(&self, layer: usize) -> bool {
        layer == self.layer
    }

    fn after_layer(
        &mut self,
        layer: usize,
        first_position: usize,
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, TensorError> {
        assert_eq!((layer, first_position), (self.layer, 0));
        self.seen += 1;
        hidden.broadcast_add(self.what).map(Some)
    }

    fn logits(&mut self, logits: &Tensor) -> Result<Option<Tensor>, TensorError> {
        logits.affine(2.0, 0.0).map(Some)
    }
}

/// What a tap adds, a prefix's keys and values and the bias of its slots get gradients through a
/// model whose own tensors are frozen.
#[test]
fn gradients_reach_taps_prefixes_and_slot_biases() {
    let specimen = llama();
    let graph = Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F64).unwrap();
    let steer = Var::from_tensor(&random(1, &[32])).unwrap();
    let bias = Var::from_tensor(&random(2, &[4])).unwrap();
    let mut span = graph.encode_span(&[1], &[5, 6, 7, 8]).unwrap();
    let mut vars = vec![steer.clone(), bias.clone()];
    for (keys, values) in span.layers.iter_mut().flatten() {
        for tensor in [keys, values] {
            let var = Var::from_tensor(tensor).unwrap();
            *tensor = var.as_tensor().clone();
            vars.push(var);
        }
    }
    let value = || {
        let mut state = graph.new_state(1);
        graph.push_span(&mut state, &span, Some(bias.as_tensor())).unwrap();
        let mut taps = Add { layer: 1, what: &steer, seen: 0 };
        // A first position of 4, as the prefix takes 0 to 3.
        let mut run = [GraphRun { state: &mut state, tokens: &[3, 4, 9], taps: None }];
        let mut alone = graph.new_state(1);
        let tapped = GraphRun { state: &mut alone, tokens: &[3, 4, 9], taps: Some(&mut taps) };
        let behind = graph.forward(&mut run, LogitsFor::Last).unwrap().remove(0).unwrap();
        let tapped = graph.forward(&mut [tapped], LogitsFor::Last).unwrap().remove(0).unwrap();
        assert_eq!(taps.seen, 1);
        let factors = random(7, behind.dims());
        ((behind + tapped).unwrap() * factors).unwrap().sum_all().unwrap()
    };
    crate::differences::assert_gradients("the prefix", &vars, value);
}

/// A few steps down the slope make the loss smaller.
#[test]
fn steps_along_the_gradient_lower_the_loss() {
    let (graph, vars) = trainable(&llama());
    let tokens = tokens(16);
    let first = numbers(&loss(&graph, &tokens))[0];
    for _ in 0..10 {
        let gradients = loss(&graph, &tokens).backward().unwrap();
        for (_, var) in &vars {
            let gradient = gradients.get(var).unwrap();
            var.set(&(var.as_tensor() - gradient.affine(3e-3, 0.0).unwrap()).unwrap()).unwrap();
        }
    }
    let last = numbers(&loss(&graph, &tokens))[0];
    assert!(last < 0.8 * first, "{first} became {last}");
}

/// The same with half of the numbers: gradients are of the type of what they are of.
#[test]
fn frozen_tensors_cost_no_gradient() {
    let specimen = llama();
    let mut parameters =
        load_parameters(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F64).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let var = Var::from_tensor(&parameters[name]).unwrap();
    parameters.insert(name.to_owned(), var.as_tensor().clone());
    let graph = Graph::new(&specimen.spec, &parameters).unwrap();
    let gradients = loss(&graph, &tokens(16)).backward().unwrap();
    assert!(gradients.get(&var).is_some());
    let others = parameters.iter().filter(|(other, _)| *other != name);
    assert!(others.clone().all(|(_, tensor)| gradients.get(tensor).is_none()));
    let (whole, all) = trainable(&specimen);
    let gradients_of_all = loss(&whole, &tokens(16)).backward().unwrap();
    let same = &all.iter().find(|(other, _)| other == name).unwrap().1;
    let expected = numbers(gradients_of_all.get(same).unwrap());
    assert_close(&numbers(gradients.get(&var).unwrap()), &expected, 1e-10, name);
}
