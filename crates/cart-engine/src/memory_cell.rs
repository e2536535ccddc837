//! An agent's memory, shared by the sessions that read and write it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cart_memory::{Input, Outcome, UnifiedMemory};

use crate::calibration::CalibrationError;
use crate::memory_log::{MemoryLog, MemoryLogError};

/// A memory that is not there yet, or that is. A reader keeps what it got; a writer changes what
/// the next reader gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryCell(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    memory: Option<Arc<UnifiedMemory>>,
    /// Where what is done to it is written down.
    log: Option<MemoryLog>,
}

impl MemoryCell {
    pub(crate) fn new(memory: Option<UnifiedMemory>) -> Self {
        let held = Mutex::new(Held { memory: memory.map(Arc::new), log: None });
        Self(Arc::new(Shared { held, epoch: AtomicU64::new(0) }))
    }

    /// The memory as it is now.
    pub(crate) fn read(&self) -> Option<Arc<UnifiedMemory>> {
        self.held().memory.clone()
    }

    /// Counts the changes.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Puts another memory in place. A log ends here.
    pub(crate) fn replace(&self, memory: Option<UnifiedMemory>) {
        let mut held = self.held();
        held.memory = memory.map(Arc::new);
        held.end_log();
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes the memory, which `birth` makes where there is none. A log ends here.
    pub(crate) fn update<T, E>(
        &self,
        birth: impl FnOnce() -> Result<UnifiedMemory, E>,
        change: impl FnOnce(&mut UnifiedMemory) -> T,
    ) -> Result<T, E> {
        let mut held = self.held();
        held.end_log();
        let changed = change(held.born(birth)?.0);
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(changed)
    }

    /// Does what `input` asks for to the memory, which `birth` makes where there is none, and writes
    /// it down where there is a log.
    ///
    /// * `input`: from the memory as it is now
    pub(crate) fn apply(
        &self,
        birth: impl FnOnce() -> Result<UnifiedMemory, CalibrationError>,
        input: impl FnOnce(&UnifiedMemory) -> Input,
    ) -> Result<Outcome, MemoryLogError> {
        let mut held = self.held();
        let (memory, log) = held.born(birth)?;
        let input = input(memory);
        let outcome = match log {
            Some(log) => log.apply(memory, &input)?,
            None => memory.apply(&input)?,
        };
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(outcome)
    }

    /// Begins a log of what is done from now on.
    ///
    /// * `birth`: the memory that the first change would make where there is none
    pub(crate) fn log(
        &self,
        birth: impl FnOnce() -> Result<UnifiedMemory, CalibrationError>,
        sink: Box<dyn Write + Send>,
    ) -> Result<(), MemoryLogError> {
        let mut held = self.held();
        let log = match &held.memory {
            Some(memory) => MemoryLog::begin(memory, false, sink)?,
            None => MemoryLog::begin(&birth()?, true, sink)?,
        };
        held.log = Some(log);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.end();
        }
    }

    fn born<E>(
        &mut self,
        birth: impl FnOnce() -> Result<UnifiedMemory, E>,
    ) -> Result<(&mut UnifiedMemory, Option<&mut MemoryLog>), E> {
        if self.memory.is_none() {
            self.memory = Some(Arc::new(birth()?));
        }
        let memory = self.memory.as_mut().expect("it was put there if it was missing");
        // Copies only where a reader still holds the old state.
        Ok((Arc::make_mut(memory), self.log.as_mut()))
    }
}
