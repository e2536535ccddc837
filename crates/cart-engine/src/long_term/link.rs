//! Between conversations and the owner of the long-term memory: the snapshot that they read, what they offer,
//! and what becomes of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cart_memory::{Offered, Settlement, SlotId, UnifiedMemory};
use serde::{Deserialize, Serialize};

use super::{OfferId, PendingOffer};

/// Reaches the owner; ends it when the last one is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    board: Arc<Board>,
    inbox: Sender<Message>,
    process: u64,
    count: AtomicU64,
}

/// What the owner is told.
#[derive(Debug)]
pub(super) enum Message {
    Offer(Box<Envelope>),
    Reads(Vec<SlotId>),
    Stop,
}

/// An offer with whoever waits for what becomes of it.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) offer: PendingOffer,
    /// None where the process that offered is gone.
    pub(super) ticket: Option<Arc<Ticket>>,
}

/// What owner and conversations both see.
#[derive(Debug)]
pub(super) struct Board {
    view: ArcSwapOption<UnifiedMemory>,
    state: Mutex<LongTermState>,
}

/// What the long-term memory is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LongTermState {
    /// Where it is.
    pub place: String,
    /// Whether the last attempt to reach it succeeded.
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Conversations that are open.
    pub conversations: usize,
    /// Bytes of the short-term memories of these.
    pub conversation_bytes: usize,
    /// Entries in the snapshot that is read.
    pub entries: usize,
    /// Offers of this server.
    pub offered: u64,
    /// Offers that an earlier process left in the journal.
    pub recovered: u64,
    /// Offers that were committed and are in an entry.
    pub taken: u64,
    /// Offers that were committed and are in none, because every entry is worth more.
    pub outranked: u64,
    /// Offers that can't be entries.
    pub refused: u64,
    /// Offers that wait for their commit.
    pub pending: u64,
    /// Commits that were tried again.
    pub retries: u64,
    /// Why the journal could not be written, if it could not.
    pub journal_error: Option<String>,
}

/// What became of an offer, once that is known.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: OfferId,
    pub(crate) from: SlotId,
    text: String,
    settlement: OnceLock<Settlement>,
}

impl Ticket {
    pub(crate) fn settlement(&self) -> Option<Settlement> {
        self.settlement.get().copied()
    }

    pub(super) fn settle(&self, settlement: Settlement) {
        // What was committed once stays what it was.
        let _ = self.settlement.set(settlement);
    }
}

impl Board {
    pub(super) fn new(place: String) -> Self {
        let state = LongTermState { place, reachable: true, ..LongTermState::default() };
        Self { view: ArcSwapOption::empty(), state: Mutex::new(state) }
    }

    pub(super) fn publish(&self, memory: Option<Arc<UnifiedMemory>>) {
        self.state().entries = memory.as_ref().map_or(0, |memory| memory.entries());
        self.view.store(memory);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LongTermState> {
        // Numbers are whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    pub(super) fn new(board: Arc<Board>, inbox: Sender<Message>, process: u64) -> Self {
        Self { board, inbox, process, count: AtomicU64::new(0) }
    }

    /// The long-term memory as of the latest commit that is known here. Waits for nobody.
    pub(crate) fn view(&self) -> Option<Arc<UnifiedMemory>> {
        self.board.view.load_full()
    }

    /// Shows a memory that was changed otherwise than by offers.
    pub(crate) fn publish(&self, memory: Option<Arc<UnifiedMemory>>) {
        self.board.publish(memory);
    }

    /// Hands an offer to the owner.
    pub(crate) fn offer(&self, offered: Offered) -> Arc<Ticket> {
        let id = OfferId::new(self.process, self.count.fetch_add(1, Ordering::Relaxed));
        let ticket = Arc::new(Ticket {
            id,
            from: offered.from,
            text: offered.text().to_owned(),
            settlement: OnceLock::new(),
        });
        {
            let mut state = self.board.state();
            state.offered += 1;
            state.pending += 1;
        }
        let ticket_of = Some(Arc::clone(&ticket));
        let envelope = Envelope { offer: PendingOffer { id, offered }, ticket: ticket_of };
        // The owner lives as long as the link.
        let _ = self.inbox.send(Message::Offer(Box::new(envelope)));
        ticket
    }

    /// Tells the owner which entries were read.
    pub(crate) fn reads(&self, entries: Vec<SlotId>) {
        if !entries.is_empty() {
            let _ = self.inbox.send(Message::Reads(entries));
        }
    }

    /// Waits until every offer is settled, but not longer than `most`, and not while it can't be reached.
    pub(super) fn wait(&self, most: Duration) {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if state.pending == 0 || !state.reachable || begun.elapsed() >= most {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn state(&self) -> LongTermState {
        self.board.state().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Nobody waits for the owner here: the link may go with a generation, between two tokens. What it can't
        // commit any more is in the journal.
        let _ = self.inbox.send(Message::Stop);
    }
}

/// What a generation had of the long-term memory that it shares with others, and what it gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LongTermUse {
    /// Where it is.
    pub place: String,
    /// Whether it can be reached. Where not, reads are of the last snapshot, and offers wait.
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Entries in the snapshot.
    pub entries: usize,
    /// Offers that wait for their commit.
    pub pending: usize,
    /// What was offered, in order.
    pub offers: Vec<OfferUse>,
    #[serde(skip)]
    watch: Option<Watch>,
}

/// An offer, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferUse {
    /// Its id.
    pub offer: OfferId,
    /// What it says.
    pub text: String,
    /// What became of it: there once it is committed.
    pub settlement: Option<Settlement>,
}

/// How to look again.
#[derive(Clone, Debug)]
struct Watch {
    link: Arc<Link>,
    tickets: Vec<Arc<Ticket>>,
}

impl PartialEq for LongTermUse {
    fn eq(&self, other: &Self) -> bool {
        let values = |used: &Self| (used.reachable, used.entries, used.pending);
        values(self) == values(other) && self.place == other.place && self.offers == other.offers
    }
}

impl LongTermUse {
    pub(crate) fn new(link: Arc<Link>, tickets: Vec<Arc<Ticket>>) -> Self {
        let mut used = Self { watch: Some(Watch { link, tickets }), ..Self::default() };
        used.look();
        used
    }

    /// Looks again what has become of the offers.
    pub fn look(&mut self) {
        let Some(Watch { link, tickets }) = &self.watch else { return };
        let state = link.state();
        self.offers = tickets
            .iter()
            .map(|ticket| OfferUse {
                offer: ticket.id,
                text: ticket.text.clone(),
                settlement: ticket.settlement(),
            })
            .collect();
        self.pending = self.offers.iter().filter(|offer| offer.settlement.is_none()).count();
        (self.place, self.reachable) = (state.place, state.reachable);
        (self.error, self.entries) = (state.error, state.entries);
    }
}
