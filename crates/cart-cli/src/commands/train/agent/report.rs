//! What a run did.

use std::path::Path;

use cart_train::agent::{Agent, Measured};
use serde::Serialize;

use super::super::gradients::GradientReport;
use super::super::pace::Pace;
use super::memory::MemoryReport;
use super::{AgentArgs, Kept};
use crate::bytes::{counted, grouped, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// What a run did.
#[derive(Serialize)]
pub(super) struct AgentReport {
    spec: String,
    parameters: usize,
    data_tokens: usize,
    run: String,
    pub(super) steps_planned: u64,
    steps: u64,
    /// Steps that were there when this process began.
    resumed_at: u64,
    done: bool,
    pub(super) gradients: Option<GradientReport>,
    /// Epochs that ended in this process.
    pub(super) epochs: Vec<EpochReport>,
    tokens_per_second: f64,
    seconds: f64,
}

/// What came of an epoch.
#[derive(Serialize)]
pub(super) struct EpochReport {
    epoch: u64,
    step: u64,
    held_out: Measured,
    sample: String,
    manifest: String,
    commit: String,
    /// None where it was not to remember anything.
    memory: Option<MemoryReport>,
}

impl AgentReport {
    pub(super) fn new(
        args: &AgentArgs,
        agent: &Agent,
        folder: &Path,
        data_tokens: usize,
        resumed_at: u64,
    ) -> Self {
        Self {
            spec: args.spec.to_string(),
            parameters: agent.trainer().parameters(),
            data_tokens,
            run: folder.display().to_string(),
            steps_planned: agent.trainer().planned(),
            steps: resumed_at,
            resumed_at,
            done: false,
            gradients: None,
            epochs: Vec::new(),
            tokens_per_second: 0.0,
            seconds: 0.0,
        }
    }

    pub(super) fn finish(&mut self, agent: &Agent, pace: &Pace) {
        self.steps = agent.trainer().steps();
        self.done = agent.trainer().is_done();
        self.seconds = pace.took().as_secs_f64();
        self.tokens_per_second = pace.tokens_per_second();
    }

    pub(super) fn print(&self, context: &Context, name: &str) -> Result<(), Failure> {
        if context.json {
            return report::print("train-agent", self);
        }
        report::line(&format!(
            "{} parameters, {} of {} steps, {} tokens/s, {}",
            grouped(self.parameters as u64),
            grouped(self.steps),
            grouped(self.steps_planned),
            grouped(self.tokens_per_second as u64),
            seconds(self.seconds)
        ))?;
        match self.epochs.last() {
            Some(epoch) => report::line(&format!(
                "{:.4} bits per byte on {} held out\nsaved {name}  sha256:{}",
                epoch.held_out.bits_per_byte,
                counted(epoch.held_out.bytes as u64, "byte"),
                epoch.manifest
            )),
            None => report::line("no epoch ended; nothing was saved but the checkpoint"),
        }
    }
}

impl EpochReport {
    pub(super) fn new(
        epoch: u64,
        step: u64,
        held_out: Measured,
        sample: String,
        kept: Kept,
    ) -> Self {
        let Kept { manifest, commit, memory } = kept;
        Self { epoch, step, held_out, sample, manifest, commit: commit.hex(), memory }
    }

    pub(super) fn said(&self, name: &str) -> String {
        let said = format!(
            "epoch {}, step {}: {:.4} bits per byte held out, {name} is sha256:{}\n  sample: {:?}",
            self.epoch, self.step, self.held_out.bits_per_byte, self.manifest, self.sample
        );
        match &self.memory {
            Some(memory) => format!("{said}\n  {}", memory.said()),
            None => said,
        }
    }
}
