//! A student that learns to say what a teacher says.

mod align;
mod cache;
mod error;
mod hidden;
mod on_policy;
mod options;
mod projections;
mod spec;
mod student;
mod teacher;

use std::collections::BTreeMap;

use cart_format::ManifestId;
use cart_nn::graph::{Graph, GraphTaps, RowGroups, TeacherTargets, Var};
use cart_nn::logits;
use cart_store::Store;
use serde::Serialize;
use serde_json::Value;

use crate::cartridge::{NewModel, NewTensor, NewTokenizer};
use crate::corpus::{Batch, Corpus};
use crate::error::TrainError;
use crate::trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};

pub use align::{Alignment, AlignmentReport, FirstToken, TokenStream, Vocabulary};
pub use cache::Cache;
pub use error::DistillError;
pub use hidden::HiddenOptions;
pub use options::DistillOptions;
pub use projections::ProjectionReport;
pub use spec::StudentSpec;
pub use student::{Respelled, Student, StudentReport, check_vocabularies};
pub use teacher::{Teacher, TeacherReport};

use align::Compared;
use hidden::{StudentStates, TeacherStates};
use projections::Projections;
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
    /// Where hidden states of other widths are compared.
    projections: Option<Projections>,
    accumulate: u64,
    seed: u64,
    work: Work,
}

/// How a student predicts a held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// `exp` of the mean of −ln p over the tokens.
    pub perplexity: f64,
    /// That of the teacher, over its own tokens.
    pub teacher_perplexity: f64,
    /// How often the student's likeliest token is the teacher's; of other tokens, the likeliest group
    /// of them where both are compared.
    pub agreement: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// What can be compared where tokens are other ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aligned: Option<AlignedHeldOut>,
}

/// How models with other tokens predict one text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AlignedHeldOut {
    /// The student's −log₂ p over the bytes.
    pub bits_per_byte: f64,
    /// The teacher's.
    pub teacher_bits_per_byte: f64,
    /// Positions of the student where both were compared.
    pub compared: usize,
}

/// Sums over a held-out text.
#[derive(Debug, Default)]
struct Sums {
    own: f64,
    own_tokens: usize,
    own_bytes: usize,
    said: f64,
    said_tokens: usize,
    said_bytes: usize,
    agreed: usize,
    compared: usize,
}

/// What a teacher says of a batch.
#[derive(Debug, Default)]
struct Answers {
    said: Vec<Said>,
    /// Of a teacher with other tokens, the way of grouping of each row, or none where nothing is compared.
    ways: Option<Vec<Option<u8>>>,
    /// Of such a one, bytes that it predicted.
    bytes: usize,
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
        if let Some(alignment) = &teacher.alignment {
            options.check_aligned(alignment.most())?;
        }
        let TrainOptions { accumulate, seed, .. } = training;
        let widths = (student.architecture().hidden_size, teacher.decoder.spec().hidden_size);
        let between = |hidden| Projections::between(hidden, widths, seed).transpose();
        let projections = options.hidden.as_ref().and_then(between).transpose()?;
        let undecayed = student.undecayed();
        let keep = |name: &str| undecayed.iter().any(|known| known == name);
        let mut variables: Vec<(String, Var)> = student.variables().collect();
        if variables.is_empty() {
            // What is not kept is no reason for a run.
            return Err(TrainError::Frozen);
        }
        variables.extend(projections.iter().flat_map(Projections::variables));
        let trainer = Trainer::new(training, variables, keep)?;
        let (graph, still) = (student.graph()?, student.still()?);
        let (corpus, work) = (corpus.fixed(), Work::default());
        let learner = Learner {
            teacher,
            student,
            graph,
            still,
            corpus,
            options,
            projections,
            accumulate,
            seed,
            work,
        };
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

    /// What brings the student's hidden states to the teacher's width, where that is another one and
    /// they are compared.
    pub fn projections(&self) -> Option<ProjectionReport> {
        self.learner.projections.as_ref().map(Projections::report)
    }

