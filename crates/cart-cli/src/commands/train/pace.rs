//! How far a run is, how quick, and how long it will take.

use std::time::{Duration, Instant};

use cart_train::StepReport;

use crate::bytes::{grouped, seconds};
use crate::context::Context;

/// The seconds between two lines of progress.
const SECONDS: f64 = 10.0;

/// Where the time of a process goes.
pub(super) struct Pace {
    began: Instant,
    said: Instant,
    /// Tokens since the process began.
    tokens: usize,
    /// Steps that were made before.
    first: u64,
}

impl Pace {
    /// * `first`: steps that were made before
    pub(super) fn new(first: u64) -> Self {
        let now = Instant::now();
        Self { began: now, said: now, tokens: 0, first }
    }

    /// Counts a step; says loss, tokens a second and the time that is left every ten seconds.
    ///
    /// * `all`: steps of the run
    pub(super) fn count(&mut self, context: &Context, step: &StepReport, all: u64) {
        self.tokens += step.tokens;
        if self.said.elapsed().as_secs_f64() < SECONDS {
            return;
        }
        self.said = Instant::now();
        let done = step.step;
        let passed = self.began.elapsed().as_secs_f64();
        let left = passed / (done - self.first) as f64 * (all - done) as f64;
        context.remark(&format!(
            "step {done} of {all}  loss {:.4}  {} tokens/s  {} left",
            step.loss,
            grouped(self.tokens_per_second() as u64),
            seconds(left)
        ));
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.took().as_secs_f64().max(1e-9)
    }

    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }
}
