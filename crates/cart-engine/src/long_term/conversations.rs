//! The conversations that share a long-term memory, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::link::{Link, LongTermState};
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
}

#[derive(Debug, Default)]
struct Open {
    cells: BTreeMap<String, (MemoryCell, u64)>,
    /// Counts the times that one was asked for.
    asked: u64,
}

impl Conversations {
    pub(crate) fn new(link: Link, embedded: bool) -> Self {
        Self { link: Arc::new(link), open: Mutex::default(), embedded }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// The memory of a conversation, which begins now if there is none of this name. None where there is no
    /// long-term memory any more.
    pub(crate) fn memory(&self, name: &str) -> Option<MemoryCell> {
        let mut open = self.open();
        open.asked += 1;
        let asked = open.asked;
        if let Some((cell, last)) = open.cells.get_mut(name) {
            *last = asked;
            return Some(cell.clone());
        }
        if open.cells.len() >= MOST {
            let silent = open.cells.iter().min_by_key(|(_, (_, last))| *last);
            let silent = silent.map(|(name, _)| name.clone()).unwrap_or_default();
            if let Some((cell, _)) = open.cells.remove(&silent) {
                cell.part();
            }
        }
        let cell = MemoryCell::conversation(Arc::clone(&self.link))?;
        open.cells.insert(name.to_owned(), (cell.clone(), asked));
        Some(cell)
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
        LongTermState { conversations: self.open().cells.len(), ..self.link.state() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
