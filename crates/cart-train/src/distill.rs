//! A student that learns to say what a teacher says.

mod cache;
mod error;
mod hidden;
mod on_policy;
mod options;
mod spec;
mod student;
mod teacher;

use std::collections::BTreeMap;

use cart_format::ManifestId;
use cart_nn::graph::{Graph, GraphTaps, TeacherTargets};
use cart_nn::logits;
use cart_store::Store;
use serde::Serialize;
use serde_json::Value;

use crate::cartridge::{NewModel, NewTensor, NewTokenizer};
use crate::corpus::{Batch, Corpus};
use crate::error::TrainError;
use crate::trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};

pub use cache::Cache;
pub use error::DistillError;
pub use hidden::HiddenOptions;
pub use options::DistillOptions;
pub use spec::StudentSpec;
pub use student::{Student, StudentReport, check_vocabularies};
pub use teacher::{Teacher, TeacherReport};

use hidden::{StudentStates, TeacherStates};
use teacher::{Asked, Said, Work};

/// Positions whose logits are in memory together.
const CHUNK: usize = 512;

/// A student in training.
#[derive(Debug)]
pub struct Distillation<'a> {
    learner: Learner<'a>,
    trainer: Trainer,
}

/// Both models, and what they read.
#[derive(Debug)]
struct Learner<'a> {
    teacher: Teacher<'a>,
    student: Student,
    graph: Graph,
    /// The student without gradients.
    still: Graph,
    corpus: Corpus,
    options: DistillOptions,
    accumulate: u64,
    seed: u64,
    work: Work,
}

/// How a student predicts a held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// `exp` of the mean of −ln p over the tokens.
    pub perplexity: f64,
    /// That of the teacher.
    pub teacher_perplexity: f64,
    /// How often the student's likeliest token is the teacher's.
    pub agreement: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
}

impl<'a> Distillation<'a> {
    /// A student before its first step.
    ///
    /// * `corpus`: of the teacher's tokens
    ///
    /// # Errors
    /// An option is out of range, or nothing is to be trained.
    pub fn new(
        teacher: Teacher<'a>,
        student: Student,
        corpus: Corpus,
        options: DistillOptions,
        training: TrainOptions,
    ) -> Result<Self, TrainError> {
        options.check(student.architecture(), teacher.decoder.spec(), corpus.context())?;
        let undecayed = student.undecayed();
        let keep = |name: &str| undecayed.iter().any(|known| known == name);
        let trainer = Trainer::new(training, student.variables(), keep)?;
        let (graph, still) = (student.graph()?, student.still()?);
        let TrainOptions { accumulate, seed, .. } = training;
        let (corpus, work) = (corpus.fixed(), Work::default());
        let learner =
            Learner { teacher, student, graph, still, corpus, options, accumulate, seed, work };
        Ok(Self { learner, trainer })
    }

    /// The run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The run, to go where a checkpoint was.
    pub fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// The student.
    pub fn student(&self) -> &Student {
        &self.learner.student
    }

    /// What the teacher had to do so far.
    pub fn teacher(&self) -> TeacherReport {
        self.learner.work.report()
    }

    /// Kept answers of the teacher that were found damaged since this was asked last, in words.
    pub fn damage(&self) -> Vec<String> {
        self.learner.teacher.cache.as_ref().map(Cache::damage).unwrap_or_default()
    }

    /// Steps in which every sequence is read once.
    pub fn steps_per_epoch(&self) -> u64 {
        self.learner.corpus.parts_per_epoch().div_ceil(self.learner.accumulate)
    }

    /// Makes a step.
    ///
    /// # Errors
    /// As [`Trainer::step`]; or an answer of the teacher can't be kept.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        self.trainer.step(&self.learner)
    }

    /// Both models on up to `count` held-out sequences.
    ///
    /// # Errors
    /// A pass failed.
    pub fn measure(&self, count: usize) -> Result<HeldOut, TrainError> {
        let (mut own, mut said, mut agreed, mut tokens) = (0.0, 0.0, 0, 0);
        for batch in self.learner.corpus.measured(count) {
            let of_teacher = self.learner.of_data(&batch)?;
            let of_student = self.learner.predicted(&batch)?;
            for (teacher, student) in of_teacher.iter().zip(of_student.chunks(batch.context())) {
                said -= teacher.labels.iter().map(|&log| f64::from(log)).sum::<f64>();
                let firsts = teacher.tokens.iter().step_by(self.learner.options.best);
                for (&first, &(token, log)) in firsts.zip(student) {
                    own -= log;
                    agreed += usize::from(token == first);
                    tokens += 1;
                }
            }
        }
        let mean = |sum: f64| sum / tokens as f64;
        Ok(HeldOut {
            perplexity: mean(own).exp(),
            teacher_perplexity: mean(said).exp(),
            agreement: mean(agreed as f64),
            tokens,
        })
    }

    /// Puts the student as it is now into a store.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn put(
        &self,
        store: &Store,
        tokenizer: NewTokenizer,
        metadata: BTreeMap<String, Value>,
    ) -> Result<ManifestId, TrainError> {
        let student = &self.learner.student;
        let mut tensors = student.frozen()?;
        let trained = self.trainer.checkpoint(&Value::Null)?.variables;
        tensors.extend(trained.into_iter().map(NewTensor::from));
        let architecture = student.architecture();
        NewModel { architecture, tensors, tokenizer, metadata }.put(store)
    }
}

