//! Layers that attend to memory: what they compute at birth, with and without rows, and their gradients.

use cart_format::arch::{MixerSpec, MlpSpec, NormPlacement, Part};
use cart_nn::graph::{
    DType, Device, Graph, MemoryLayerError, MemoryLayers, MemoryRows, Parameters, Tensor, Var,
    load_parameters,
};

use crate::differences::{assert_gradients, random};
use crate::specimens::{Specimen, all, llama, tokens};
use crate::{assert_close, numbers};

/// Layers from 1 on that have attention.
fn with_attention(specimen: &Specimen) -> Vec<usize> {
    let blocks = specimen.spec.layer_blocks().enumerate().skip(1);
    let attends = blocks.filter(|(_, block)| matches!(block.mixer, Some(MixerSpec::Attention(_))));
    attends.map(|(layer, _)| layer).collect()
}

/// The graph, in `f32`, whose MLPs of layer `silent` say nothing.
fn without_mlp(specimen: &Specimen, silent: usize) -> Graph {
    let (spec, device) = (&specimen.spec, &Device::Cpu);
    let mut parameters = load_parameters(spec, &specimen.tensors, device, DType::F32).unwrap();
    let block = spec.layer_blocks().nth(silent).unwrap();
    let down = spec.naming.part(silent, Part::Down, block);
    let name = [format!("{down}.weight"), format!("{down}.bias")];
    for (_, tensor) in parameters.iter_mut().filter(|(of, _)| name.contains(of)) {
        *tensor = tensor.zeros_like().unwrap();
    }
    Graph::new(spec, &parameters).unwrap()
}

/// Memory layers with nothing in the sink's place.
fn without_sink(graph: &Graph, layers: &[usize], gate: f32) -> MemoryLayers {
    let mut tensors = MemoryLayers::at_birth(graph, layers, gate).unwrap();
    for (_, sink) in tensors.iter_mut().filter(|(name, _)| name.rsplit('.').next() == Some("sink"))
    {
        *sink = sink.affine(1e9, 0.0).unwrap();
    }
    MemoryLayers::bind(graph.spec(), layers, &tensors).unwrap()
}

