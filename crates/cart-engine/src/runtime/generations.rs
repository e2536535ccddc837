//! The generations that are loaded: the active one, the one before, and those that streams end on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reading::Reading;
use super::resident::Resident;
use super::running::Running;
use crate::swap::SwapState;
use crate::sync::thread;
use cart_memory::UnifiedMemory;

/// How long a loop with nothing to do waits, where no rollback window ends earlier.
const LONG: Duration = Duration::from_hours(1);

/// The generations that are loaded.
pub(super) struct Generations {
    /// None while everything is unloaded.
    active: Option<Arc<Resident>>,
    previous: Option<Previous>,
    /// All that are not dropped, oldest first, these two included.
    all: Vec<Arc<Resident>>,
    window: Duration,
    last_number: u64,
}

/// What can be rolled back to.
struct Previous {
    resident: Arc<Resident>,
    until: Instant,
    since: Instant,
    /// What the active one remembered when it became active.
    before: Option<Arc<UnifiedMemory>>,
}

/// A generation that was active, and is no more because it was rolled back.
pub(super) struct Left {
    pub(super) from: Arc<Resident>,
    /// Since when it was active.
    pub(super) since: Instant,
    /// What it remembered then.
    pub(super) before: Option<Arc<UnifiedMemory>>,
}

impl Generations {
    pub(super) fn new(first: Arc<Resident>, window: Duration) -> Self {
        advance(&first, SwapState::Active);
        let last_number = first.generation();
        let all = vec![Arc::clone(&first)];
        Self { all, active: Some(first), previous: None, window, last_number }
    }

    /// The generation that new streams run on.
    pub(super) fn active(&self) -> &Arc<Resident> {
        self.current().expect("a loop without a generation only waits for one")
    }

    /// The same; none while everything is unloaded.
    pub(super) fn current(&self) -> Option<&Arc<Resident>> {
        self.active.as_ref()
    }

    /// Lets go of everything that is loaded; no stream runs.
    pub(super) fn unload(&mut self) -> Vec<Arc<Resident>> {
        self.previous = None;
        if let Some(active) = self.active.take() {
            advance(&active, SwapState::Draining);
        }
        let all = std::mem::take(&mut self.all);
        all.iter().for_each(|one| advance(one, SwapState::Dropped));
        all
    }

    /// Makes a warm generation the active one where nothing is loaded.
    pub(super) fn begin(&mut self, active: Arc<Resident>) {
        advance(&active, SwapState::Active);
        self.all.push(Arc::clone(&active));
        self.active = Some(active);
    }

    pub(super) fn all(&self) -> &[Arc<Resident>] {
        &self.all
    }

    /// What a rollback would go back to.
    pub(super) fn previous(&self) -> Option<&Arc<Resident>> {
        self.previous.as_ref().map(|previous| &previous.resident)
    }

    /// The number of the next generation.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Makes a warm generation the active one; returns the one before, which stays for a while.
    pub(super) fn activate(&mut self, to: Arc<Resident>) -> Arc<Resident> {
        advance(&to, SwapState::Active);
        self.all.push(Arc::clone(&to));
        let from = Arc::clone(self.active());
        self.active = Some(to);
        advance(&from, SwapState::Draining);
        let since = Instant::now();
        let (until, before) = (since + self.window, self.active().agent().memory());
        self.previous = Some(Previous { resident: Arc::clone(&from), until, since, before });
        from
    }

    /// Makes the generation before the active one; returns what was active, if there was one
    /// before.
    pub(super) fn roll_back(&mut self) -> Option<Left> {
        let Previous { resident: to, since, before, until: _ } = self.previous.take()?;
        advance(&to, SwapState::Active);
        let from = Arc::clone(self.active());
        self.active = Some(to);
        advance(&from, SwapState::Draining);
        Some(Left { from, since, before })
    }

    /// Drops the generations that nothing needs any more.
    pub(super) fn forget(&mut self, streams: &[Running], readings: &VecDeque<Box<Reading>>) {
        if self.all.len() <= 1 {
            return;
        }
        self.previous.take_if(|previous| previous.until <= Instant::now());
        let gone = self.let_go(streams, readings);
        if !gone.is_empty() {
            // Unmapping a model takes longer than a token, so it happens elsewhere; where there is
            // no thread to be had, it happens here.
            let _ = thread::Builder::new().name("cart-drop".to_owned()).spawn(|| drop(gone));
        }
    }

    /// Gives up what could be rolled back to; gives what nothing needs any more then.
    pub(super) fn forget_previous(
        &mut self,
        streams: &[Running],
        readings: &VecDeque<Box<Reading>>,
    ) -> Vec<Arc<Resident>> {
        self.previous = None;
        self.let_go(streams, readings)
    }

    fn let_go(
        &mut self,
        streams: &[Running],
        readings: &VecDeque<Box<Reading>>,
    ) -> Vec<Arc<Resident>> {
        let number = |one: &Arc<Resident>| one.generation();
        let kept = [self.current().map(number), self.previous().map(number)];
        let gone: Vec<Arc<Resident>> = self
            .all
            .extract_if(.., |one| {
                let number = one.generation();
                let mut readings = readings.iter().map(|reading| reading.resident.generation());
                !kept.contains(&Some(number))
                    && !streams.iter().any(|stream| stream.needs(number))
                    && !readings.any(|read| read == number)
            })
            .collect();
        for one in &gone {
            advance(one, SwapState::Dropped);
        }
        gone
    }

    /// How long a loop with nothing to do may wait.
    pub(super) fn next_look(&self) -> Duration {
        let left = |previous: &Previous| previous.until.saturating_duration_since(Instant::now());
        self.previous.as_ref().map_or(LONG, left).min(LONG)
    }
}

fn advance(resident: &Resident, to: SwapState) {
    let stepped = resident.lifecycle().step(to);
    stepped.expect("the owner activates what is warm and drops what has drained");
}
