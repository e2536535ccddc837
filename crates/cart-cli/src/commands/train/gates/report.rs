//! What a run did to the gates.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::super::gradients::GradientReport;
use super::super::pace::Pace;
use super::GatesArgs;
use super::learning::{Learning, SourceGates};
use crate::bytes::{grouped, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;
use crate::saved::Saved;

/// What a run did.
#[derive(Serialize)]
pub(super) struct GateReport {
    questions: usize,
    /// Questions that recalled nothing.
    unanswered: usize,
    slots: usize,
    run: String,
    steps_planned: u64,
    steps: u64,
    /// Steps that were there when this process began.
    resumed_at: u64,
    done: bool,
    gradients: Option<GradientReport>,
    /// Questions that were answered before, and after.
    before: usize,
    pub(super) after: Option<usize>,
    pub(super) sources: Vec<SourceGates>,
    pub(super) saved: Option<Saved>,
    tokens_per_second: f64,
    seconds: f64,
}

impl GateReport {
    pub(super) fn new(
        args: &GatesArgs,
        learning: &Learning<'_>,
        questions: usize,
        before: usize,
    ) -> Self {
        Self {
            questions,
            unanswered: learning.unanswered,
            slots: learning.slots(),
            run: String::new(),
            steps_planned: args.how.steps,
            steps: 0,
            resumed_at: 0,
            done: false,
            gradients: None,
            before,
            after: None,
            sources: Vec::new(),
            saved: None,
            tokens_per_second: 0.0,
            seconds: 0.0,
        }
    }

    pub(super) fn gradients(&mut self, context: &Context, norms: &[(String, f64)]) {
        if let Some(found) = GradientReport::shown(context, norms) {
            self.gradients = Some(found);
        }
    }

    pub(super) fn steps(&mut self, folder: &Path, first: u64, steps: u64, pace: &Pace) {
        self.run = folder.display().to_string();
        (self.resumed_at, self.steps) = (first, steps);
        self.done = steps >= self.steps_planned;
        self.tokens_per_second = pace.tokens_per_second();
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn print(mut self, context: &Context, began: Instant) -> Result<(), Failure> {
        self.seconds = began.elapsed().as_secs_f64();
        if context.json {
            return report::print("train-gates", &self);
        }
        report::line(&format!(
            "{} gates, {} of {} steps, {} tokens/s, {}",
            grouped(self.slots as u64),
            grouped(self.steps),
            grouped(self.steps_planned),
            grouped(self.tokens_per_second as u64),
            seconds(self.seconds)
        ))?;
        let after = self.after.map_or_else(String::new, |after| format!(", {after} after"));
        let of = self.questions;
        report::line(&format!("answered, of {of}: {} before{after}", self.before))?;
        for source in &self.sources {
            report::line(&source.said())?;
        }
        match &self.saved {
            Some(saved) => report::line(&saved.said()),
            None => report::line("interrupted; the same command goes on from the checkpoint"),
        }
    }
}