/// A sequence of one position attends to itself alone, at a rotation by nothing. A memory layer whose gate is
/// open reads the same from that position's state.
#[test]
fn at_birth_a_layer_reads_what_the_attention_beside_it_would() {
    let mut seen = 0;
    for (name, specimen) in all() {
        for layer in with_attention(&specimen) {
            let block = specimen.spec.layer_blocks().nth(layer).unwrap();
            let plain = matches!(block.mlp, Some(MlpSpec::Gated(_) | MlpSpec::Plain(_)));
            // An MLP of norms after it says something of nothing; in parallel ones it is the same sum.
            if !plain || block.placement == NormPlacement::Sandwich {
                continue;
            }
            let graph = without_mlp(&specimen, layer);
            let sequences = graph.sequences(2, 1).unwrap();
            let hidden = sequences.embed(&tokens(2)).unwrap();
            let hidden = sequences.layers(0..layer, &hidden, None).unwrap();
            let expected = sequences.layers(layer..layer + 1, &hidden, None).unwrap();
            let layers = without_sink(&graph, &[layer], 20.0);
            let bias = Tensor::zeros((2, 1), DType::F32, &Device::Cpu).unwrap();
            let rows = layers.rows(std::slice::from_ref(&hidden), &bias).unwrap();
            let found = layers.apply(layer, &hidden, &rows).unwrap().unwrap();
            assert_close(&numbers(&found), &numbers(&expected), 1e-4, &format!("{name} {layer}"));
            assert!(layers.apply(layer + 1, &hidden, &rows).unwrap().is_none());
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}

fn states(rows: usize, width: usize) -> Tensor {
    random(7, &[1, rows, width]).to_dtype(DType::F32).unwrap()
}

#[test]
fn a_shut_gate_and_a_memory_without_weight_change_nothing() {
    let specimen = llama();
    let graph = Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
    let width = specimen.spec.hidden_size as usize;
    let hidden = random(5, &[1, 4, width]).to_dtype(DType::F32).unwrap();
    let apply = |gate: f32, bias: f32| {
        let tensors = MemoryLayers::at_birth(&graph, &[1], gate).unwrap();
        let layers = MemoryLayers::bind(graph.spec(), &[1], &tensors).unwrap();
        let bias = Tensor::full(bias, (1, 3), &Device::Cpu).unwrap();
        let rows = layers.rows(&[states(3, width)], &bias).unwrap();
        assert_eq!(rows.count(), 3);
        numbers(&layers.apply(1, &hidden, &rows).unwrap().unwrap())
    };
    assert_eq!(apply(0.0, 0.0), numbers(&hidden));
    // All attention goes to the sink.
    assert_eq!(apply(0.5, f32::NEG_INFINITY), numbers(&hidden));
    assert_ne!(apply(0.5, 0.0), numbers(&hidden));
    let gates = |gate: f32| {
        let tensors = MemoryLayers::at_birth(&graph, &[1], gate).unwrap();
        MemoryLayers::bind(graph.spec(), &[1], &tensors).unwrap().gates().unwrap()
    };
    assert_eq!((gates(0.0), gates(0.5)), (vec![0.0], vec![0.5_f32.tanh()]));
}

/// Spans that are put together, and rows that are filled up beside others, are what they are alone.
#[test]
fn spans_and_filled_up_rows_are_the_same_memory() {
    let specimen = llama();
    let graph = Graph::load(&specimen.spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
    let width = specimen.spec.hidden_size as usize;
    let tensors = MemoryLayers::at_birth(&graph, &[1], 0.7).unwrap();
    let layers = MemoryLayers::bind(graph.spec(), &[1], &tensors).unwrap();
    let all = states(5, width);
    let bias =
        |values: &[f32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap();
    let whole =
        layers.rows(std::slice::from_ref(&all), &bias(&[0.1, 0.1, -2.0, -2.0, -2.0])).unwrap();
    let part = |from: usize, count: usize| all.squeeze(0).unwrap().narrow(0, from, count).unwrap();
    let spans = [layers.span(&[part(0, 2)]).unwrap(), layers.span(&[part(2, 3)]).unwrap()];
    assert_eq!((spans[0].rows(), spans[1].rows()), (2, 3));
    let together = layers.of_spans(&[(&spans[0], 0.1), (&spans[1], -2.0)]).unwrap();
    let none = f32::NEG_INFINITY;
    let longer = Tensor::cat(&[&all, &states(2, width)], 1).unwrap();
    let filled = layers.rows(&[longer], &bias(&[0.1, 0.1, -2.0, -2.0, -2.0, none, none])).unwrap();
    let hidden = random(5, &[1, 4, width]).to_dtype(DType::F32).unwrap();
    let of = |rows: &MemoryRows| numbers(&layers.apply(1, &hidden, rows).unwrap().unwrap());
    assert_close(&of(&together), &of(&whole), 1e-6, "spans");
    assert_close(&of(&filled), &of(&whole), 1e-6, "filled up");
}

/// Of every tensor, of the states and of the slots' biases.
#[test]
fn gradients_are_those_of_finite_differences() {
    let specimen = small();
    let spec = &specimen.spec;
    let width = spec.hidden_size as usize;
    let shapes = MemoryLayers::shapes(spec, &[1]).unwrap();
    let variable = |seed: u64, shape: &[usize]| {
        Var::from_tensor(&random(seed, shape).affine(0.5, 0.3).unwrap()).unwrap()
    };
    let named: Vec<(String, Var)> = shapes
        .iter()
        .enumerate()
        .map(|(seed, (name, shape))| (name.clone(), variable(seed as u64, shape)))
        .collect();
    let mut vars: Vec<Var> = named.iter().map(|(_, var)| var.clone()).collect();
    vars.push(variable(80, &[2, 3, width]));
    vars.push(variable(81, &[2, 3]));
    let hidden = random(5, &[2, 2, width]);
    let (states, bias) = (vars[vars.len() - 2].clone(), vars[vars.len() - 1].clone());
    assert_gradients("memory layer", &vars, || {
        let tensors: Parameters =
            named.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let layers = MemoryLayers::bind(spec, &[1], &tensors).unwrap();
        let rows = layers.rows(&[states.as_tensor().clone()], &bias).unwrap();
        layers.apply(1, &hidden, &rows).unwrap().unwrap()
    });
}

/// A few numbers wide, with groups of heads.
fn small() -> Specimen {
    let mut specimen = llama();
    let spec = &mut specimen.spec;
    spec.hidden_size = 6;
    for block in &mut spec.blocks {
        if let Some(MixerSpec::Attention(attention)) = &mut block.mixer {
            (attention.heads, attention.kv_heads, attention.head_dim) = (4, 2, 3);
        }
    }
    specimen
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let specimen = llama();
    let spec = &specimen.spec;
    let graph = Graph::load(spec, &specimen.tensors, &Device::Cpu, DType::F32).unwrap();
    let born = || MemoryLayers::at_birth(&graph, &[1], 0.3).unwrap();
    let refused = |layers: &[usize]| MemoryLayers::shapes(spec, layers).unwrap_err();
    assert!(matches!(refused(&[0]), MemoryLayerError::First));
    assert!(matches!(refused(&[1, 99]), MemoryLayerError::NoLayer { layer: 99, .. }));
    let bind = |tensors: &Parameters| MemoryLayers::bind(spec, &[1], tensors).unwrap_err();
    let mut fewer = born();
    fewer.remove("1.key.weight").unwrap();
    assert!(matches!(bind(&fewer), MemoryLayerError::Missing { name } if name == "1.key.weight"));
    let mut more = born();
    more.insert("2.key.weight".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    assert!(matches!(bind(&more), MemoryLayerError::Unknown { name } if name == "2.key.weight"));
    let mut other = born();
    other.insert("1.gate".into(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    assert!(matches!(bind(&other), MemoryLayerError::Shape { name, .. } if name == "1.gate"));
    let recurrent = all().into_iter().find(|(_, specimen)| {
        specimen
            .spec
            .layer_blocks()
            .all(|block| !matches!(block.mixer, Some(MixerSpec::Attention(_))))
    });
    let (_, mamba) = recurrent.unwrap();
    let refused = MemoryLayers::shapes(&mamba.spec, &[1]).unwrap_err();
    assert!(matches!(refused, MemoryLayerError::NoAttention { layer: 1 }));
}
