//! The slots nearest to a key.

use super::Bank;
use crate::Tick;
use crate::slot::Slot;

/// The slots nearest to a key, by whether they may take what comes with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearby {
    /// Of those that may take it and hold.
    holding: Option<Nearest>,
    /// Of those that may take it and have ended.
    ended: Option<Nearest>,
    /// Of those that may not take it.
    pub(crate) other: Option<Nearest>,
}

impl Nearby {
    /// The slot that takes what holds: one that holds, or else one that has ended, which then holds
    /// again.
    ///
    /// * `least`: the cosine from which a slot is near enough
    pub(crate) fn taker(&self, least: f32) -> Option<Nearest> {
        let near = |found: Option<Nearest>| found.filter(|near| near.cosine >= least);
        near(self.holding).or(near(self.ended))
    }

    /// The slot that takes what has ended: never one that holds.
    pub(crate) fn taker_of_ended(&self, least: f32) -> Option<Nearest> {
        self.ended.filter(|near| near.cosine >= least)
    }
}

/// A position and its cosine with what was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Nearest {
    pub(crate) position: usize,
    pub(crate) cosine: f32,
}

impl Nearby {
    /// * `takes`: whether the slot may take it
    pub(super) fn offer(
        &mut self,
        bank: &Bank,
        (near, slot): (Nearest, &Slot),
        takes: bool,
        at: Tick,
    ) {
        let best = match (takes, slot.validity.holds(at)) {
            (true, true) => &mut self.holding,
            (true, false) => &mut self.ended,
            (false, _) => &mut self.other,
        };
        if best.is_none_or(|best: Nearest| {
            near.cosine > best.cosine
                || near.cosine == best.cosine && slot.id < bank.slot(best.position).id
        }) {
            *best = Some(near);
        }
    }
}
