//! Gates on their way, and what a memory answers with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cart_engine::{
    Agent, DeviceChoice, GenerateOptions, LoadOptions, MemoryOptions, Precision, PrefixOptions,
};
use cart_format::BlobId;
use cart_memory::{Input, SlotRef};
use cart_nn::decoder::Decoder;
use cart_nn::graph::Graph;
use cart_train::TrainError;
use cart_train::gates::{GateLesson, GateRecipe, GateTask, GateTraining};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::folder::RunFolder;
use super::super::memory::{answer_tokens, prompt_tokens, said};
use super::super::pace::Pace;
use super::report::GateReport;
use crate::asking::{self, Asked};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::names::has_word;
use crate::progress::interrupted;

/// Most tokens of an answer.
const ANSWER: usize = 24;

/// A question, what is to be said, and what an answer must have in it, as whole words.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) ask: String,
    pub(crate) answer: String,
    #[serde(skip)]
    pub(crate) key: String,
}

/// Questions of a file.
pub(crate) struct Questions {
    pub(crate) all: Vec<Question>,
    pub(super) digest: String,
}

impl Questions {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let (path, action) = (path.to_owned(), "read");
            Failure::refused(TrainError::File { path, action, source })
        })?;
        let mut all: Vec<Question> = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let mut question: Question = serde_json::from_str(line).map_err(|error| {
                let line =
                    format!("line {} of {} is no question: {error}", index + 1, path.display());
                Failure::refused_with(line, "a question is {\"ask\": TEXT, \"answer\": TEXT}")
            })?;
            let key = question.answer.trim().trim_end_matches(['.', '!']);
            key.clone_into(&mut question.key);
            all.push(question);
        }
        if all.is_empty() {
            return Err(Failure::refused(TrainError::NoData { path: path.to_owned() }));
        }
        Ok(Self { all, digest: BlobId::of(text.as_bytes()).hex() })
    }
}

/// How many are answered with the memory as it is.
pub(crate) fn exam(
    agent: &Agent,
    questions: &[Question],
    prefix: &PrefixOptions,
) -> Result<usize, Failure> {
    let ask = |question: &Question| Asked {
        // Being asked leaves a trace in a memory.
        agent: agent.fork(),
        prompt: said(agent, &question.ask),
        options: GenerateOptions {
            max_tokens: Some(ANSWER),
            stop: vec!["\n".to_owned()],
            memory: MemoryOptions { prefix: Some(prefix.clone()), ..MemoryOptions::default() },
            ..GenerateOptions::default()
        },
    };
    let answers = asking::each(questions.iter().map(ask).collect())?;
    let pairs = answers.iter().zip(questions);
    Ok(pairs.filter(|(answer, question)| has_word(&answer.text, &question.key)).count())
}

/// The cartridge as a graph, through which gradients go.
pub(crate) struct Frozen(Agent);

impl Frozen {
    pub(crate) fn of(context: &Context, reference: &str) -> Result<Self, Failure> {
        let load = LoadOptions {
            device: DeviceChoice::Graph,
            precision: Some(Precision::F32),
            kernels: None,
            activations: None,
            ..history::load_options(context)
        };
        Ok(Self(history::load_with(context, reference, &load)?.0))
    }

    pub(crate) fn graph(&self) -> &Graph {
        match self.0.model() {
            Decoder::Graph(graph) => graph,
            Decoder::Kernels(_) => unreachable!("the graph was asked for"),
        }
    }
}

/// Gates that learn from questions.
pub(crate) struct Learning<'g> {
    training: GateTraining<'g>,
    /// The slot of each gate.
    slots: Vec<SlotRef>,
    /// Questions that recall nothing, from which nothing is learned.
    pub(super) unanswered: usize,
    folder: PathBuf,
    first: u64,
}

/// The gates of the slots of one source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceGates {
    source: String,
    slots: usize,
    /// Mean of σ(A).
    mean_open: f64,
}

