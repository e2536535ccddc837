//! A loaded cartridge with a number: what requests pin.

use std::fmt;
use std::sync::Arc;

use cart_format::{ManifestId, Probe};
use cart_store::Cartridge;

use crate::Agent;
use crate::swap::candidate::Warm;
use crate::swap::{Lifecycle, SwapSide, SwapState};

/// A loaded cartridge with the number of its generation. A request holds on to it from its first
/// token to its last, so that what it runs on can't change or go away under it.
pub struct Resident {
    name: String,
    generation: u64,
    agent: Agent,
    lifecycle: Arc<Lifecycle>,
    probes: Vec<Probe>,
    cartridge: Cartridge,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("manifest", &self.manifest())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Resident {
    pub(crate) fn new(name: String, generation: u64, warm: Warm, cartridge: Cartridge) -> Self {
        let Warm { agent, probes, lifecycle, took: _ } = warm;
        Self { name, generation, agent, lifecycle, probes, cartridge }
    }

    /// What people call the cartridge.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number; each swap counts one up.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The cartridge's id.
    pub fn manifest(&self) -> ManifestId {
        self.agent.id()
    }

    /// What computes.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Where it is in its life.
    pub fn state(&self) -> SwapState {
        self.lifecycle.state()
    }

    /// The text of a token, special tokens spelled out. A token that is part of a character gives
    /// `�`, and one that the tokenizer does not know gives nothing.
    pub fn token_text(&self, token: u32) -> String {
        let tokenizer = self.agent.tokenizer();
        tokenizer.and_then(|tokenizer| tokenizer.token_text(token).ok()).unwrap_or_default()
    }

    /// The golden probes of its commit.
    pub(crate) fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// Where it was loaded from.
    pub(crate) fn cartridge(&self) -> &Cartridge {
        &self.cartridge
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(crate) fn side(&self) -> SwapSide {
        SwapSide { name: self.name.clone(), manifest: self.manifest(), generation: self.generation }
    }
}