    /// How the teacher's tokens and the student's go together, where they are other ones.
    pub fn alignment(&self) -> Option<AlignmentReport> {
        self.learner.teacher.alignment.as_ref().map(Alignment::report)
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
        let mut sums = Sums::default();
        for batch in self.learner.corpus.measured(count) {
            let answers = self.learner.of_data(&batch)?;
            let predicted = self.learner.predicted(&batch, answers.ways.as_deref())?;
            sums.add(&answers, &predicted, self.learner.options.best);
            if let Some(alignment) = &self.learner.teacher.alignment {
                sums.own_bytes += alignment.student_bytes(&batch);
            }
        }
        Ok(sums.held_out(self.learner.teacher.alignment.is_some()))
    }

    /// Puts the student as it is now into a store, without what learned beside it.
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
        let trained = self.trainer.checkpoint(&Value::Null)?.variables.into_iter();
        let own = trained.filter(|variable| !Projections::has(&variable.name));
        tensors.extend(own.map(NewTensor::from));
        let architecture = student.architecture();
        NewModel { architecture, tensors, tokenizer, metadata }.put(store)
    }
}

impl Sums {
    /// * `predicted`: the likeliest token or group of each row, and −ln p of what follows
    fn add(&mut self, answers: &Answers, predicted: &[(u32, f64)], best: usize) {
        self.own -= predicted.iter().map(|(_, log)| log).sum::<f64>();
        self.own_tokens += predicted.len();
        for said in &answers.said {
            self.said -= said.labels.iter().map(|&log| f64::from(log)).sum::<f64>();
            self.said_tokens += said.labels.len();
        }
        self.said_bytes += answers.bytes;
        let firsts = answers.said.iter().flat_map(|said| said.tokens.iter().step_by(best));
        for (row, (&first, &(likeliest, _))) in firsts.zip(predicted).enumerate() {
            if answers.ways.as_ref().is_none_or(|ways| ways[row].is_some()) {
                self.agreed += usize::from(likeliest == first);
                self.compared += 1;
            }
        }
    }

    /// * `is_aligned`: whether tokens are other ones
    fn held_out(&self, is_aligned: bool) -> HeldOut {
        let bits = |nats: f64, bytes: usize| nats / std::f64::consts::LN_2 / bytes as f64;
        HeldOut {
            perplexity: (self.own / self.own_tokens as f64).exp(),
            teacher_perplexity: (self.said / self.said_tokens as f64).exp(),
            agreement: self.agreed as f64 / self.compared as f64,
            tokens: self.own_tokens,
            aligned: is_aligned.then(|| AlignedHeldOut {
                bits_per_byte: bits(self.own, self.own_bytes),
                teacher_bits_per_byte: bits(self.said, self.said_bytes),
                compared: self.compared,
            }),
        }
    }
}

