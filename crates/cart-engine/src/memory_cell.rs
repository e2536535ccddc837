//! An agent's memory, shared by the sessions that read and write it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cart_memory::UnifiedMemory;

/// A memory that is not there yet, or that is. A reader keeps what it got; a writer changes what
/// the next reader gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryCell(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    memory: Mutex<Option<Arc<UnifiedMemory>>>,
    epoch: AtomicU64,
}

impl MemoryCell {
    pub(crate) fn new(memory: Option<UnifiedMemory>) -> Self {
        let memory = Mutex::new(memory.map(Arc::new));
        Self(Arc::new(Shared { memory, epoch: AtomicU64::new(0) }))
    }

    /// The memory as it is now.
    pub(crate) fn read(&self) -> Option<Arc<UnifiedMemory>> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the changes.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Puts another memory in place.
    pub(crate) fn replace(&self, memory: Option<UnifiedMemory>) {
        *self.0.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory.map(Arc::new);
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes the memory, which `birth` makes where there is none.
    pub(crate) fn update<T, E>(
        &self,
        birth: impl FnOnce() -> Result<UnifiedMemory, E>,
        change: impl FnOnce(&mut UnifiedMemory) -> T,
    ) -> Result<T, E> {
        let mut held = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(Arc::new(birth()?));
        }
        let memory = held.as_mut().expect("it was put there if it was missing");
        // Copies only where a reader still holds the old state.
        let changed = change(Arc::make_mut(memory));
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(changed)
    }
}
