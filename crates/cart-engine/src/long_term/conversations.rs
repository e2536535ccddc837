//! The conversations that share a long-term memory, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cart_memory::{ForeignSpace, StoreKind};

use super::link::{Link, LongTermState};
use super::{LongTermError, SavedConversations};
use crate::memory_cell::MemoryCell;

/// Most conversations that are kept, a few megabytes each; then the one that was silent longest ends, and offers what
/// it has.
const MOST: usize = 256;

/// The conversations over one long-term memory.
#[derive(Debug)]
pub(crate) struct Conversations {
    link: Arc<Link>,
    open: Mutex<Open>,
    /// Whether the long-term memory is in a memory of this process.
    embedded: bool,
    /// Where those are that were saved.
    saved: Option<Arc<dyn SavedConversations>>,
}

#[derive(Debug, Default)]
struct Open {
    cells: BTreeMap<String, (MemoryCell, u64)>,
    /// Counts the times that one was asked for.
    asked: u64,
}

impl Conversations {
    pub(crate) fn new(
        link: Link,
        embedded: bool,
        saved: Option<Arc<dyn SavedConversations>>,
    ) -> Self {
        Self { link: Arc::new(link), open: Mutex::default(), embedded, saved }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// The memory of a conversation, which is taken up or begins now if there is none of this name. None where there is
    /// no long-term memory any more.
    ///
    /// # Errors
    /// What was saved of it can't be used.
    pub(crate) fn memory(&self, name: &str) -> Result<Option<MemoryCell>, LongTermError> {
        let mut open = self.open();
        open.asked += 1;
        let asked = open.asked;
        if let Some((cell, last)) = open.cells.get_mut(name) {
            *last = asked;
            return Ok(Some(cell.clone()));
        }
        if open.cells.len() >= MOST {
            let silent = open.cells.iter().min_by_key(|(_, (_, last))| *last);
            let silent = silent.map(|(name, _)| name.clone()).unwrap_or_default();
            if let Some((cell, _)) = open.cells.remove(&silent) {
                cell.part();
            }
        }
        let Some(cell) = MemoryCell::conversation(Arc::clone(&self.link)) else { return Ok(None) };
        self.take_up(name, &cell)?;
        open.cells.insert(name.to_owned(), (cell.clone(), asked));
        Ok(Some(cell))
    }

    /// Forgets what a conversation has not offered yet; it begins anew when it is asked for again.
    pub(crate) fn forget(&self, name: &str) {
        self.open().cells.remove(name);
    }

    /// Gives a conversation that begins what was saved of it.
    fn take_up(&self, name: &str, cell: &MemoryCell) -> Result<(), LongTermError> {
        let Some((saved, space)) = self.saved.as_ref().zip(cell.read()) else { return Ok(()) };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LongTermError::Saved {
            what: format!("session {name:?}"),
            source,
        };
        let Some(memory) = saved.conversation(name, space.space()).map_err(failed)? else {
            return Ok(());
        };
        let taken = cell.change(|own| {
            *own = own.with_stm_of(&memory)?.0.with_goal_of(&memory)?;
            Ok::<_, ForeignSpace>(())
        });
        taken.transpose().map_err(|error| failed(error.into()))?;
        Ok(())
    }

    /// Every conversation that is open.
    pub(crate) fn cells(&self) -> Vec<(String, MemoryCell)> {
        let open = self.open();
        open.cells.iter().map(|(name, (cell, _))| (name.clone(), cell.clone())).collect()
    }

    /// Lets every conversation offer what it has; they end here.
    pub(crate) fn part(&self) {
        let ended = std::mem::take(&mut self.open().cells);
        ended.into_values().for_each(|(cell, _)| cell.part());
    }

    pub(crate) fn state(&self) -> LongTermState {
        let open: Vec<MemoryCell> =
            self.open().cells.values().map(|(cell, _)| cell.clone()).collect();
        let bytes = |cell: &MemoryCell| {
            let Some(memory) = cell.read() else { return 0 };
            let own = memory.slots().filter(|(slot, _)| slot.store == StoreKind::Stm);
            own.map(|(_, slot)| slot.bytes()).sum::<usize>()
        };
        LongTermState {
            conversations: open.len(),
            conversation_bytes: open.iter().map(bytes).sum(),
            ..self.link.state()
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
