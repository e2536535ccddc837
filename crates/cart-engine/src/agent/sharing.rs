//! Cartridges of the same weights and tokenizer that share what was loaded.

use std::sync::Arc;

use cart_format::{Manifest, Probe};
use cart_memory::MemorySnapshot;
use cart_store::Cartridge;

use super::{Agent, LoadError};
use crate::memory_section;

impl Agent {
    /// Whether a cartridge has the weights and the tokenizer of this one, so that they need not be
    /// loaded again.
    pub(crate) fn has_parts_of(&self, manifest: &Manifest) -> bool {
        let own = self.manifest();
        own.model == manifest.model && own.tokenizer == manifest.tokenizer
    }

    /// The cartridge as an agent that shares weights and tokenizer with this one, which must have the
    /// same ([`Agent::has_parts_of`]). They were verified when this one was loaded, and are not read again.
    ///
    /// * `memory`: the cartridge's, from blobs that were checked
    pub(crate) fn with_memory_from(
        &self,
        cartridge: &Cartridge,
        memory: Option<&MemorySnapshot>,
    ) -> Result<Self, LoadError> {
        let memory = memory_section::restored(memory, self.space())?;
        Self::of_parts(cartridge, Arc::clone(&self.core.parts), memory)
    }

    /// Whether the two share loaded weights.
    pub fn shares_weights_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core.parts, &other.core.parts)
    }

    /// Whether the model has passed a golden probe before.
    pub(crate) fn has_passed(&self, probe: &Probe) -> bool {
        self.core.parts.passed.lock().expect("no thread panics holding it").contains(probe)
    }

    /// Notes that the model has passed a golden probe.
    pub(crate) fn note_passed(&self, probe: &Probe) {
        let mut passed = self.core.parts.passed.lock().expect("no thread panics holding it");
        if !passed.contains(probe) {
            passed.push(probe.clone());
        }
    }

    /// What the model gave to the prompts that it is watched by, the first time; now, where that is now.
    ///
    /// # Errors
    /// It is the first time, and `record` fails.
    pub(crate) fn watched_by<E>(
        &self,
        record: impl FnOnce() -> Result<Vec<Probe>, E>,
    ) -> Result<Vec<Probe>, E> {
        let first = &self.core.parts.watched;
        if let Some(probes) = first.get() {
            return Ok(probes.clone());
        }
        let probes = record()?;
        Ok(first.get_or_init(|| probes).clone())
    }
}
