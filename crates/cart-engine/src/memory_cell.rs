//! An agent's memory, shared by the sessions that read and write it.

use std::io::Write;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use cart_memory::{Input, Outcome, UnifiedMemory};

use crate::calibration::CalibrationError;
use crate::long_term::{Conversations, Link, SavedConversations, Ticket};
use crate::memory_log::{Keeping, MemoryLog, MemoryLogError};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A memory that is not there yet, or that is. A reader keeps what it got; a writer changes what
/// the next reader gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryCell(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    epoch: AtomicU64,
    /// The conversations that share its long-term memory, or that it is one of.
    conversations: OnceLock<Conversations>,
    /// Where conversations are that were saved.
    saved: OnceLock<Arc<dyn SavedConversations>>,
}

#[derive(Debug, Default)]
struct Held {
    memory: Option<Arc<UnifiedMemory>>,
    /// Where what is done to it is written down.
    log: Option<MemoryLog>,
    /// To the long-term memory, where it is a conversation's.
    talk: Option<Talk>,
}

/// A conversation's line to the long-term memory that it shares.
#[derive(Debug)]
struct Talk {
    link: Arc<Link>,
    /// Offers that it has not heard of.
    waiting: Vec<Arc<Ticket>>,
}

/// A cell, while somebody else holds it.
#[derive(Debug)]
pub(crate) struct WeakCell(Weak<Shared>);

impl WeakCell {
    pub(crate) fn upgrade(&self) -> Option<MemoryCell> {
        self.0.upgrade().map(MemoryCell)
    }
}

/// What an input did, and what it made the memory offer.
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    pub(crate) offers: Vec<Arc<Ticket>>,
}

impl MemoryCell {
    pub(crate) fn new(memory: Option<UnifiedMemory>) -> Self {
        let held = Mutex::new(Held { memory: memory.map(Arc::new), ..Held::default() });
        Self(Arc::new(Shared { held, ..Shared::default() }))
    }

    /// The memory of a conversation that begins now; none where there is no long-term memory.
    pub(crate) fn conversation(link: Arc<Link>) -> Option<Self> {
        let cell = Self::new(None);
        cell.converse(link).then_some(cell)
    }

    /// Makes this the memory of a conversation that begins now. Whether there is a long-term memory for it.
    pub(crate) fn converse(&self, link: Arc<Link>) -> bool {
        let Some(shared) = link.view() else { return false };
        let mut held = self.held();
        held.memory = Some(Arc::new(shared.conversation()));
        held.end_log();
        held.talk = Some(Talk { link, waiting: Vec::new() });
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Where conversations are that were saved, if they are.
    pub(crate) fn saved(&self) -> Option<Arc<dyn SavedConversations>> {
        self.0.saved.get().cloned()
    }

    pub(crate) fn set_saved(&self, saved: Arc<dyn SavedConversations>) {
        // A memory that moved over to another cartridge has its conversations with it.
        let _ = self.0.saved.set(saved);
    }

    /// Whether both are one memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The conversations that share its long-term memory.
    pub(crate) fn conversations(&self) -> Option<&Conversations> {
        self.0.conversations.get()
    }

    /// Begins to share its long-term memory, or joins those that share one. Once is for ever.
    pub(crate) fn share(&self, conversations: Conversations) -> &Conversations {
        let shared = self.0.conversations.get_or_init(|| conversations);
        self.show(&self.held());
        shared
    }

    pub(crate) fn downgrade(&self) -> WeakCell {
        WeakCell(Arc::downgrade(&self.0))
    }

    /// The link to the long-term memory, where this is a conversation's.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.held().talk.as_ref().map(|talk| Arc::clone(&talk.link))
    }

    /// Lets a conversation offer everything that is worth keeping, because it ends here.
    pub(crate) fn part(&self) {
        let mut held = self.held();
        held.listen();
        let Held { memory: Some(memory), talk: Some(_), .. } = &mut *held else { return };
        Arc::make_mut(memory).part();
        held.speak();
    }

    /// Changes the memory where there is one. A log ends here.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut UnifiedMemory) -> T) -> Option<T> {
        let mut held = self.held();
        held.end_log();
        let memory = held.memory.as_mut()?;
        let changed = change(Arc::make_mut(memory));
        self.changed(&held);
        Some(changed)
    }

    /// The memory as it is now.
    pub(crate) fn read(&self) -> Option<Arc<UnifiedMemory>> {
        let mut held = self.held();
        held.listen();
        held.memory.clone()
    }

    /// Counts the changes.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Puts another memory in place. A log ends here. A conversation only begins anew: its long-term memory is not its own.
    pub(crate) fn replace(&self, memory: Option<UnifiedMemory>) {
        let link = self.link();
        if link.is_some_and(|link| self.converse(link)) {
            return;
        }
        let mut held = self.held();
        held.memory = memory.map(Arc::new);
        held.end_log();
        self.changed(&held);
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
        held.speak();
        self.changed(&held);
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
    ) -> Result<Told, MemoryLogError> {
        let mut held = self.held();
        held.listen();
        let (memory, log) = held.born(birth)?;
        let input = input(memory);
        let outcome = match log {
            Some(log) => log.apply(memory, &input)?,
            None => memory.apply(&input)?,
        };
        let offers = held.speak();
        self.changed(&held);
        Ok(Told { outcome, offers })
    }

    /// Begins a log of what is done from now on.
    ///
    /// * `birth`: the memory that the first change would make where there is none
    pub(crate) fn log(
        &self,
        birth: impl FnOnce() -> Result<UnifiedMemory, CalibrationError>,
        sink: Box<dyn Write + Send>,
        keeping: Keeping,
    ) -> Result<(), MemoryLogError> {
        let mut held = self.held();
        let log = match &held.memory {
            Some(memory) => MemoryLog::begin(memory, false, sink, keeping)?,
            None => MemoryLog::begin(&birth()?, true, sink, keeping)?,
        };
        held.log = Some(log);
        Ok(())
    }

    /// Counts a change, and shows it to those who share the memory.
    fn changed(&self, held: &Held) {
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        self.show(held);
    }

    fn show(&self, held: &Held) {
        let conversations = self.0.conversations.get().filter(|open| open.is_embedded());
        if let Some(conversations) = conversations {
            conversations.link().publish(held.memory.clone());
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes in the long-term memory as it is now, and what became of offers.
    fn listen(&mut self) {
        let (Some(talk), Some(memory)) = (&mut self.talk, &mut self.memory) else { return };
        let settled: Vec<_> =
            talk.waiting.extract_if(.., |ticket| ticket.settlement().is_some()).collect();
        let view = talk.link.view().filter(|view| !memory.has_adopted(view));
        if settled.is_empty() && view.is_none() {
            return;
        }
        let memory = Arc::make_mut(memory);
        if let Some(view) = view {
            memory.adopt(&view);
        }
        for ticket in settled {
            if let Some(settlement) = ticket.settlement() {
                memory.settled(ticket.from, settlement);
            }
        }
    }

    /// Passes on what the memory offers.
    fn speak(&mut self) -> Vec<Arc<Ticket>> {
        let (Some(talk), Some(memory)) = (&mut self.talk, &mut self.memory) else {
            return Vec::new();
        };
        let memory = Arc::make_mut(memory);
        talk.link.reads(memory.take_reads());
        let offers: Vec<_> =
            memory.take_offers().into_iter().map(|offered| talk.link.offer(offered)).collect();
        talk.waiting.extend(offers.iter().cloned());
        offers
    }

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
