//! Steps per second, on drawn weights and random tokens. The rival is `scripts/rivals/train.py`,
//! which runs both:
//!
//! `steps PRECISION JOB …`, `f32` or `bf16` and
//!
//! * `agent SPEC BATCH SECONDS`: a small model, all of it
//! * `memory SECONDS [LESSONS]`: three memory layers on a model of SmolLM2-135M's shape that
//!   does not change; with few lessons, what is under the first of them is kept after one epoch
//! * `distill SECONDS`: 12 layers of that model, which learn from all 30

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use cart_format::{ArchSpec, BlobId, DType};
use cart_nn::decoder::Decoder;
use cart_nn::graph::{self, Device, Divergence, Graph, Products};
use cart_nn::{SharedBytes, WeightTensor};
use cart_train::agent::{Agent, AgentSpec, AgentTokenizer};
use cart_train::distill::{DistillOptions, Distillation, Student, Teacher};
use cart_train::memory::{Lesson, MemoryRecipe, MemoryTask, MemoryTraining, Remembered};
use cart_train::{Chance, Corpus, Schedule, StepReport, TrainError, TrainOptions};

/// Steps before the clock starts.
const WARM: usize = 3;

/// The shape of SmolLM2-135M.
const SMOL: &str = "layers=30,hidden=576,heads=9,kv_heads=3,intermediate=1536,context=8192";
const VOCABULARY: u64 = 49_152;

/// The layers beside whose attention memory layers stand, tokens of a lesson and of its memory, and
/// lessons of a step.
const BESIDE: [usize; 3] = [10, 18, 26];
const LENGTH: usize = 32;
const LESSONS: usize = 4;

/// Tokens of a sequence that a student reads, and sequences of a step.
const CONTEXT: usize = 256;
const SEQUENCES: usize = 2;

const USAGE: &str =
    "f32|bf16 agent SPEC BATCH SECONDS | memory SECONDS [LESSONS] | distill SECONDS";

type Weights = BTreeMap<String, WeightTensor>;

