//! The thread that owns the long-term memory: it alone puts anything into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cart_memory::{Settlement, SlotId};

use super::journal::Journal;
use super::link::{Board, Envelope, Link, Message, Ticket};
use super::{LongTerm, LongTermError, OfferId, PendingOffer};

/// Most offers of one commit.
const BATCH: usize = 64;
/// How long a commit that failed waits, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long an owner that is told to stop goes on trying.
const PARTING: Duration = Duration::from_secs(5);

/// How an owner works.
pub(crate) struct OwnerOptions {
    /// The folder of the journal; none where nothing can be lost.
    pub(crate) journal: Option<PathBuf>,
    /// How often it looks what others have changed.
    pub(crate) look: Duration,
    /// A number that only this process has.
    pub(crate) process: u64,
}

struct Owner {
    place: Box<dyn LongTerm>,
    board: Arc<Board>,
    journal: Option<Journal>,
    queue: VecDeque<Envelope>,
    reads: BTreeSet<SlotId>,
    look: Duration,
    looked: Instant,
    /// How long to wait before the next attempt, while it is away.
    wait: Option<Duration>,
    tried: Instant,
}

impl Link {
    /// Starts an owner. What an earlier process left in the journal comes first.
    pub(crate) fn start(
        place: Box<dyn LongTerm>,
        options: OwnerOptions,
    ) -> Result<Self, LongTermError> {
        let board = Arc::new(Board::new(place.place()));
        board.publish(place.memory());
        let mut queue = VecDeque::new();
        let journal = match (&options.journal, place.memory()) {
            (Some(folder), Some(memory)) => {
                let (journal, left) = Journal::open(folder, options.process, &memory)?;
                board.state().recovered = left.len() as u64;
                board.state().pending = left.len() as u64;
                queue.extend(left.into_iter().map(|offer| Envelope { offer, ticket: None }));
                Some(journal)
            }
            _ => None,
        };
        let (inbox, messages) = mpsc::channel();
        let now = Instant::now();
        let mut owner = Owner {
            place,
            board: Arc::clone(&board),
            journal,
            queue,
            reads: BTreeSet::new(),
            look: options.look,
            looked: now,
            wait: None,
            tried: now,
        };
        std::thread::Builder::new()
            .name("cart-long-term".to_owned())
            .spawn(move || owner.run(&messages))
            .map_err(LongTermError::Thread)?;
        Ok(Self::new(board, inbox, options.process))
    }
}

impl Owner {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let stops = self.take(messages);
            if self.is_due() {
                self.turn();
            }
            if stops {
                return self.part();
            }
        }
    }

    /// Takes what has come in; waits where there is nothing to do. Whether it is told to stop.
    fn take(&mut self, messages: &Receiver<Message>) -> bool {
        let mut next = messages.recv_timeout(self.pause());
        let mut fresh = Vec::new();
        let stops = loop {
            match next {
                Ok(Message::Offer(envelope)) => fresh.push(*envelope),
                Ok(Message::Reads(entries)) => self.reads.extend(entries),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
            next = messages.recv_timeout(Duration::ZERO);
        };
        self.write_down(&fresh);
        self.queue.extend(fresh);
        stops
    }

    fn pause(&self) -> Duration {
        let (since, most) = match self.wait {
            Some(wait) => (self.tried, wait),
            None if self.queue.is_empty() => (self.looked, self.look),
            None => return Duration::ZERO,
        };
        most.saturating_sub(since.elapsed())
    }

    fn is_due(&self) -> bool {
        match self.wait {
            Some(wait) => self.tried.elapsed() >= wait,
            None => !self.queue.is_empty() || self.looked.elapsed() >= self.look,
        }
    }

    /// Commits what waits, or looks what others have done.
    fn turn(&mut self) {
        self.tried = Instant::now();
        let done = if self.queue.is_empty() { self.refresh() } else { self.commit() };
        match done {
            Ok(()) => {
                self.wait = None;
                let mut state = self.board.state();
                (state.reachable, state.error) = (true, None);
            }
            Err(error) => {
                self.wait = Some(self.wait.map_or(FIRST_WAIT, |wait| LONGEST_WAIT.min(wait * 2)));
                let mut state = self.board.state();
                state.retries += u64::from(!self.queue.is_empty());
                (state.reachable, state.error) = (false, Some(error.to_string()));
            }
        }
    }

    fn refresh(&mut self) -> Result<(), LongTermError> {
        self.looked = Instant::now();
        self.place.refresh()?;
        self.note_reads()?;
        self.board.publish(self.place.memory());
        Ok(())
    }

    fn note_reads(&mut self) -> Result<(), LongTermError> {
        if self.reads.is_empty() {
            return Ok(());
        }
        let entries: Vec<SlotId> = self.reads.iter().copied().collect();
        self.place.note_reads(&entries)?;
        self.reads.clear();
        Ok(())
    }

    /// One batch, in one transaction.
    fn commit(&mut self) -> Result<(), LongTermError> {
        let batch: Vec<PendingOffer> =
            self.queue.iter().take(BATCH).map(|envelope| envelope.offer.clone()).collect();
        let settlements = self.place.consolidate(&batch)?;
        self.looked = Instant::now();
        // The snapshot first: who hears of an entry is to find it.
        self.board.publish(self.place.memory());
        let settled: BTreeMap<OfferId, Settlement> =
            batch.iter().map(|offer| offer.id).zip(settlements).collect();
        self.count(settled.values());
        for envelope in self.queue.drain(..batch.len()) {
            let settlement = settled[&envelope.offer.id];
            if let Some(ticket) = &envelope.ticket {
                Ticket::settle(ticket, settlement);
            }
        }
        let ids: Vec<OfferId> = settled.into_keys().collect();
        let is_empty = self.queue.is_empty();
        self.in_journal(|journal| journal.settle(&ids, is_empty));
        Ok(())
    }

    fn count<'s>(&self, settlements: impl Iterator<Item = &'s Settlement>) {
        let mut state = self.board.state();
        for settlement in settlements {
            let counter = match settlement {
                Settlement::Outranked => &mut state.outranked,
                Settlement::Refused => &mut state.refused,
                _ => &mut state.taken,
            };
            *counter += 1;
            state.pending -= 1;
        }
    }

    fn write_down(&mut self, fresh: &[Envelope]) {
        if !fresh.is_empty() {
            self.in_journal(|journal| journal.append(fresh.iter().map(|fresh| &fresh.offer)));
        }
    }

    /// Offers are worth committing also where the journal can't be written; that is reported.
    fn in_journal(&mut self, write: impl FnOnce(&mut Journal) -> std::io::Result<()>) {
        let Some(journal) = &mut self.journal else { return };
        let error = write(journal).err().map(|error| error.to_string());
        self.board.state().journal_error = error;
    }

    /// Tries to commit what is left; what can't be stays in the journal.
    fn part(&mut self) {
        let begun = Instant::now();
        while !self.queue.is_empty() && begun.elapsed() < PARTING {
            self.turn();
            if let Some(wait) = self.wait {
                std::thread::sleep(wait.min(FIRST_WAIT));
            }
        }
    }
}
