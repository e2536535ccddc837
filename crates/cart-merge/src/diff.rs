//! What differs between two cartridges, and by how much.
//!
//! [`DiffPlan`] pairs the tensors of two manifests; [`DiffPlan::run`] reads those that have other digests from a
//! [`Tensors`](crate::weights::Tensors), in chunks on all cores, and gives a [`TensorDelta`] for each. [`RollUp`] adds these up by
//! layer and module. [`TokenizerDiff`], [`MemoryDiff`] and [`field_changes`] compare what is no tensor.

mod classes;
mod error;
mod fields;
mod histogram;
mod kernel;
mod lines;
mod memory;
mod module;
mod plan;
mod rank;
pub(crate) mod reading;
mod rollup;
mod run;
mod sums;
mod tokenizer;

pub use classes::{Effect, Magnitude};
pub use error::DiffError;
pub use fields::{FieldChange, field_changes};
pub use histogram::Histogram;
pub use lines::{Line, LineKind, line_changes};
pub use memory::{
    CounterChange, GoalChange, LinkChange, MemoryDiff, MemoryNumbers, SlotChange, SlotFacts,
    SlotMove, SlotWeights, SurpriseChange,
};
pub use module::{Module, Place};
pub use plan::{DiffPlan, Lone, Pair, Renamed, Reshaped};
pub use rollup::{Cell, LayerTotal, ModuleTotal, RollUp, Total};
pub use run::{DiffOptions, Numbers, TensorDelta};
pub use tokenizer::{MergesDiff, Renumbered, TokenChange, TokenizerDiff, TokenizerInput};
