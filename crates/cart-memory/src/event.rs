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
    /// It came with a surprise.
    Surprise,
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
        /// Confidence of the self-diagnostic, where it is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confidence: Option<f32>,
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
    /// A slot that had stopped holding was said again, and holds.
    Reopened {
        /// The slot.
        slot: SlotRef,
    },
    /// Two slots that hold say something else under nearly the same key.
    Contradicted {
        /// The slot that was written.
        slot: SlotRef,
        /// The other.
        other: SlotRef,
        /// Cosine of their keys.
        cosine: f32,
    },
    /// An observation's surprise was weighed by the surprise-gated store.
    Surprised {
        /// The short-term slot that the observation went into.
        slot: SlotId,
        /// Deviations over the running mean, kept within what f32 holds.
        z: f32,
        /// Deviations that the store asked for.
        needed: f32,
        /// Whether it was offered to long-term memory for it.
        offered: bool,
    },
    /// The filter kept a slot from long-term memory.
    Withheld {
        /// The short-term slot.
        slot: SlotId,
        /// What it says.
        text: String,
        /// What flagged it.
        flag: Flag,
    },
    /// The filter took energy from a slot on its way into long-term memory.
    Weakened {
        /// The short-term slot.
        slot: SlotId,
        /// What it says.
        text: String,
        /// What flagged it.
        flag: Flag,
        /// The energy with which it was offered.
        energy: f32,
    },
    /// Cycles between two conversations passed.
    Cycled {
        /// How many.
        cycles: u32,
        /// Short-term slots that stayed.
        stm: u64,
        /// Long-term slots that stayed.
        ltm: u64,
    },
    /// A slot had too little energy left after a cycle.
    Faded {
        /// The slot.
        slot: SlotRef,
        /// What it said.
        text: String,
        /// The energy that was left.
        energy: f32,
    },
    /// A slot was offered to a long-term memory that many share, which has yet to take it.
    Offered {
        /// The short-term slot.
        slot: SlotId,
        /// What it was worth: σ(A) · energy.
        gated_energy: f32,
        /// Why now.
        cause: Cause,
    },
    /// Slots were read.
    Read {
        /// The slots with their shares of the read, which add up to 1.
        slots: Vec<Share>,
    },
}

/// A slot's share of a read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The slot.
    pub slot: SlotRef,
    /// Its share, 0 to 1.
    pub share: f32,
}

/// Why the filter flagged a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Flag {
    /// Its text has a listed word or phrase.
    Word {
        /// The entry of the list.
        word: String,
    },
    /// Its key lies near a listed centre.
    Neighbourhood {
        /// The place in the list.
        centre: u32,
        /// Cosine with it.
        cosine: f32,
    },
}
