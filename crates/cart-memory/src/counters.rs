//! How often things have happened.

use serde::{Deserialize, Serialize};

use crate::config::is_default;

/// How often things have happened since the memory was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Observations taken in.
    pub observations: u64,
    /// Short-term slots made.
    pub added: u64,
    /// Observations blended into a short-term slot.
    pub blended: u64,
    /// Short-term slots that left the ring.
    pub evicted: u64,
    /// Consolidations, of whichever kind.
    pub consolidated: u64,
    /// Of these, merged into an entry that said the same.
    pub merged: u64,
    /// Of these, put in the place of another entry.
    pub replaced: u64,
    /// Offers that long-term memory did not take.
    pub outranked: u64,
    /// Long-term slots that nobody asked for any more.
    pub pruned: u64,
    /// Recalls that touched at least one slot.
    pub recalls: u64,
    /// Offers that a surprise made.
    #[serde(default, skip_serializing_if = "is_default")]
    pub surprising: u64,
    /// Offers that the filter stopped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub withheld: u64,
    /// Offers that the filter took energy from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weakened: u64,
    /// Cycles between conversations.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cycles: u64,
    /// Slots that had too little energy left after a cycle.
    #[serde(default, skip_serializing_if = "is_default")]
    pub faded: u64,
}

impl Counters {
    /// Adds up.
    pub(crate) fn add(&mut self, other: &Self) {
        let mut sum = |own: fn(&mut Self) -> &mut u64| {
            let mut other = *other;
            *own(self) += *own(&mut other);
        };
        sum(|counters| &mut counters.observations);
        sum(|counters| &mut counters.added);
        sum(|counters| &mut counters.blended);
        sum(|counters| &mut counters.evicted);
        sum(|counters| &mut counters.consolidated);
        sum(|counters| &mut counters.merged);
        sum(|counters| &mut counters.replaced);
        sum(|counters| &mut counters.outranked);
        sum(|counters| &mut counters.pruned);
        sum(|counters| &mut counters.recalls);
        sum(|counters| &mut counters.surprising);
        sum(|counters| &mut counters.withheld);
        sum(|counters| &mut counters.weakened);
        sum(|counters| &mut counters.cycles);
        sum(|counters| &mut counters.faded);
    }

    /// Whether something has happened that version 1 of the state did not count.
    pub(crate) fn has_later_counts(&self) -> bool {
        self.surprising + self.withheld + self.weakened + self.cycles + self.faded > 0
    }
}