fn main() -> Result<(), Box<dyn Error>> {
    // SAFETY: nothing has started a thread yet.
    unsafe { cart_nn::shorten_idling() };
    cart_nn::keep_freed_memory();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [precision, job @ ..] = &words[..] else { return Err(USAGE.into()) };
    let products = [Products::F32, Products::Bf16].into_iter().find(|one| one.name() == *precision);
    let products = products.ok_or(USAGE)?;
    match *job {
        ["agent", spec, batch, seconds] => {
            agent(products, spec.parse()?, batch.parse()?, seconds.parse()?)
        }
        ["memory", seconds] => memory(products, 512, seconds.parse()?),
        ["memory", seconds, lessons] => memory(products, lessons.parse()?, seconds.parse()?),
        ["distill", seconds] => distill(products, seconds.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn options(products: Products) -> TrainOptions {
    let schedule = Schedule { peak: 1e-3, warmup: 10, steps: u64::MAX, floor: 0.1 };
    TrainOptions { schedule, weight_decay: 0.1, clip: 1.0, accumulate: 1, seed: 0, products }
}

/// Makes steps for a while, and prints how many a second.
fn timed(
    (warm, seconds): (usize, f64),
    mut step: impl FnMut() -> Result<StepReport, TrainError>,
) -> Result<(), Box<dyn Error>> {
    for _ in 0..warm {
        step()?;
    }
    let (began, mut steps, mut loss) = (Instant::now(), 0, 0.0);
    while began.elapsed() < Duration::from_secs_f64(seconds) {
        loss = step()?.loss;
        steps += 1;
    }
    let speed = f64::from(steps) / began.elapsed().as_secs_f64();
    println!("{{\"steps_per_second\": {speed:.3}, \"loss\": {loss:.4}}}");
    Ok(())
}

fn agent(
    products: Products,
    spec: AgentSpec,
    batch: usize,
    seconds: f64,
) -> Result<(), Box<dyn Error>> {
    let corpus = corpus(256, spec.context as usize, batch)?;
    let mut agent = Agent::new(&spec, AgentTokenizer::bytes(), corpus, options(products))?;
    timed((WARM, seconds), || agent.step())
}

fn corpus(vocabulary: usize, context: usize, batch: usize) -> Result<Corpus, TrainError> {
    let mut chance = Chance::new(1, &[]);
    let tokens = (0..64 * batch * context).map(|_| chance.below(vocabulary) as u32).collect();
    Corpus::new(tokens, 0.05, context, batch, 0)
}

/// A model of SmolLM2-135M's shape.
fn drawn() -> Result<(ArchSpec, Weights), Box<dyn Error>> {
    let architecture = SMOL.parse::<AgentSpec>()?.architecture(VOCABULARY);
    let mut weights = Weights::new();
    for (index, asked) in architecture.tensors().into_iter().enumerate() {
        let shape: Vec<usize> = asked.shape.iter().map(|&dim| dim as usize).collect();
        let mut chance = Chance::new(2, &[index as u64]);
        let norm = shape.len() == 1;
        let mut draw = || if norm { 1.0 } else { 0.04 * (chance.unit() as f32 - 0.5) };
        let count = shape.iter().product::<usize>();
        let bytes: Vec<u8> = (0..count).flat_map(|_| draw().to_le_bytes()).collect();
        let tensor = WeightTensor { dtype: DType::F32, shape, bytes: SharedBytes::new(bytes) };
        weights.insert(asked.name, tensor);
    }
    Ok((architecture, weights))
}

fn loaded(architecture: &ArchSpec, weights: &Weights) -> Result<Graph, Box<dyn Error>> {
    Ok(Graph::load(architecture, weights, &Device::Cpu, graph::DType::F32)?)
}

fn memory(products: Products, lessons: usize, seconds: f64) -> Result<(), Box<dyn Error>> {
    let (architecture, weights) = drawn()?;
    let graph = loaded(&architecture, &weights)?;
    let task = MemoryTask { lessons: (0..lessons).map(lesson).collect(), ..MemoryTask::default() };
    let recipe = MemoryRecipe {
        layers: BESIDE.to_vec(),
        gate: 0.3,
        batch: LESSONS,
        anchors: 0,
        anchor_weight: 0.0,
        options: options(products),
    };
    let mut training = MemoryTraining::new(&graph, task, recipe)?;
    // What is kept of few lessons is there after an epoch.
    let warm = if lessons < 100 { WARM + lessons / LESSONS } else { WARM };
    timed((warm, seconds), || training.step())
}

fn lesson(index: usize) -> Lesson {
    let mut chance = Chance::new(3, &[index as u64]);
    let mut token = || chance.below(VOCABULARY as usize) as u32;
    let (prompt, answer) = (vec![token()], (0..LENGTH).map(|_| token()).collect());
    let states = BESIDE.map(|_| (0..LENGTH * 576).map(|_| chance.normal() as f32).collect());
    let memory = Remembered { states: states.to_vec(), bias: vec![0.0; LENGTH] };
    Lesson { memory, prompt, answer }
}

fn distill(products: Products, seconds: f64) -> Result<(), Box<dyn Error>> {
    let (architecture, weights) = drawn()?;
    let decoder = Decoder::Graph(loaded(&architecture, &weights)?);
    let teacher = Teacher {
        decoder: &decoder,
        basis: BlobId::of(b"drawn").hex().parse()?,
        arithmetic: "graph".to_owned(),
        products,
        cache: None,
        alignment: None,
    };
    let spec = "layers=12".parse()?;
    let student = Student::made((&architecture, &weights), (&spec, None), None, 0, &|_| false)?;
    let how = DistillOptions {
        divergence: Divergence::ForwardKl,
        temperature: 1.0,
        hard: 0.0,
        best: 64,
        hidden: None,
        on_policy: 0.0,
        prompt: 1,
    };
    let corpus = corpus(VOCABULARY as usize, CONTEXT, SEQUENCES)?;
    let mut distillation = Distillation::new(teacher, student, corpus, how, options(products))?;
    timed((1, seconds), || distillation.step())
}
