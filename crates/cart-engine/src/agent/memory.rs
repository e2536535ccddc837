//! The memory of an agent: reading, replacing, telling and logging it.

use std::io::Write;
use std::sync::Arc;

use cart_memory::{ForeignSpace, Input, MemoryConfig, Normalization, Outcome, UnifiedMemory};

use super::Agent;
use crate::calibration::{self, CalibrationError};
use crate::memory_cell::{MemoryCell, Told};
use crate::memory_log::{Keeping, MemoryLogError};

impl Agent {
    /// The memory as it is now; none where nothing was ever written.
    pub fn memory(&self) -> Option<Arc<UnifiedMemory>> {
        self.memory.read()
    }

    /// Counts the changes of the memory since the agent was loaded.
    pub fn memory_epoch(&self) -> u64 {
        self.memory.epoch()
    }

    /// Puts another memory in place of the agent's; none forgets everything.
    ///
    /// # Errors
    /// The memory's vectors belong to another model.
    pub fn set_memory(&self, memory: Option<UnifiedMemory>) -> Result<(), ForeignSpace> {
        if let Some(memory) = &memory {
            memory.require_space(self.core.parts.space)?;
        }
        self.memory.replace(memory);
        Ok(())
    }

    /// The same model with a memory of its own, which begins as this one is now.
    pub fn fork(&self) -> Self {
        let memory = self.memory().map(|memory| memory.on_its_own());
        Self { core: Arc::clone(&self.core), memory: MemoryCell::new(memory) }
    }

    /// Most tokens of one remembered span.
    pub(crate) fn max_span_tokens(&self) -> usize {
        let span = |config: &MemoryConfig| config.max_span_tokens as usize;
        self.memory().map_or(span(&self.core.parts.memory_config), |memory| span(memory.config()))
    }

    /// The same model with the memory of another agent, which both share from now on.
    ///
    /// # Errors
    /// The memory's vectors belong to another model.
    pub fn with_memory_of(&self, other: &Self) -> Result<Self, ForeignSpace> {
        let (found, expected) = (other.space(), self.space());
        if found != expected {
            return Err(ForeignSpace { found, expected });
        }
        Ok(Self { core: Arc::clone(&self.core), memory: other.memory.clone() })
    }

    /// Writes a log of everything that is done to the memory from now on (spec 37). It begins with the
    /// memory as it is, or an empty one, and has each record before the next begins.
    ///
    /// # Errors
    /// The model can't read the calibration text of a new memory, or the log can't be written.
    pub fn log_memory(&self, sink: Box<dyn Write + Send>) -> Result<(), MemoryLogError> {
        self.memory.log(|| self.new_memory(), sink, Keeping::Required)
    }

    /// As [`Agent::log_memory`], but what ends the log does not end what can be told.
    pub(crate) fn journal_memory(&self, sink: Box<dyn Write + Send>) -> Result<(), MemoryLogError> {
        self.memory.log(|| self.new_memory(), sink, Keeping::WhilePossible)
    }

    /// Does one thing to the memory, which is made now if there is none.
    ///
    /// * `input`: what, from the memory as it is now
    ///
    /// # Errors
    /// The memory refuses, or the log can't be written.
    pub fn tell_memory(
        &self,
        input: impl FnOnce(&UnifiedMemory) -> Input,
    ) -> Result<Outcome, MemoryLogError> {
        Ok(self.tell(input)?.outcome)
    }

    /// As [`Agent::tell_memory`], with what the memory offers to the one that it shares.
    pub(crate) fn tell(
        &self,
        input: impl FnOnce(&UnifiedMemory) -> Input,
    ) -> Result<Told, MemoryLogError> {
        self.memory.apply(|| self.new_memory(), input)
    }

    /// What holds the memory.
    pub(crate) fn memory_cell(&self) -> &MemoryCell {
        &self.memory
    }

    /// The same model with another memory.
    pub(crate) fn with_cell(&self, cell: &MemoryCell) -> Self {
        Self { core: Arc::clone(&self.core), memory: cell.clone() }
    }

    /// Changes the memory, which is made now if there is none, in a way that is no record: a log ends.
    ///
    /// # Errors
    /// The model can't read the calibration text of a new memory.
    pub fn update_memory<T>(
        &self,
        change: impl FnOnce(&mut UnifiedMemory) -> T,
    ) -> Result<T, CalibrationError> {
        self.memory.update(|| self.new_memory(), change)
    }

    /// An empty memory for this model.
    pub(crate) fn new_memory(&self) -> Result<UnifiedMemory, CalibrationError> {
        let config = self.core.parts.memory_config.clone();
        Ok(UnifiedMemory::new(self.core.parts.space, self.normalization()?, config)?)
    }

    /// Centre and scale of a new memory's keys.
    pub(crate) fn normalization(&self) -> Result<Normalization, CalibrationError> {
        if let Some(fitted) = self.core.parts.normalization.get() {
            return Ok(fitted.clone());
        }
        let fitted = calibration::normalization(self)?;
        Ok(self.core.parts.normalization.get_or_init(|| fitted).clone())
    }
}
