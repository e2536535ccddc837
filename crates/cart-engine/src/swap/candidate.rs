//! A generation on its way to being warm. Each state is a type, and each step takes the one before,
//! so no step can be left out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use cart_format::{BlobId, Probe};
use cart_memory::MemorySnapshot;
use cart_store::{Cartridge, Silent, VerifyOptions};

use super::lifecycle::{Lifecycle, SwapState};
use super::moving::{Moved, Moving};
use super::refusal::SwapFailure;
use crate::memory_section::checked_snapshot;
use crate::{Agent, LoadOptions, Prepared, check_probe, finite_check};

/// Asked for; nothing was read yet.
pub(crate) struct Staged {
    pub(crate) cartridge: Cartridge,
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// What runs now, whose weights and tokenizer serve where the cartridge has the same.
    pub(crate) running: Option<Agent>,
}

/// Every digest matched.
pub(crate) struct Checked {
    whole: Whole,
    lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// Where a generation's weights and tokenizer come from.
enum Whole {
    /// From the cartridge.
    Read(Box<Prepared>),
    /// From what runs: all that was read is the memory.
    Shared { running: Agent, cartridge: Cartridge, memory: Option<Box<MemorySnapshot>> },
}

/// Weights, tokenizer and memory are loaded and fit each other.
pub(crate) struct Loaded {
    agent: Agent,
    moved: Option<Moved>,
    probes: Vec<Probe>,
    /// Whether the model has run before, and was checked then.
    has_run: bool,
    lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// It has computed.
pub(crate) struct Warm {
    pub(crate) agent: Agent,
    pub(crate) probes: Vec<Probe>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) took: Took,
}

/// What the way to `Warm` took and did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) bytes_verified: u64,
    pub(crate) bytes_shared: u64,
    pub(crate) verify_ms: f64,
    pub(crate) load_ms: f64,
    pub(crate) warm_ms: f64,
    pub(crate) probes_passed: usize,
    pub(crate) steps_checked: usize,
}

impl Staged {
    /// Recomputes every digest, and begins with what comes next while the bytes are at hand; where weights
    /// and tokenizer are those that run, only the digests of the memory.
    pub(crate) fn verify(
        self,
        threads: Option<usize>,
        load: &LoadOptions,
    ) -> Result<Checked, SwapFailure> {
        let begun = Instant::now();
        let (whole, bytes_verified, bytes_shared) = match self.shared() {
            Some(shared) => shared,
            None => self.read(threads, load)?,
        };
        let verify_ms = millis_since(begun);
        let took = Took { bytes_verified, bytes_shared, verify_ms, ..Took::default() };
        step(&self.lifecycle, SwapState::Verified);
        Ok(Checked { whole, lifecycle: self.lifecycle, took })
    }

    fn read(
        &self,
        threads: Option<usize>,
        load: &LoadOptions,
    ) -> Result<(Whole, u64, u64), SwapFailure> {
        let options = VerifyOptions { threads, ..VerifyOptions::default() };
        let prepared = Prepared::verify(self.cartridge.clone(), &options, load.clone(), &Silent)?;
        let bytes = prepared.verified().report().bytes;
        Ok((Whole::Read(Box::new(prepared)), bytes, 0))
    }

    /// Checks and reads the memory alone, where the rest is what runs. What can't be read is left to
    /// [`Staged::read`], which says all that is wrong.
    fn shared(&self) -> Option<(Whole, u64, u64)> {
        let running = self.running.as_ref()?;
        let manifest = self.cartridge.manifest();
        if !running.has_parts_of(manifest) {
            return None;
        }
        let (memory, bytes) = checked_snapshot(&self.cartridge).ok()?;
        let text = manifest.tokenizer.iter();
        let text = text.flat_map(|text| [Some(text.document), text.chat_template]).flatten();
        let weights = manifest.model.tensors.values().map(|tensor| tensor.blob);
        let shared: BTreeSet<BlobId> = weights.chain(text).collect();
        let sizes = shared.iter().filter_map(|blob| manifest.blobs.get(blob)).map(|blob| blob.size);
        let bytes_shared = sizes.sum();
        let (running, cartridge) = (running.clone(), self.cartridge.clone());
        let memory = memory.map(Box::new);
        Some((Whole::Shared { running, cartridge, memory }, bytes, bytes_shared))
    }
}

impl Checked {
    /// Loads it, and gives it what it is to have of the running memory.
    pub(crate) fn load(self, moving: Option<Moving>) -> Result<Loaded, SwapFailure> {
        let begun = Instant::now();
        let has_run = matches!(self.whole, Whole::Shared { .. });
        let (mut agent, probes) = self.whole.load()?;
        if agent.tokenizer().is_none() {
            return Err(SwapFailure::NoTokenizer);
        }
        let mut moved = None;
        if let Some(moving) = moving {
            (agent, moved) = moving.move_to(agent).map(|(agent, moved)| (agent, Some(moved)))?;
        }
        step(&self.lifecycle, SwapState::Loaded);
        let took = Took { load_ms: millis_since(begun), ..self.took };
        Ok(Loaded { agent, moved, probes, has_run, lifecycle: self.lifecycle, took })
    }
}

impl Whole {
    /// The agent, and the golden probes of its commit.
    fn load(self) -> Result<(Agent, Vec<Probe>), SwapFailure> {
        let probes = |cartridge: &Cartridge| {
            cartridge.commit().map(|(_, commit)| commit.probes.clone()).unwrap_or_default()
        };
        Ok(match self {
            Self::Read(prepared) => {
                let probes = probes(prepared.verified().cartridge());
                (Agent::load_prepared(*prepared)?, probes)
            }
            Self::Shared { running, cartridge, memory } => {
                (running.with_memory_from(&cartridge, memory.as_deref())?, probes(&cartridge))
            }
        })
    }
}

impl Loaded {
    /// Reads a few texts, whose logits must be finite and not all the same, then runs the golden
    /// probes of its commit; then moves what was written to the running memory meanwhile. A model that
    /// has run has done the former, and need not repeat a probe that it has passed: both are of the bare
    /// model.
    pub(crate) fn warm(mut self) -> Result<Warm, SwapFailure> {
        let begun = Instant::now();
        let steps_checked = if self.has_run { 0 } else { finite_check(&self.agent)?.prompts };
        for (index, probe) in self.probes.iter().enumerate() {
            if self.agent.has_passed(probe) {
                continue;
            }
            let outcome = check_probe(&self.agent, probe)?;
            if !outcome.passed {
                return Err(SwapFailure::ProbeFailed { index, outcome: Box::new(outcome) });
            }
            self.agent.note_passed(probe);
        }
        if let Some(moved) = &mut self.moved {
            moved.catch_up(&self.agent)?;
        }
        step(&self.lifecycle, SwapState::Warm);
        let took = Took {
            warm_ms: millis_since(begun),
            probes_passed: self.probes.len(),
            steps_checked,
            ..self.took
        };
        let Self { agent, probes, lifecycle, .. } = self;
        Ok(Warm { agent, probes, lifecycle, took })
    }
}

fn step(lifecycle: &Lifecycle, to: SwapState) {
    lifecycle.step(to).expect("the types lead from state to state in order");
}

pub(crate) fn millis_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}
