//! What a memory did, as values for logs and reports.

use serde::{Deserialize, Serialize};

use crate::{SlotId, SlotRef, Tick};

/// A slot and how near it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Near {
    /// The slot.
    pub slot: SlotId,
    /// Cosine over normalized keys.
    pub cosine: f32,
}

/// Why a slot was offered to long-term memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The observer chose it.
    Observer,
    /// It was about to leave short-term memory.
    Eviction,
}

/// How long-term memory took a slot in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Intake {
    /// As a new entry, in a free position.
    Inserted,
    /// Blended into the entry that says the same.
    Merged {
        /// Cosine of the two before.
        cosine: f32,
    },
    /// As a new entry, in place of the one worth least.
    Replaced {
        /// The entry that left.
        slot: SlotId,
        /// What it was worth: σ(A) · energy.
        gated_energy: f32,
    },
}

/// One thing that a memory did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MemoryEvent {
    /// A new short-term slot.
    Added {
        /// The slot.
        slot: SlotId,
        /// Its energy.
        energy: f32,
        /// The nearest slot with another text, where it is near enough that only the text kept
        /// the two apart.
        kept_apart: Option<Near>,
    },
    /// An observation went into a short-term slot that says the same.
    Blended {
        /// The slot.
        slot: SlotId,
        /// Cosine of the two before.
        cosine: f32,
        /// The slot's energy before.
        energy_before: f32,
        /// The slot's energy now.
        energy: f32,
    },
    /// The oldest short-term slot left the full ring.
    Evicted {
        /// The slot.
        slot: SlotId,
        /// What it said.
        text: String,
        /// What it was worth: σ(A) · energy.
        gated_energy: f32,
        /// The long-term slot that keeps it; none where it was not worth keeping and is gone.
        in_ltm: Option<SlotId>,
    },
    /// A short-term slot went into long-term memory.
    Consolidated {
        /// The short-term slot.
        from: SlotId,
        /// The long-term slot.
        into: SlotId,
        /// How.
        intake: Intake,
        /// What it was worth: σ(A) · energy.
        gated_energy: f32,
        /// Why now.
        cause: Cause,
    },
    /// Long-term memory is full of slots worth more.
    Outranked {
        /// The short-term slot.
        slot: SlotId,
        /// What it was worth: σ(A) · energy.
        gated_energy: f32,
        /// The least that a long-term slot is worth.
        least: f32,
    },
    /// The goal moved towards a consolidated entry.
    GoalMoved {
        /// The step's rate.
        rate: f32,
        /// The goal's length now.
        norm: f32,
        /// Cosine of the goal with what it was before; none for the first step.
        drift: Option<f32>,
    },
    /// A long-term slot that nobody asked for left.
    Pruned {
        /// The slot.
        slot: SlotId,
        /// What it said.
        text: String,
        /// Ticks since it was last written or read.
        idle: Tick,
    },
    /// A slot stopped holding.
    Superseded {
        /// The slot.
        slot: SlotRef,
        /// What took its place.
        by: SlotRef,
    },
}
