//! Entries, told to a memory.

use std::collections::BTreeSet;

use cart_engine::{Agent, Telling};
use cart_memory::{Input, MemoryEvent, Observation, SlotId, SlotRef, StoreKind, UnifiedMemory};
use cart_store::Progress;
use serde::Serialize;

use super::super::tags;
use super::ImportError;
use super::entry::{Entry, Origin};

/// What came of what was told.
#[derive(Default, Serialize)]
pub(super) struct Written {
    /// Spans that memory was told.
    pub(super) told: usize,
    pub(super) added: usize,
    pub(super) blended: usize,
    pub(super) consolidated: usize,
    evicted: usize,
}

/// Tells an agent's memory one entry after the other. Only the agent in hand changes.
pub(super) struct Teller<'a> {
    agent: &'a Agent,
    written: Written,
    /// What was told.
    texts: BTreeSet<String>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(agent: &'a Agent) -> Self {
        Self { agent, written: Written::default(), texts: BTreeSet::new() }
    }

    /// Tells an entry, a tick for each span; gives how many there were.
    ///
    /// # Errors
    /// The model can't read it, memory refuses it, or `progress` cancelled.
    pub(super) fn tell(
        &mut self,
        entry: &Entry,
        progress: &dyn Progress,
    ) -> Result<usize, ImportError> {
        let origin = || entry.origin.clone();
        let encode = |source| ImportError::Encode { origin: origin(), source };
        let source = tags::join(&entry.source, &entry.tags);
        let telling = Telling {
            text: &entry.text,
            whole: entry.whole,
            energy: entry.energy.unwrap_or_default(),
            source: &source,
        };
        let before = self.written.told;
        for reading in self.agent.observations(telling).map_err(encode)? {
            if progress.cancelled() {
                return Err(ImportError::Cancelled { origin: origin() });
            }
            for seen in reading.map_err(encode)? {
                progress.add(seen.text.len() as u64);
                self.observe(&entry.origin, entry.gate, seen)?;
            }
        }
        Ok(self.written.told - before)
    }

    fn observe(
        &mut self,
        origin: &Origin,
        gate: f32,
        seen: Observation,
    ) -> Result<(), ImportError> {
        let refused = |source| ImportError::Told { origin: origin.clone(), source };
        self.texts.insert(seen.text.clone());
        let observe = |memory: &UnifiedMemory| Input::Observe { at: memory.now() + 1, seen };
        let events = self.agent.tell_memory(observe).map_err(refused)?.events;
        self.written.told += 1;
        // The slot of the observation comes first; what follows is about others.
        let slots: Vec<SlotId> =
            events.iter().filter_map(|event| self.written.count(event)).collect();
        if let Some(&id) = slots.first().filter(|_| gate != 0.0) {
            let slot = SlotRef { store: StoreKind::Stm, id };
            self.agent.tell_memory(|_| Input::SetGate { slot, gate }).map_err(refused)?;
        }
        Ok(())
    }

    /// What came of it.
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    /// What came of it.
    pub(super) fn into_written(self) -> Written {
        self.written
    }

    /// How many different texts were told, and how many of them are in the memory.
    pub(super) fn texts(&self, memory: &UnifiedMemory) -> (usize, usize) {
        let known: BTreeSet<&str> =
            memory.slots().map(|(_, slot)| slot.value.text.as_str()).collect();
        let remembered = self.texts.iter().filter(|text| known.contains(text.as_str())).count();
        (self.texts.len(), remembered)
    }
}

impl Written {
    /// Counts an event; gives the slot that the observation went into.
    fn count(&mut self, event: &MemoryEvent) -> Option<SlotId> {
        match event {
            MemoryEvent::Added { slot, .. } => {
                self.added += 1;
                return Some(*slot);
            }
            MemoryEvent::Blended { slot, .. } => {
                self.blended += 1;
                return Some(*slot);
            }
            MemoryEvent::Consolidated { .. } => self.consolidated += 1,
            MemoryEvent::Evicted { .. } => self.evicted += 1,
            _ => {}
        }
        None
    }
}
