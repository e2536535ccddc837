//! The graph: against plain arithmetic, against the CPU's decoder, and its gradients against finite
//! differences.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod differences;
mod logits;
mod memory_layers;
mod operations;
#[allow(dead_code, reason = "the decoder's tests use all of it")]
#[path = "../decoder/plain.rs"]
mod plain;
mod sequences;
#[allow(dead_code, reason = "the decoder's tests use all of it")]
#[path = "../decoder/specimens.rs"]
mod specimens;
mod states;
mod training;

use cart_nn::LogitsFor;
use cart_nn::graph::{DType, Device, Graph, GraphRun, GraphState, Tensor};

use crate::specimens::Specimen;

/// The specimen as a graph that computes in `f64`.
fn exact(specimen: &Specimen) -> Graph {
    Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F64).unwrap()
}

/// Logits of all tokens, `[tokens, vocab]`, flat.
fn forward(graph: &Graph, state: &mut GraphState, tokens: &[u32]) -> Vec<f64> {
    let run = GraphRun { state, tokens, taps: None };
    let logits = graph.forward(&mut [run], LogitsFor::All).unwrap().remove(0).unwrap();
    numbers(&logits)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f64], expected: &[f64], most: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() < most;
        assert!(close, "{what}, number {index}: {found}, expected {expected}");
    }
}
