//! What a run did, and what its cartridge remembers.

use std::path::Path;
use std::time::Instant;

use cart_format::{CommitId, ManifestId};
use cart_store::RefName;
use cart_train::memory::MemoryRecipe;
use serde::Serialize;

use super::super::gradients::GradientReport;
use super::super::pace::Pace;
use super::MemoryArgs;
use super::exam::{Elsewhere, Recall};
use super::task::Task;
use crate::bytes::{counted, grouped, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// What a run did.
#[derive(Serialize)]
pub(super) struct MemoryReport {
    layers: Vec<usize>,
    parameters: usize,
    lessons: usize,
    run: Option<String>,
    steps_planned: u64,
    steps: u64,
    /// Steps that were there when this process began.
    resumed_at: u64,
    done: bool,
    gradients: Option<GradientReport>,
    /// Mean of −ln p over the tokens of held-out answers.
    pub(super) loss: Option<f64>,
    /// `tanh(gate)` of each layer.
    pub(super) gates: Vec<f32>,
    manifest: Option<String>,
    commit: Option<String>,
    pub(super) recall: Option<Recall>,
    pub(super) elsewhere: Option<Elsewhere>,
    tokens_per_second: f64,
    /// Of the steps and of what came before them.
    training_seconds: f64,
    seconds: f64,
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    began: Instant,
}

impl MemoryReport {
    pub(super) fn new(args: &MemoryArgs, recipe: &MemoryRecipe, task: &Task) -> Self {
        Self {
            layers: recipe.layers.clone(),
            parameters: 0,
            lessons: task.lessons.len(),
            run: None,
            steps_planned: args.steps,
            steps: 0,
            resumed_at: 0,
            done: args.steps == 0,
            gradients: None,
            loss: None,
            gates: vec![0.0; recipe.layers.len()],
            manifest: None,
            commit: None,
            recall: None,
            elsewhere: None,
            tokens_per_second: 0.0,
            training_seconds: 0.0,
            seconds: 0.0,
            name: args.tag.to_string(),
            began: Instant::now(),
        }
    }

    pub(super) fn begin(&mut self, folder: &Path, parameters: usize, first: u64) {
        self.run = Some(folder.display().to_string());
        self.parameters = parameters;
        self.resumed_at = first;
    }

    pub(super) fn gradients(&mut self, context: &Context, norms: &[(String, f64)]) {
        if let Some(found) = GradientReport::shown(context, norms) {
            self.gradients = Some(found);
        }
    }

    pub(super) fn steps(&mut self, steps: u64, pace: &Pace) {
        self.steps = steps;
        self.done = steps >= self.steps_planned;
        self.tokens_per_second = pace.tokens_per_second();
        self.training_seconds = self.began.elapsed().as_secs_f64();
    }

    pub(super) fn kept(&mut self, (manifest, commit): (String, String)) {
        (self.manifest, self.commit) = (Some(manifest), Some(commit));
    }

    pub(super) fn finish(mut self, context: &Context, began: Instant) -> Result<(), Failure> {
        self.seconds = began.elapsed().as_secs_f64();
        if context.json {
            return report::print("train-memory", &self);
        }
        report::line(&format!(
            "{} parameters beside layers {}, {} of {} steps on {}, {} tokens/s, {}",
            grouped(self.parameters as u64),
            self.layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            grouped(self.steps),
            grouped(self.steps_planned),
            counted(self.lessons as u64, "lesson"),
            grouped(self.tokens_per_second as u64),
            seconds(self.seconds)
        ))?;
        if let Some(recall) = &self.recall {
            report::line(&format!(
                "held out, of {}: {} with memory, {} with another's, {} without, {} in the context",
                recall.of, recall.memory, recall.exchanged, recall.none, recall.in_context
            ))?;
        }
        if let Some(elsewhere) = &self.elsewhere {
            report::line(&format!(
                "perplexity of another text {:.3}, with memory layers {:.3} ({:+.2} %)",
                elsewhere.without, elsewhere.with, elsewhere.change_percent
            ))?;
        }
        match &self.manifest {
            Some(manifest) => report::line(&format!("saved {}  sha256:{manifest}", self.name)),
            None => report::line("nothing was saved but the checkpoint"),
        }
    }
}

/// What is left without memory layers.
#[derive(Serialize)]
pub(super) struct Removed {
    name: String,
    manifest: String,
    commit: String,
}

impl Removed {
    pub(super) fn new(name: &RefName, manifest: ManifestId, commit: CommitId) -> Self {
        Self { name: name.to_string(), manifest: manifest.hex(), commit: commit.hex() }
    }

    pub(super) fn said(&self) -> String {
        format!("saved {}  sha256:{}, without memory layers", self.name, self.manifest)
    }
}
