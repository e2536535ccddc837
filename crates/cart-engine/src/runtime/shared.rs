//! What the token loop and its callers both see.

use std::sync::{Arc, PoisonError};

use super::state::{RuntimeState, SwapUnderWay};
use super::{RuntimeOptions, SubmitError};
use crate::Agent;
use crate::swap::{Lifecycle, SwapState, peak_rss};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// What the token loop and its callers both see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: RuntimeOptions,
    waiting: AtomicUsize,
    open: AtomicUsize,
    running: AtomicBool,
    state: Mutex<Arc<RuntimeState>>,
    /// The active agent: its long-term memory goes on while the token loop waits.
    active: Mutex<Option<Agent>>,
    swap: Mutex<Option<Pending>>,
}

/// The swap that is under way.
#[derive(Debug)]
struct Pending {
    name: String,
    lifecycle: Arc<Lifecycle>,
}

/// A place in the queue; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts a request from when it is taken until it has ended.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Shared>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to swap; the next one may when this is dropped.
#[derive(Debug)]
pub(super) struct SwapTurn {
    shared: Arc<Shared>,
    lifecycle: Arc<Lifecycle>,
}

impl SwapTurn {
    pub(super) fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }
}

impl Drop for SwapTurn {
    fn drop(&mut self) {
        // What did not become active is gone; what did refuses this step and stays.
        if self.lifecycle.state() < SwapState::Active {
            let _ = self.lifecycle.step(SwapState::Dropped);
        }
        *hold(&self.shared.swap) = None;
    }
}

impl Shared {
    pub(super) fn new(options: RuntimeOptions, state: RuntimeState, active: Agent) -> Self {
        Self {
            options,
            waiting: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            running: AtomicBool::new(true),
            state: Mutex::new(Arc::new(state)),
            active: Mutex::new(Some(active)),
            swap: Mutex::new(None),
        }
    }

    /// A place in the queue, if there is one.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<Place, SubmitError> {
        let most = self.options.max_queued;
        let taken = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < most).then_some(waiting + 1)
        });
        match taken {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(queued) => Err(SubmitError::Busy { queued }),
        }
    }

    /// Counts one more request.
    pub(super) fn open_ticket(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::AcqRel);
        Ticket(Arc::clone(self))
    }

    /// Requests that were taken and have not ended.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The right to swap, if nobody has it.
    pub(super) fn begin_swap(self: &Arc<Self>, name: &str) -> Option<SwapTurn> {
        let mut swap = hold(&self.swap);
        if swap.is_some() {
            return None;
        }
        let lifecycle = Arc::new(Lifecycle::default());
        *swap = Some(Pending { name: name.to_owned(), lifecycle: Arc::clone(&lifecycle) });
        Some(SwapTurn { shared: Arc::clone(self), lifecycle })
    }

    pub(super) fn publish(&self, state: RuntimeState, active: &Agent) {
        *hold(&self.state) = Arc::new(state);
        *hold(&self.active) = Some(active.clone());
    }

    /// Nothing is loaded until the next turn.
    pub(super) fn unloaded(&self) {
        *hold(&self.active) = None;
        let mut state = hold(&self.state);
        let now = Arc::make_mut(&mut state);
        now.active.state = SwapState::Dropped;
        (now.active.streams, now.streams) = (0, 0);
        now.generations.clear();
        now.rollback_to = None;
        now.watch.watching = None;
    }

    /// The state as of the last turn, with the swap, the queue and the long-term memory as they are now.
    pub(super) fn state(&self) -> Arc<RuntimeState> {
        let mut state = Arc::clone(&hold(&self.state));
        let swap = hold(&self.swap).as_ref().map(|pending| SwapUnderWay {
            name: pending.name.clone(),
            state: pending.lifecycle.state(),
        });
        let now = Arc::make_mut(&mut state);
        now.swap = swap;
        now.queued = self.waiting.load(Ordering::Acquire);
        now.long_term = hold(&self.active).as_ref().and_then(Agent::long_term);
        now.peak_rss_bytes = peak_rss();
        state
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    pub(super) fn stopped(&self) {
        self.running.store(false, Ordering::Release);
    }
}

/// Nothing that holds these locks panics, and their contents are whole at any time.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
