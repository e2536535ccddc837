//! A swap for which there is no memory beside what runs: that is unloaded first.
//!
//! Streams end, requests wait in the queue, and the loop waits with them for what is loaded in the meantime: the new
//! cartridge, or the old one again.

use std::sync::Arc;
use std::time::Instant;

use cart_store::Cartridge;

use super::flip::Streams;
use super::owner::{Command, Incoming, Next, Owner};
use super::resident::Resident;
use super::stream::{StreamError, StreamEvent};
use crate::swap::candidate::millis_since;
use crate::swap::moving::Remembered;
use crate::swap::{InFlight, SwapError, SwapReport, SwapSide};
use crate::sync::mpsc::Sender;

/// What ran before, without what takes memory.
pub(super) struct Unloaded {
    pub(super) side: SwapSide,
    pub(super) cartridge: Cartridge,
    pub(super) remembered: Remembered,
}

impl Unloaded {
    pub(super) fn of(resident: &Resident) -> Self {
        Self {
            side: resident.side(),
            cartridge: resident.cartridge().clone(),
            remembered: Remembered::of(resident.agent()),
        }
    }
}

/// What takes the place of what was unloaded.
pub(super) enum Replacement {
    /// The new cartridge; what ran before it.
    New(Box<Incoming>, SwapSide, Sender<SwapReport>),
    /// What was unloaded, loaded again.
    Same(Resident),
}

/// That everything is to be unloaded as soon as nothing runs.
pub(super) struct Unloading {
    /// Where the generations go, for whoever has the time to unmap them.
    pub(super) reply: Sender<Vec<Arc<Resident>>>,
    pub(super) since: Instant,
}

impl Owner {
    /// Whether everything is unloaded now, because nothing runs any more.
    pub(super) fn is_drained(&self) -> bool {
        self.unloading.is_some() && self.streams.is_empty() && self.readings.is_empty()
    }

    /// Unloads everything and waits for what comes in its place.
    pub(super) fn hold(&mut self) -> Next {
        let Some(Unloading { reply, since }) = self.unloading.take() else { return Next::Turn };
        self.watch = None;
        self.shared.unloaded();
        let generations = self.generations.unload();
        self.count_bytes();
        if let Err(unsent) = reply.send(generations) {
            drop(unsent);
        }
        let next = self.wait_for_replacement();
        // Nobody has waited for a place meanwhile, but for a cartridge.
        let held = since.elapsed();
        self.queue.iter_mut().for_each(|waiting| waiting.since += held);
        next
    }

    fn wait_for_replacement(&mut self) -> Next {
        let mut asked: Vec<Sender<Arc<Resident>>> = Vec::new();
        let next = loop {
            match self.inbox.recv() {
                Ok(Command::Replace { replacement }) => {
                    self.replace(*replacement);
                    break Next::Turn;
                }
                Ok(Command::Active { reply }) => asked.push(reply),
                Ok(Command::RollBack { reply, .. }) => {
                    drop(reply.send(Err(SwapError::NothingToRollBackTo)));
                }
                Ok(Command::CutOff { reply }) => drop(reply.send(self.cut_off_waiting())),
                Ok(Command::Loaded { reply }) => drop(reply.send(0)),
                Ok(Command::Stop) | Err(_) => return Next::Stop,
                // A request waits; nothing else needs a generation.
                Ok(command) => {
                    self.take(command);
                }
            }
        };
        for reply in asked {
            let _ = reply.send(Arc::clone(self.generations.active()));
        }
        next
    }

    fn replace(&mut self, replacement: Replacement) {
        match replacement {
            Replacement::Same(resident) => self.generations.begin(Arc::new(resident)),
            Replacement::New(incoming, from, reply) => {
                let begun = Instant::now();
                let Incoming { name, cartridge, warm, memory, in_flight: _ } = *incoming;
                let (number, took) = (self.generations.next_number(), warm.took);
                let to = Arc::new(Resident::new(name, number, warm, cartridge));
                self.generations.begin(to);
                let pause = millis_since(begun);
                let streams = Streams::default();
                let report = self.report(from, InFlight::Finish, memory, streams, pause, took);
                self.begin_settling(report, Box::new(move |report| drop(reply.send(report))), None);
            }
        }
        self.publish();
    }

    /// Ends every request that waits, and says how many.
    pub(super) fn cut_off_waiting(&mut self) -> usize {
        let cut = self.queue.len();
        for mut waiting in self.queue.drain(..) {
            waiting.sink.deliver(StreamEvent::Failed(StreamError::ShuttingDown));
            self.ended.failed += 1;
        }
        cut
    }
}
