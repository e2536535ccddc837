//! A small model from nothing but text.

mod notebook;
pub(crate) mod spec;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::{ArchSpec, ManifestId, SpecialTokens};
use cart_nn::graph::{Graph, GraphRun, Var};
use cart_nn::{LogitsFor, logits};
use cart_store::Store;
use serde::Serialize;
use serde_json::Value;

use crate::birth;
use crate::cartridge::{NewModel, NewTensor, NewTokenizer};
use crate::chance::Chance;
use crate::checkpoint::Checkpoint;
use crate::corpus::{Batch, Corpus};
use crate::error::TrainError;
use crate::trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};

pub use notebook::{NOTE_TOKENS, Note, Notebook, NotebookReport};
pub use spec::{AgentSpec, Shape, SpecError};
pub use tokenizer::AgentTokenizer;

/// What chance in here is for.
const PURPOSE: u64 = 3;

/// Positions whose logits are in memory together.
const LOSS_CHUNK: usize = 1024;

/// The best tokens that a sample is drawn from, and how flat their probabilities are made.
const SAMPLE: (usize, f64) = (40, 0.8);

/// A model in training.
#[derive(Debug)]
pub struct Agent {
    architecture: ArchSpec,
    tokenizer: AgentTokenizer,
    learner: Learner,
    trainer: Trainer,
    seed: u64,
    /// What surprises it, where that is to be remembered.
    notebook: Option<Notebook>,
}

/// A graph and what it reads.
#[derive(Debug)]
struct Learner {
    graph: Graph,
    corpus: Corpus,
    accumulate: u64,
}

/// How well a held-out text is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Mean of −ln p over the bytes, in nats.
    pub loss: f64,
    /// That in bits.
    pub bits_per_byte: f64,
    /// Bytes that were predicted.
    pub bytes: usize,
}

impl Agent {
    /// A model before its first step.
    ///
    /// * `corpus`: of the tokenizer's tokens
    ///
    /// # Errors
    /// The specification contradicts itself, or an option is out of range.
    pub fn new(
        spec: &AgentSpec,
        tokenizer: AgentTokenizer,
        corpus: Corpus,
        options: TrainOptions,
    ) -> Result<Self, TrainError> {
        let architecture = spec.architecture(tokenizer.size());
        architecture.check()?;
        let variables = birth::variables(&architecture, options.seed)?;
        let graph = Graph::new(&architecture, &birth::parameters(&variables))?;
        // A is the logarithm of rates, and a rate does not tend to 1.
        let keep = |name: &str| name.ends_with("A_log");
        let trainer = Trainer::new(options, sorted(variables), keep)?;
        let learner = Learner { graph, corpus, accumulate: options.accumulate };
        let seed = options.seed;
        Ok(Self { architecture, tokenizer, learner, trainer, seed, notebook: None })
    }

    /// The run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The same, which writes down what surprises it while it is trained.
    #[must_use]
    pub fn with_notebook(self, notebook: Notebook) -> Self {
        Self { notebook: Some(notebook), ..self }
    }

    /// What surprised it so far, where that is written down.
    pub fn notebook(&self) -> Option<&Notebook> {
        self.notebook.as_ref()
    }

