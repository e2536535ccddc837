//! The long-term memory of the agent itself, shared by its conversations.

use std::sync::Arc;

use cart_memory::{Settlement, SlotId, UnifiedMemory};

use super::{LongTerm, LongTermError, PendingOffer};
use crate::memory_cell::{MemoryCell, WeakCell};

/// The memory of an agent, as long as it is there.
pub(crate) struct Embedded(WeakCell);

impl Embedded {
    /// * `cell`: has a memory
    pub(crate) fn new(cell: &MemoryCell) -> Self {
        Self(cell.downgrade())
    }
}

impl LongTerm for Embedded {
    fn place(&self) -> String {
        "this server".to_owned()
    }

    fn memory(&self) -> Option<Arc<UnifiedMemory>> {
        self.0.upgrade()?.read()
    }

    fn refresh(&mut self) -> Result<(), LongTermError> {
        Ok(())
    }

    fn consolidate(&mut self, offers: &[PendingOffer]) -> Result<Vec<Settlement>, LongTermError> {
        let accept = |memory: &mut UnifiedMemory| {
            let accept = |offer: &PendingOffer| memory.accept(&offer.offered);
            let accept = offers.iter().map(accept);
            accept.map(|done| done.map_or(Settlement::Refused, |(settled, _)| settled)).collect()
        };
        // Without the agent there is nobody who could ask for it.
        let settled = self.0.upgrade().and_then(|cell| cell.change(accept));
        Ok(settled.unwrap_or_else(|| vec![Settlement::Refused; offers.len()]))
    }

    fn note_reads(&mut self, entries: &[SlotId]) -> Result<(), LongTermError> {
        if let Some(cell) = self.0.upgrade() {
            cell.change(|memory| memory.note_reads(entries));
        }
        Ok(())
    }
}
