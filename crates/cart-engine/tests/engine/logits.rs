//! Imported, verified, loaded and run, a checkpoint gives the logits of `transformers`, from
//! Hugging Face and from GGUF.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cart_engine::Prompt;
use cart_format::ArchSpec;
use cart_nn::graph::{DType, Device, Graph, GraphRun};
use cart_nn::{LogitsFor, Model, Run, SharedBytes, WeightTensor};
use cart_store::Verified;

use crate::given::{Shelf, fixture, greedy, shelf};

/// Every checkpoint with frozen logits.
const CHECKPOINTS: &[&str] = &[
    "falcon",
    "falcon-7b",
    "falcon-sequential",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3-published",
    "llama-bf16",
    "llama-biased",
    "llama-dynamic",
    "llama-f16-untied",
    "llama-f32-sharded",
    "llama-f32-tied",
    "llama3",
    "llama3-rope-parameters",
    "llama3-rope-scaling",
    "mamba",
    "mamba-biased",
    "mamba2",
    "mamba2-limits",
    "mistral",
    "mixtral",
    "nemotron-h",
    "nemotron-h-published",
    "phi3",
    "phi3-long",
    "phi3-short",
    "qwen2",
    "qwen2-moe",
    "qwen2-moe-every",
    "qwen2-window",
    "qwen2-yarn",
    "qwen3",
    "qwen3-moe",
    "smollm3",
];

/// Those that are there as GGUF too.
const GGUF: &[&str] = &[
    "falcon",
    "falcon-7b",
    "gemma",
    "gemma2",
    "gemma3",
    "llama-biased",
    "llama3",
    "mamba",
    "mamba2",
    "mixtral",
    "nemotron-h",
    "phi3",
    "phi3-long",
    "phi3-short",
    "qwen2",
    "qwen2-moe-every",
    "qwen2-yarn",
    "qwen3",
    "qwen3-moe",
    "smollm3",
];

/// Token ids and the logits that `transformers` gives for them.
struct Expected {
    ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn of(name: &str) -> Self {
        let expected = std::fs::read(fixture("logits").join(name).join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        Self {
            ids: serde_json::from_value(expected["input_ids"].clone()).unwrap(),
            logits: serde_json::from_value(expected["logits"].clone()).unwrap(),
        }
    }

    /// The largest difference to logits of all positions.
    fn distance(&self, logits: &[f32]) -> f32 {
        let expected = self.logits.concat();
        assert_eq!(logits.len(), expected.len());
        let differences = logits.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // `max` would pass a NaN over.
        differences.fold(0.0, |most, difference| if difference <= most { most } else { difference })
    }
}

/// Every frozen model: its name, the file or folder, and what is expected.
fn cases() -> Vec<(&'static str, PathBuf, Expected)> {
    let hf = CHECKPOINTS.iter().map(|&name| (name, fixture("logits").join(name)));
    let gguf = GGUF.iter().map(|&name| (name, fixture("gguf").join(format!("{name}.gguf"))));
    hf.chain(gguf).map(|(name, path)| (name, path, Expected::of(name))).collect()
}

fn load(shelf: &Shelf, path: &Path) -> Model {
    let (spec, weights) = parts(shelf, path);
    Model::load(&spec, &weights).unwrap()
}

fn parts(shelf: &Shelf, path: &Path) -> (ArchSpec, BTreeMap<String, WeightTensor>) {
    let verified = shelf.verified(shelf.import(path));
    let architecture = verified.manifest().model.architecture.clone();
    let architecture = architecture.unwrap_or_else(|| panic!("{} can't be run", path.display()));
    (ArchSpec::from_value(&architecture).unwrap(), weights(&verified))
}

fn weights(verified: &Verified) -> BTreeMap<String, WeightTensor> {
    let tensors = verified.manifest().model.tensors.iter();
    tensors
        .map(|(name, entry)| {
            let shape = entry.shape.iter().map(|&dim| dim as usize).collect();
            let bytes = SharedBytes::new(verified.map(&entry.blob).unwrap());
            (name.to_string(), WeightTensor { dtype: entry.dtype, shape, bytes })
        })
        .collect()
}

fn run(model: &Model, pieces: &[&[u32]]) -> Vec<f32> {
    let mut state = model.new_state();
    let piece = |tokens: &&[u32]| {
        let run = Run { state: &mut state, tokens, logits: LogitsFor::All, taps: None };
        model.forward(&mut [run]).unwrap().remove(0).data
    };
    pieces.iter().flat_map(piece).collect()
}

#[test]
fn logits_are_those_of_transformers_at_once_and_token_by_token() {
    let shelf = shelf();
    let mut far = Vec::new();
    for (_, path, expected) in cases() {
        let model = load(&shelf, &path);
        let whole = expected.distance(&run(&model, &[&expected.ids]));
        let steps: Vec<&[u32]> = expected.ids.chunks(1).collect();
        let steps = expected.distance(&run(&model, &steps));
        let pieces: Vec<&[u32]> = expected.ids.chunks(11).collect();
        let pieces = expected.distance(&run(&model, &pieces));
        if ![whole, steps, pieces].iter().all(|distance| *distance < 1e-3) {
            far.push(format!("{}: {whole} {steps} {pieces}", path.display()));
        }
    }
    assert!(far.is_empty(), "{far:#?}");
}

/// The other decoder: nothing is asked of a family for it.
#[test]
fn logits_of_the_graph_are_those_of_transformers_at_once_and_token_by_token() {
    let shelf = shelf();
    let mut far = Vec::new();
    for (_, path, expected) in cases() {
        let (spec, weights) = parts(&shelf, &path);
        let graph = Graph::load(&spec, &weights, &Device::Cpu, DType::F32).unwrap();
        let distance = |size: usize| {
            let mut state = graph.new_state(1);
            let pieces = expected.ids.chunks(size).flat_map(|tokens| {
                let run = GraphRun { state: &mut state, tokens, taps: None };
                let logits = graph.forward(&mut [run], LogitsFor::All).unwrap().remove(0).unwrap();
                logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            expected.distance(&pieces.collect::<Vec<f32>>())
        };
        let distances = [expected.ids.len(), 11, 1].map(distance);
        if !distances.iter().all(|distance| *distance < 1e-3) {
            far.push(format!("{}: {distances:?}", path.display()));
        }
    }
    assert!(far.is_empty(), "{far:#?}");
}

#[test]
fn every_frozen_checkpoint_is_held_to_its_logits() {
    let names = |folder: &str, ending: &str| {
        let entries = std::fs::read_dir(fixture(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(ending)?.to_owned())).collect();
        names.sort();
        names
    };
    assert_eq!(names("logits", ""), CHECKPOINTS);
    let gguf = names("gguf", ".gguf");
    let heads: Vec<_> = gguf.iter().filter(|name| !GGUF.contains(&name.as_str())).collect();
    assert_eq!(gguf.len(), GGUF.len() + heads.len());
    assert_eq!(heads, ["smollm2-head"]);
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let shelf = shelf();
    for (name, path, Expected { ids, logits }) in cases() {
        let last = logits.last().unwrap();
        let norm = last.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
        let agent = shelf.agent(shelf.import(&path));
        let mut options = greedy(1);
        options.top_logprobs = 20;
        let generation = agent.generate(&Prompt::Tokens(ids), &options, |_| {}).unwrap();
        assert_eq!(generation.top_logprobs[0].len(), 20);
        for top in &generation.top_logprobs[0] {
            let expected = f64::from(last[top.token as usize]) - norm;
            assert!((top.logprob - expected).abs() < 1e-3, "{name}: {top:?} {expected}");
        }
    }
}