    /// Where the run is.
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`].
    pub fn checkpoint(&self, recipe: &Value) -> Result<Checkpoint, TrainError> {
        let notes = self.notebook.as_ref().map_or(Value::Null, Notebook::to_value);
        Ok(Checkpoint { notes, ..self.trainer.checkpoint(recipe)? })
    }

    /// Goes where a checkpoint was, bit for bit.
    ///
    /// # Errors
    /// As [`Trainer::restore`], or it lacks what surprised the model.
    pub fn restore(
        &mut self,
        folder: &Path,
        checkpoint: Checkpoint,
        recipe: &Value,
    ) -> Result<(), TrainError> {
        let notes = checkpoint.notes.clone();
        self.trainer.restore(folder, checkpoint, recipe)?;
        let Some(notebook) = &mut self.notebook else { return Ok(()) };
        notebook.restore(&notes).ok_or_else(|| {
            let reason = "it lacks what surprised the model".to_owned();
            TrainError::Checkpoint { path: Checkpoint::path(folder), reason }
        })
    }

    /// Makes a step.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        if self.notebook.is_some() {
            self.listen()?;
        }
        self.trainer.step(&self.learner)
    }

    /// Reads the first sequence of the step to come, before anything is learned from it, and writes down
    /// the sentences of it that surprise.
    fn listen(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.steps();
        let (tokens, surprise) = self.learner.surprise(step * self.learner.accumulate)?;
        let text = |&token: &u32| {
            let is_text = token != self.tokenizer.end();
            is_text.then(|| self.tokenizer.decode(&[token])).transpose()
        };
        let texts = tokens.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        for span in notebook::sentences(&texts) {
            let (said, nats) = (&tokens[span.clone()], &surprise[span]);
            let said = self.tokenizer.decode(said)?;
            // A part of a letter is no text.
            if let Some(notebook) = self.notebook.as_mut().filter(|_| !said.contains('\u{fffd}')) {
                let mean = nats.iter().sum::<f64>() / nats.len() as f64;
                notebook.hear(step, &said, mean as f32);
            }
        }
        Ok(())
    }

    /// Steps in which every sequence is read once.
    pub fn steps_per_epoch(&self) -> u64 {
        self.learner.corpus.parts_per_epoch().div_ceil(self.learner.accumulate)
    }

    /// Reads up to `count` held-out sequences.
    ///
    /// # Errors
    /// A pass failed.
    pub fn measure(&self, count: usize) -> Result<Measured, TrainError> {
        let (mut sum, mut bytes) = (0.0, 0);
        for batch in self.learner.corpus.measured(count) {
            let loss = self.learner.of_batch(&batch)?;
            sum += f64::from(loss.sum.to_scalar::<f32>()?);
            let length = |&token: &u32| self.tokenizer.length(token);
            bytes += batch.targets.iter().map(length).sum::<usize>();
        }
        let loss = sum / bytes as f64;
        Ok(Measured { loss, bits_per_byte: loss / std::f64::consts::LN_2, bytes })
    }

    /// Goes on from a text for up to `count` tokens.
    ///
    /// # Errors
    /// A pass failed.
    pub fn sample(&self, prompt: &str, count: usize) -> Result<String, TrainError> {
        let mut chance = Chance::new(self.seed, &[PURPOSE, self.trainer.steps()]);
        let graph = &self.learner.graph;
        let mut state = graph.new_state(1);
        let mut next = self.tokenizer.encode(prompt.as_bytes())?;
        if next.is_empty() {
            next.push(self.tokenizer.end());
        }
        let mut said = Vec::new();
        let room = (self.architecture.context_length as usize).saturating_sub(next.len());
        while said.len() < count.min(room) {
            let run = GraphRun { state: &mut state, tokens: &next, taps: None };
            let logits = graph.forward(&mut [run], LogitsFor::Last)?.remove(0);
            let logits = logits.expect("logits were asked for").flatten_all()?.to_vec1()?;
            let token = drawn(&logits, &mut chance);
            if token == self.tokenizer.end() {
                break;
            }
            said.push(token);
            next = vec![token];
        }
        self.tokenizer.decode(&said)
    }

    /// Puts the model as it is now into a store.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn put(
        &self,
        store: &Store,
        metadata: BTreeMap<String, Value>,
    ) -> Result<ManifestId, TrainError> {
        let state = self.trainer.checkpoint(&Value::Null)?;
        let special = SpecialTokens { eos: vec![self.tokenizer.end()], ..SpecialTokens::default() };
        let model = NewModel {
            architecture: &self.architecture,
            tensors: state.variables.into_iter().map(NewTensor::from).collect(),
            tokenizer: NewTokenizer {
                document: self.tokenizer.document().to_vec(),
                chat_template: None,
                vocab_size: self.tokenizer.size(),
                special,
            },
            metadata,
        };
        model.put(store)
    }
}

/// By name, so that a checkpoint is in one order.
fn sorted(mut variables: Vec<(String, Var)>) -> Vec<(String, Var)> {
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables
}

/// One of the best tokens.
fn drawn(logits: &[f32], chance: &mut Chance) -> u32 {
    let (best, temperature) = SAMPLE;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(best);
    let most = logits[order[0]];
    let weight = |&token: &usize| (f64::from(logits[token] - most) / temperature).exp();
    let mut left = chance.unit() * order.iter().map(weight).sum::<f64>();
    let chosen = order.iter().find(|token| {
        left -= weight(token);
        left < 0.0
    });
    *chosen.unwrap_or(&order[0]) as u32
}

impl Learner {
    /// What the first sequence of a part is to predict, and the −ln p of each token of it.
    fn surprise(&self, part: u64) -> Result<(Vec<u32>, Vec<f64>), TrainError> {
        let batch = self.corpus.part(part);
        let context = self.corpus.context();
        let targets = batch.targets[..context].to_vec();
        let sequences = self.graph.sequences(1, context)?;
        let hidden = sequences.embed(&batch.tokens[..context])?;
        let hidden = sequences.layers(0..self.graph.spec().layers.len(), &hidden, None)?;
        let hidden = sequences.norm(&hidden)?.flatten(0, 1)?;
        let mut surprise = Vec::with_capacity(context);
        for (of, &next) in self.graph.logits(&hidden)?.to_vec2::<f32>()?.iter().zip(&targets) {
            let most = logits::largest(of);
            surprise
                .push(logits::sum_exp(of, most, 1.0).ln() - f64::from(of[next as usize] - most));
        }
        Ok((targets, surprise))
    }

    fn of_batch(&self, batch: &Batch) -> Result<Loss, TrainError> {
        let context = self.corpus.context();
        let sequences = self.graph.sequences(batch.rows, context)?;
        let hidden = sequences.embed(&batch.tokens)?;
        let hidden = sequences.layers(0..self.graph.spec().layers.len(), &hidden, None)?;
        let weights = vec![1.0; batch.targets.len()];
        let sum = sequences.loss(&hidden, &batch.targets, &weights, LOSS_CHUNK)?;
        Ok(Loss { sum, count: batch.targets.len(), tokens: batch.tokens.len() })
    }
}

impl Objective for Learner {
    fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError> {
        self.of_batch(&self.corpus.part(step * self.accumulate + part))
    }
}