impl<'g> Learning<'g> {
    pub(crate) fn new(
        agent: &Agent,
        graph: &'g Frozen,
        questions: &[Question],
        prefix: &PrefixOptions,
        recipe: GateRecipe,
    ) -> Result<Self, Failure> {
        let mut task = GateTask::default();
        let mut places: BTreeMap<SlotRef, usize> = BTreeMap::new();
        let (mut slots, mut unanswered) = (Vec::new(), 0);
        let memory = agent.memory();
        for question in questions {
            let recalled = agent.recalled_spans(&question.ask, prefix).map_err(Failure::refused)?;
            if recalled.spans.is_empty() {
                unanswered += 1;
                continue;
            }
            (task.header, task.offset) = (recalled.header, recalled.offset);
            let mut spans = Vec::new();
            for span in recalled.spans {
                let place = *places.entry(span.slot).or_insert_with(|| {
                    let slot = memory.as_ref().and_then(|memory| memory.slot(span.slot));
                    task.weights.push(span.weight);
                    task.gates.push(slot.map_or(0.0, |slot| slot.gate));
                    slots.push(span.slot);
                    slots.len() - 1
                });
                spans.push((place, span.tokens));
            }
            let prompt = prompt_tokens(agent, &said(agent, &question.ask))?;
            let answer = answer_tokens(agent, &question.answer)?;
            task.lessons.push(GateLesson { spans, prompt, answer });
        }
        let training = GateTraining::new(graph.graph(), task, recipe).map_err(Failure::refused)?;
        Ok(Self { training, slots, unanswered, folder: PathBuf::new(), first: 0 })
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Goes on from a run folder's checkpoint, where there is one.
    pub(super) fn resume(
        &mut self,
        context: &Context,
        folder: &Path,
        described: &Value,
    ) -> Result<(), Failure> {
        folder.clone_into(&mut self.folder);
        let Some(checkpoint) = RunFolder::checkpoint(folder)? else { return Ok(()) };
        self.first = checkpoint.steps;
        let restored = self.training.trainer_mut().restore(folder, checkpoint, described);
        restored.map_err(Failure::refused)?;
        let (first, folder) = (self.first, folder.display());
        context.remark(&format!("going on after step {first} of {folder}"));
        Ok(())
    }

    /// Makes the steps that are left, or those until `stops`.
    pub(super) fn run(
        &mut self,
        context: &Context,
        save_every: u64,
        described: &Value,
        report: &mut GateReport,
    ) -> Result<(), Failure> {
        let mut folder = RunFolder::open(&self.folder, self.first)?;
        let mut pace = Pace::new(self.first);
        while !self.training.trainer().is_done() && !interrupted() {
            let step = self.training.step().map_err(Failure::refused)?;
            folder.say(&step)?;
            report.gradients(context, &step.norms);
            pace.count(context, &step, self.training.trainer().planned());
            if step.step.is_multiple_of(save_every) {
                self.training.trainer().save(&self.folder, described).map_err(Failure::refused)?;
            }
        }
        self.training.trainer().save(&self.folder, described).map_err(Failure::refused)?;
        report.steps(&self.folder, self.first, self.training.trainer().steps(), &pace);
        Ok(())
    }

    /// Makes all steps, and leaves no folder; how many were made.
    pub(crate) fn steps(&mut self, context: &Context) -> Result<u64, Failure> {
        let mut pace = Pace::new(0);
        while !self.training.trainer().is_done() && !interrupted() {
            let step = self.training.step().map_err(Failure::refused)?;
            pace.count(context, &step, self.training.trainer().planned());
        }
        Ok(self.training.trainer().steps())
    }

    /// Gives the gates to the memory.
    pub(crate) fn apply(&self, agent: &Agent) -> Result<(), Failure> {
        let gates = self.training.gates().map_err(Failure::refused)?;
        for (&slot, gate) in self.slots.iter().zip(gates) {
            agent.tell_memory(|_| Input::SetGate { slot, gate }).map_err(Failure::refused)?;
        }
        Ok(())
    }

    /// How far the gates are open, by where the slots come from.
    pub(crate) fn sources(&self, agent: &Agent) -> Vec<SourceGates> {
        let Some(memory) = agent.memory() else { return Vec::new() };
        let mut sources: BTreeMap<String, (usize, f64)> = BTreeMap::new();
        for slot in self.slots.iter().filter_map(|&slot| memory.slot(slot)) {
            let sum = sources.entry(slot.source.clone()).or_default();
            sum.0 += 1;
            sum.1 += cart_memory::gate::sigmoid(f64::from(slot.gate));
        }
        let mean = |(source, (slots, sum)): (String, (usize, f64))| SourceGates {
            source,
            slots,
            mean_open: sum / slots as f64,
        };
        sources.into_iter().map(mean).collect()
    }
}

impl SourceGates {
    pub(crate) fn said(&self) -> String {
        format!(
            "  {}: {} slots, σ(A) {:.3} on the average",
            self.source, self.slots, self.mean_open
        )
    }
}
