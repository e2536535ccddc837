//! A generation on its way to being warm. Each state is a type, and each step takes the one before,
//! so no step can be left out.

use std::sync::Arc;
use std::time::Instant;

use cart_format::Probe;
use cart_store::{Cartridge, Silent, VerifyOptions};

use super::lifecycle::{Lifecycle, SwapState};
use super::moving::{Moved, Moving};
use super::refusal::SwapFailure;
use crate::{Agent, LoadOptions, Prepared, check_probe, finite_check};

/// Asked for; nothing was read yet.
pub(crate) struct Staged {
    pub(crate) cartridge: Cartridge,
    pub(crate) lifecycle: Arc<Lifecycle>,
}

/// Every digest matched.
pub(crate) struct Checked {
    prepared: Prepared,
    lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// Weights, tokenizer and memory are loaded and fit each other.
pub(crate) struct Loaded {
    agent: Agent,
    moved: Option<Moved>,
    probes: Vec<Probe>,
    lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// It has computed.
pub(crate) struct Warm {
    pub(crate) agent: Agent,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// What the way to `Warm` took and did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) bytes_verified: u64,
    pub(crate) verify_ms: f64,
    pub(crate) load_ms: f64,
    pub(crate) warm_ms: f64,
    pub(crate) probes_passed: usize,
    pub(crate) steps_checked: usize,
}

impl Staged {
    /// Recomputes every digest, and begins with what comes next while the bytes are at hand.
    pub(crate) fn verify(
        self,
        threads: Option<usize>,
        load: &LoadOptions,
    ) -> Result<Checked, SwapFailure> {
        let begun = Instant::now();
        let options = VerifyOptions { threads, ..VerifyOptions::default() };
        let prepared = Prepared::verify(self.cartridge, &options, load.clone(), &Silent)?;
        let took = Took {
            bytes_verified: prepared.verified().report().bytes,
            verify_ms: millis_since(begun),
            ..Took::default()
        };
        step(&self.lifecycle, SwapState::Verified);
        Ok(Checked { prepared, lifecycle: self.lifecycle, took })
    }
}

impl Checked {
    /// Loads it, and gives it what it is to have of the running memory.
    pub(crate) fn load(self, moving: Option<Moving>) -> Result<Loaded, SwapFailure> {
        let begun = Instant::now();
        let commit = self.prepared.verified().cartridge().commit();
        let probes = commit.map(|(_, commit)| commit.probes.clone()).unwrap_or_default();
        let mut agent = Agent::load_prepared(self.prepared)?;
        if agent.tokenizer().is_none() {
            return Err(SwapFailure::NoTokenizer);
        }
        let mut moved = None;
        if let Some(moving) = moving {
            (agent, moved) = moving.move_to(agent).map(|(agent, moved)| (agent, Some(moved)))?;
        }
        step(&self.lifecycle, SwapState::Loaded);
        let took = Took { load_ms: millis_since(begun), ..self.took };
        Ok(Loaded { agent, moved, probes, lifecycle: self.lifecycle, took })
    }
}

impl Loaded {
    /// Reads a few texts, whose logits must be finite and not all the same, then runs the golden
    /// probes of its commit; then moves what was written to the running memory meanwhile.
    pub(crate) fn warm(mut self) -> Result<Warm, SwapFailure> {
        let begun = Instant::now();
        let finite = finite_check(&self.agent)?;
        for (index, probe) in self.probes.iter().enumerate() {
            let outcome = check_probe(&self.agent, probe)?;
            if !outcome.passed {
                return Err(SwapFailure::ProbeFailed { index, outcome: Box::new(outcome) });
            }
        }
        if let Some(moved) = &mut self.moved {
            moved.catch_up(&self.agent)?;
        }
        step(&self.lifecycle, SwapState::Warm);
        let took = Took {
            warm_ms: millis_since(begun),
            probes_passed: self.probes.len(),
            steps_checked: finite.prompts,
            ..self.took
        };
        Ok(Warm { agent: self.agent, lifecycle: self.lifecycle, took })
    }
}

fn step(lifecycle: &Lifecycle, to: SwapState) {
    lifecycle.step(to).expect("the types lead from state to state in order");
}

pub(crate) fn millis_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}
