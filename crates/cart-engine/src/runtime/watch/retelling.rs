//! What a generation was told is told to the one before, when that runs again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_memory::{Input, Slot, UnifiedMemory};
use serde::Serialize;

use crate::memory_cell::MemoryCell;
use crate::{Agent, EncodeError, MemoryLogError, Telling};

/// Sources of what a generation said itself.
const OWN: [&str; 2] = ["answer", "assistant"];

/// What became of what a generation was told before it was left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retold {
    /// Texts that it had been told since it became active.
    pub texts: usize,
    /// Of these, texts that the generation before was told in its place.
    pub told: usize,
    /// Texts that it had said itself; they are in the journal only.
    pub said: usize,
    /// The logs (spec 37) in which its memory was written down as it was when it was left; what it is told afterwards,
    /// by streams that end on it, is added. Empty where there was nothing to write down, or no place for it.
    pub journals: Vec<PathBuf>,
    /// What went wrong; nothing where all was told and written down.
    pub failures: Vec<String>,
}

/// A generation that was left, and the one that runs again.
pub(in crate::runtime) struct Retelling {
    pub(in crate::runtime) from: Agent,
    pub(in crate::runtime) to: Agent,
    pub(in crate::runtime) generation: u64,
    /// What it remembered when it became active.
    pub(in crate::runtime) before: Option<Arc<UnifiedMemory>>,
    /// Where its memory is written down.
    pub(in crate::runtime) folder: Option<PathBuf>,
}

/// Why a text could not be told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Memory(#[from] MemoryLogError),
}

impl Retelling {
    /// Whether there is anything to tell: not where both have one memory.
    pub(in crate::runtime) fn is_needed(&self) -> bool {
        !self.from.memory_cell().is(self.to.memory_cell())
    }

    /// Writes down what the generation remembered, and tells the one before what it was told.
    pub(in crate::runtime) fn run(&self) -> Retold {
        let mut retold = Retold::default();
        self.part(self.from.memory_cell(), &self.to, self.before.as_deref(), &mut retold);
        let Some(conversations) = self.from.memory_cell().conversations() else { return retold };
        for (name, cell) in conversations.cells() {
            match self.to.in_conversation(&name) {
                Ok(to) => self.part(&cell, &to, self.before.as_deref(), &mut retold),
                Err(error) => retold.failures.push(format!("conversation {name:?}: {error}")),
            }
        }
        retold
    }

    /// One memory: the agent's own, or a conversation's.
    fn part(
        &self,
        cell: &MemoryCell,
        to: &Agent,
        before: Option<&UnifiedMemory>,
        retold: &mut Retold,
    ) {
        let Some(memory) = cell.read() else { return };
        let target = to.memory();
        let known: BTreeSet<&str> =
            before.into_iter().chain(target.as_deref()).flat_map(texts).collect();
        let mut new: Vec<&Slot> = memory.slots().map(|(_, slot)| slot).collect();
        new.retain(|slot| !slot.value.text.trim().is_empty());
        new.retain(|slot| !known.contains(slot.value.text.as_str()));
        // In the order in which they came; what is in both stores is told once.
        new.sort_by_key(|slot| (slot.made, slot.id));
        let mut seen = BTreeSet::new();
        new.retain(|slot| seen.insert(slot.value.text.as_str()));
        if new.is_empty() {
            return;
        }
        self.write_down(cell, retold);
        for slot in new {
            if OWN.contains(&slot.source.as_str()) {
                retold.said += 1;
                continue;
            }
            retold.texts += 1;
            match tell(to, slot) {
                Ok(()) => retold.told += 1,
                Err(error) => retold.failures.push(format!("{:?}: {error}", slot.value.text)),
            }
        }
    }

    fn write_down(&self, cell: &MemoryCell, retold: &mut Retold) {
        let Some(folder) = &self.folder else { return };
        let written = create(folder, self.generation).map_err(|error| {
            format!("a journal can't be written in {}: {error}", folder.display())
        });
        let logged = written.and_then(|(path, file)| {
            let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let durable = file.try_clone().map_err(|error| told(&error))?;
            let agent = self.from.with_cell(cell);
            agent.journal_memory(Box::new(file)).map_err(|error| told(&error))?;
            durable.sync_all().map_err(|error| told(&error))?;
            Ok(path)
        });
        match logged {
            Ok(path) => retold.journals.push(path),
            Err(failure) => retold.failures.push(failure),
        }
    }
}

fn texts(memory: &UnifiedMemory) -> impl Iterator<Item = &str> {
    memory.slots().map(|(_, slot)| slot.value.text.as_str())
}

fn tell(to: &Agent, slot: &Slot) -> Result<(), TellError> {
    let telling =
        Telling { text: &slot.value.text, whole: true, energy: slot.energy, source: &slot.source };
    for read in to.observations(telling)? {
        for seen in read? {
            to.tell_memory(|memory| Input::Observe { at: memory.now() + 1, seen })?;
        }
    }
    Ok(())
}

/// A file of its own, whatever is there already.
fn create(folder: &Path, generation: u64) -> io::Result<(PathBuf, File)> {
    std::fs::create_dir_all(folder)?;
    for number in 0_u32.. {
        let path = folder.join(format!("rolled-back-{number}-generation-{generation}.memlog"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
