//! How a run is going: loss, tokens a second, and the time that is left.

use std::time::Instant;

use cart_train::StepReport;

use crate::bytes::{grouped, seconds};
use crate::context::Context;

/// The seconds between two lines of progress.
const PROGRESS_SECONDS: f64 = 10.0;

/// A run on its way.
pub(super) struct Pace<'a> {
    context: &'a Context,
    began: Instant,
    said: Instant,
    first: u64,
    planned: u64,
    tokens: usize,
}

impl<'a> Pace<'a> {
    /// * `first`: steps that were made before; `planned`: steps in all
    pub(super) fn new(context: &'a Context, first: u64, planned: u64) -> Self {
        let now = Instant::now();
        Self { context, began: now, said: now, first, planned, tokens: 0 }
    }

    /// A step was made.
    pub(super) fn made(&mut self, step: &StepReport) {
        self.tokens += step.tokens;
        let speed = grouped(self.tokens_per_second() as u64);
        self.say(step.step, &format!("step {{}}  loss {:.4}  {speed} tokens/s", step.loss));
    }

    /// Something else was done `done` times.
    pub(super) fn counted(&mut self, what: &str, done: usize) {
        self.say(done as u64, &format!("{what} {{}}"));
    }

    /// Tokens that this process has read in a second.
    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    /// * `line`: with `{}` for how many of how many
    fn say(&mut self, done: u64, line: &str) {
        if self.said.elapsed().as_secs_f64() < PROGRESS_SECONDS {
            return;
        }
        self.said = Instant::now();
        let passed = self.began.elapsed().as_secs_f64();
        let made = done.saturating_sub(self.first).max(1) as f64;
        let left = passed / made * self.planned.saturating_sub(done) as f64;
        let line = line.replace("{}", &format!("{done} of {}", self.planned));
        self.context.remark(&format!("{line}  {} left", seconds(left)));
    }
}