impl Learner<'_> {
    fn asked(&self) -> Asked {
        Asked { best: self.options.best, temperature: self.options.temperature }
    }

    /// What the teacher says of sequences of the data.
    fn of_data(&self, batch: &Batch) -> Result<Answers, TrainError> {
        let Some(alignment) = &self.teacher.alignment else {
            let sequences: Vec<Vec<u32>> = batch.sequences().collect();
            let said = self.teacher.of_data(&sequences, self.asked(), &self.work)?;
            return Ok(Answers { said, ..Answers::default() });
        };
        let compared = alignment.compared(batch);
        let said = compared
            .iter()
            .map(|of| self.teacher.of_aligned((alignment, of), self.asked(), &self.work))
            .collect::<Result<_, _>>()?;
        let ways = compared.iter().flat_map(Compared::ways).collect();
        let bytes = compared.iter().map(|of| of.bytes).sum();
        Ok(Answers { said, ways: Some(ways), bytes })
    }

    /// The student's likeliest token at each position, or group of them, and its `ln p` of the one
    /// that follows.
    ///
    /// * `ways`: of grouping, where groups are compared
    fn predicted(
        &self,
        batch: &Batch,
        ways: Option<&[Option<u8>]>,
    ) -> Result<Vec<(u32, f64)>, TrainError> {
        let sequences = self.still.sequences(batch.rows, batch.context())?;
        let layers = 0..self.still.spec().layers.len();
        let hidden = sequences.layers(layers, &sequences.embed(&batch.tokens)?, None)?;
        let alignment = self.teacher.alignment.as_ref();
        let look = |row: usize, of: &[f32]| {
            let likeliest = match alignment.zip(ways.and_then(|ways| ways[row])) {
                Some((alignment, way)) => alignment.likeliest(way, of),
                None => logits::likeliest(of),
            };
            (likeliest, logits::logprob(of, batch.targets[row]))
        };
        Ok(sequences.each_logits(&hidden, CHUNK, look)?)
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
        batch: &Batch,
        (sequences, own): (&[Vec<u32>], &[bool]),
        states: Option<&mut TeacherStates>,
    ) -> Result<Answers, TrainError> {
        if self.teacher.alignment.is_some() {
            return self.of_data(batch);
        }
        if states.is_some() {
            let said = self.teacher.of(sequences, self.asked(), states, &self.work)?;
            return Ok(Answers { said, ..Answers::default() });
        }
        let of = |wanted: bool| {
            let all = sequences.iter().zip(own).filter(move |(_, own)| **own == wanted);
            all.map(|(sequence, _)| sequence.clone()).collect::<Vec<_>>()
        };
        let mut of_own = self.teacher.of(&of(true), self.asked(), None, &self.work)?.into_iter();
        let mut of_data = self.teacher.of_data(&of(false), self.asked(), &self.work)?.into_iter();
        let next = |&own: &bool| if own { of_own.next() } else { of_data.next() };
        Ok(Answers { said: own.iter().filter_map(next).collect(), ..Answers::default() })
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
        let Answers { said, ways, .. } = self.said(&batch, (&sequences, &own), states.as_mut())?;
        let tokens: Vec<u32> =
            sequences.iter().flat_map(|sequence| &sequence[..context]).copied().collect();
        let labels: Vec<u32> =
            sequences.iter().flat_map(|sequence| &sequence[1..]).copied().collect();
        let label_weights = self.label_weights(&own, context);
        // Where there is no label, the teacher alone says what to learn, and where the teacher says
        // nothing of a position, the label has its own share.
        let mut weights: Vec<f32> = label_weights.iter().map(|weight| 1.0 - weight).collect();
        let unsaid = ways.iter().flatten().zip(&mut weights).filter(|(way, _)| way.is_none());
        unsaid.for_each(|(_, weight)| *weight = 0.0);
        let ways: Option<Vec<u8>> =
            ways.map(|ways| ways.into_iter().map(Option::unwrap_or_default).collect());
        let groups = self.teacher.alignment.as_ref().map(Alignment::groups).zip(ways.as_deref());
        let mut seen = hidden.map(StudentStates::wanted);
        let taps = seen.as_mut().map(|seen| seen as &mut dyn GraphTaps);
        let last = passes.layers(layers, &passes.embed(&tokens)?, taps)?;
        let targets = TeacherTargets {
            best: self.options.best,
            groups: groups.map(|(groups, ways)| RowGroups { groups, ways }),
            tokens: &said.iter().flat_map(|said| &said.tokens).copied().collect::<Vec<_>>(),
            logs: &said.iter().flat_map(|said| &said.logs).copied().collect::<Vec<_>>(),
            weights: &weights,
            labels: &labels,
            label_weights: &label_weights,
        };
        let how = (self.options.divergence, self.options.temperature);
        let mut sum = passes.distance(&last, how, &targets, CHUNK)?;
        if let (Some(hidden), Some(seen), Some(states)) = (hidden, &seen, &states) {
            sum = (sum + hidden.loss(seen, states, self.projections.as_ref())?)?;
        }
        let worth = weights.iter().zip(&label_weights).filter(|(a, b)| **a + **b > 0.0).count();
        Ok(Loss { sum, count: worth, tokens: count })
    }
}

#[cfg(test)]
mod tests;
