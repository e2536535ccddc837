//! Why a snapshot is refused.

use cart_format::DType;
use thiserror::Error;

use super::state::VERSION;
use crate::Tick;
use crate::config::ConfigError;
use crate::graph::Link;
use crate::normalization::NormalizationError;
use crate::slot::{SlotId, SlotRef};
use crate::unified::ForeignSpace;
use crate::vector::VectorError;

/// Why a snapshot is no memory.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It belongs to another space.
    #[error(transparent)]
    ForeignSpace(#[from] ForeignSpace),
    /// The state has a field that is unknown, missing or of another kind.
    #[error("the memory's state can't be read")]
    State {
        /// What the reader said, with the field's name.
        #[source]
        source: serde_json::Error,
    },
    /// The state is of another version.
    #[error("the memory's state is of version {found}; this program reads up to version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The state is written in a version that is not the lowest that holds it.
    #[error("the memory's state says version {found}, but what it holds is of version {lowest}")]
    OtherVersion {
        /// The version found.
        found: u32,
        /// The version that it should say.
        lowest: u32,
    },
    /// The association graph is none that the rules make.
    #[error("the association graph {0}")]
    Graph(#[from] GraphProblem),
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Centre and scale can't be used.
    #[error(transparent)]
    Normalization(#[from] NormalizationError),
    /// Vectors can't be used.
    #[error("tensor `{tensor}`: {problem}")]
    Vector {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        #[source]
        problem: VectorError,
    },
    /// A tensor that the state needs is not there.
    #[error("tensor `{name}` is missing; the state has slots whose vectors it holds")]
    MissingTensor {
        /// Its name.
        name: &'static str,
    },
    /// A tensor that the state has no use for, or one twice.
    #[error("tensor `{name}` is there, but the state has no use for it")]
    StrayTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another type or shape than the state asks for.
    #[error("tensor `{name}` is {dtype} {shape:?}, expected {expected_dtype} {expected_shape:?}")]
    Layout {
        /// Its name.
        name: String,
        /// Type found.
        dtype: DType,
        /// Shape found.
        shape: Vec<u64>,
        /// Type expected.
        expected_dtype: DType,
        /// Shape expected.
        expected_shape: Vec<u64>,
    },
    /// A tensor has another number of bytes than its shape asks for.
    #[error("tensor `{name}` has {found} bytes, expected {expected}")]
    Bytes {
        /// Its name.
        name: String,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: u64,
    },
    /// Values in rows that belong to no slot.
    #[error("tensor `{name}` has values at byte {byte}, in a row that belongs to no slot")]
    StrayRow {
        /// Its name.
        name: &'static str,
        /// The first byte that is not zero.
        byte: usize,
    },
    /// A slot can't be.
    #[error("slot {slot}: {problem}")]
    Slot {
        /// The slot.
        slot: SlotRef,
        /// What is wrong.
        #[source]
        problem: SlotProblem,
    },
    /// A tick of the memory lies after its own present, or is over the largest.
    #[error("`{name}` is tick {found}; allowed: up to {most}")]
    Tick {
        /// Which tick.
        name: &'static str,
        /// Its value.
        found: Tick,
        /// The latest it may be.
        most: Tick,
    },
    /// The goal is longer than its cap.
    #[error("the goal is {found} long; allowed: up to `goal_cap` = {cap}")]
    Goal {
        /// Its length.
        found: f32,
        /// The cap.
        cap: f32,
    },
    /// The prompt's direction is no unit vector.
    #[error("the prompt's direction is {found} long; allowed: 1")]
    Prompt {
        /// Its length.
        found: f64,
    },
    /// Surprise statistics are not numbers, or the variance is negative.
    #[error(
        "surprise statistics are mean {mean}, variance {variance}; allowed: finite, variance 0 or more"
    )]
    Surprise {
        /// The mean.
        mean: f64,
        /// The variance.
        variance: f64,
    },
}

/// What is wrong with an association graph.
#[derive(Debug, Error, PartialEq)]
pub enum GraphProblem {
    /// There are links or activity, but no rules that make them.
    #[error("is there, but the setting `graph` is not")]
    NoRules,
    /// It says nothing, and is to be left out.
    #[error("is empty; leave it out")]
    Empty,
    /// A link that can't be, or is out of order.
    #[error(
        "has the link {} → {} of {}; allowed: in order, between two slots that are there, from `floor` to 1",
        .0.from, .0.to, .0.strength
    )]
    Link(Link),
    /// Too many links leave a slot.
    #[error("has more links from slot {slot} than `out_degree` = {most}")]
    Degree {
        /// The slot.
        slot: SlotId,
        /// Most links.
        most: u32,
    },
    /// An activity that can't be, or is out of order.
    #[error(
        "has slot {slot} active with {amount}; allowed: slots that are there, in order, over 0 to 1"
    )]
    Activity {
        /// The slot.
        slot: SlotId,
        /// How active it is said to be.
        amount: f32,
    },
    /// Ticks that don't follow each other.
    #[error(
        "was active at {previous} and {current} and decayed up to {decayed_at}; allowed: one after the other, up to tick {now}"
    )]
    Ticks {
        /// Of the activity before.
        previous: Tick,
        /// Of the latest activity.
        current: Tick,
        /// Up to which links have decayed.
        decayed_at: Tick,
        /// The memory's tick.
        now: Tick,
    },
}

/// What is wrong with a slot.
#[derive(Debug, Error, PartialEq)]
pub enum SlotProblem {
    /// Past the capacity of its store.
    #[error("its position {found} is past the capacity of {capacity}")]
    PositionTooLarge {
        /// The position.
        found: u32,
        /// Slots of the store.
        capacity: usize,
    },
    /// Slots come in order of position, each its own.
    #[error("its position {found} is not after the one before")]
    PositionOrder {
        /// The position.
        found: u32,
    },
    /// Two slots have one id.
    #[error("another slot has its id")]
    IdTaken,
    /// The id is one that is still to come.
    #[error("its id was never issued; the next is {next}")]
    IdNotIssued {
        /// The next id.
        next: u64,
    },
    /// A number out of its range.
    #[error("`{name}` is {found}")]
    Number {
        /// Which number.
        name: &'static str,
        /// Its value.
        found: f64,
    },
    /// A tick after the memory's present.
    #[error("`{name}` is tick {found}, after the memory's own {now}")]
    Tick {
        /// Which tick.
        name: &'static str,
        /// Its value.
        found: Tick,
        /// The memory's tick.
        now: Tick,
    },
    /// More tokens than a slot may have, or none and no text either.
    #[error("it has {found} tokens; allowed: up to {allowed}, and 0 only with a text")]
    Tokens {
        /// Tokens found.
        found: usize,
        /// Most tokens.
        allowed: u32,
    },
    /// Vectors that can't be used.
    #[error(transparent)]
    Vector(#[from] VectorError),
}