impl Learner<'_> {
    fn asked(&self) -> Asked {
        Asked { best: self.options.best, temperature: self.options.temperature }
    }

    /// What the teacher says of sequences of the data.
    fn of_data(&self, batch: &Batch) -> Result<Vec<Said>, TrainError> {
        let said = |sequence: Vec<u32>| self.teacher.of_data(&sequence, self.asked(), &self.work);
        batch.sequences().map(said).collect()
    }

    /// The student's likeliest token at each position, and its `ln p` of the one that follows.
    fn predicted(&self, batch: &Batch) -> Result<Vec<(u32, f64)>, TrainError> {
        let sequences = self.still.sequences(batch.rows, batch.context())?;
        let layers = 0..self.still.spec().layers.len();
        let hidden = sequences.layers(layers, &sequences.embed(&batch.tokens)?, None)?;
        let hidden = sequences.norm(&hidden)?.flatten(0, 1)?;
        let mut predicted = Vec::with_capacity(batch.targets.len());
        for targets in batch.targets.chunks(CHUNK) {
            let rows = hidden.narrow(0, predicted.len(), targets.len())?;
            for (of, &next) in self.still.logits(&rows)?.to_vec2::<f32>()?.iter().zip(targets) {
                let most = logits::largest(of);
                let log = f64::from(of[next as usize] - most) - logits::sum_exp(of, most, 1.0).ln();
                let token = of.iter().position(|&logit| logit == most).unwrap_or(0);
                predicted.push((token as u32, log));
            }
        }
        Ok(predicted)
    }

    /// The sequences of a part, and for each whether the student went on from it.
    fn sequences(
        &self,
        batch: &Batch,
        part: u64,
    ) -> Result<(Vec<Vec<u32>>, Vec<bool>), TrainError> {
        let DistillOptions { on_policy: share, prompt, .. } = self.options;
        let mut sequences: Vec<Vec<u32>> = batch.sequences().collect();
        let own = on_policy::chosen(self.seed, part, sequences.len(), share);
        let rows: Vec<usize> = (0..own.len()).filter(|&row| own[row]).collect();
        let mut chosen: Vec<Vec<u32>> = rows.iter().map(|&row| sequences[row].clone()).collect();
        on_policy::go_on(&self.still, &mut chosen, prompt, (self.seed, part, &rows))?;
        for (row, sequence) in rows.into_iter().zip(chosen) {
            sequences[row] = sequence;
        }
        Ok((sequences, own))
    }

    /// What the teacher says of a part. What the student said, and hidden states, it reads now.
    fn said(
        &self,
        sequences: &[Vec<u32>],
        own: &[bool],
        mut states: Option<&mut TeacherStates>,
    ) -> Result<Vec<Said>, TrainError> {
        let mut said = Vec::with_capacity(sequences.len());
        for (sequence, &own) in sequences.iter().zip(own) {
            let states = states.as_deref_mut();
            said.push(if own || states.is_some() {
                self.teacher.of(sequence, self.asked(), states, &self.work)?
            } else {
                self.teacher.of_data(sequence, self.asked(), &self.work)?
            });
        }
        Ok(said)
    }

    /// What each position's label is worth: where the student went on itself, nothing did follow.
    fn label_weights(&self, own: &[bool], context: usize) -> Vec<f32> {
        let DistillOptions { hard, prompt, .. } = self.options;
        let known = |own: bool, at: usize| !own || at + 1 < prompt;
        let weight = |own, at| if known(own, at) { hard as f32 } else { 0.0 };
        own.iter().flat_map(|&own| (0..context).map(move |at| weight(own, at))).collect()
    }
}

impl Objective for Learner<'_> {
    fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError> {
        let part = step * self.accumulate + part;
        let batch = self.corpus.part(part);
        let context = self.corpus.context();
        let layers = 0..self.graph.spec().layers.len();
        let passes = self.graph.sequences(batch.rows, context)?;
        let count = batch.targets.len();
        if !self.options.asks_teacher() {
            let hidden = passes.layers(layers, &passes.embed(&batch.tokens)?, None)?;
            let sum = passes.loss(&hidden, &batch.targets, &vec![1.0; count], CHUNK)?;
            return Ok(Loss { sum, count, tokens: count });
        }
        let (sequences, own) = self.sequences(&batch, part)?;
        let hidden = self.options.hidden.as_ref();
        let mut states = hidden.map(TeacherStates::wanted);
        let said = self.said(&sequences, &own, states.as_mut())?;
        let tokens: Vec<u32> =
            sequences.iter().flat_map(|sequence| &sequence[..context]).copied().collect();
        let labels: Vec<u32> =
            sequences.iter().flat_map(|sequence| &sequence[1..]).copied().collect();
        let label_weights = self.label_weights(&own, context);
        // Where there is no label, the teacher alone says what to learn.
        let weights: Vec<f32> = label_weights.iter().map(|weight| 1.0 - weight).collect();
        let mut seen = hidden.map(StudentStates::wanted);
        let taps = seen.as_mut().map(|seen| seen as &mut dyn GraphTaps);
        let last = passes.layers(layers, &passes.embed(&tokens)?, taps)?;
        let targets = TeacherTargets {
            best: self.options.best,
            tokens: &said.iter().flat_map(|said| &said.tokens).copied().collect::<Vec<_>>(),
            logs: &said.iter().flat_map(|said| &said.logs).copied().collect::<Vec<_>>(),
            weights: &weights,
            labels: &labels,
            label_weights: &label_weights,
        };
        let how = (self.options.divergence, self.options.temperature);
        let mut sum = passes.distance(&last, how, &targets, CHUNK)?;
        if let (Some(hidden), Some(seen), Some(states)) = (hidden, &seen, &states) {
            sum = (sum + hidden.loss(seen, states)?)?;
        }
        Ok(Loss { sum, count, tokens: count })
    }
}

#[cfg(test)]
mod tests;
