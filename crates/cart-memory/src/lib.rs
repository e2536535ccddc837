//! The memory of an agent: short-term, long-term, observer, goal and gates, as state machines over
//! numbers.
//!
//! There are no files, no clock and no chance in this crate. Ticks, seeds and observations are
//! arguments, and the same calls give the same bits on every machine: sums run in a fixed order,
//! and exponentials and logarithms come from `libm`.
//!
//! Begin with [`UnifiedMemory`], which holds everything; [`Observation`], which it is told;
//! [`MemoryEvent`], which it answers; [`Recalled`] and [`Neighbour`], by which it reaches a model's
//! output; [`Input`], which is anything that can be done to it, for [`log`]s and [`trace`]s; and
//! [`MemorySnapshot`], by which it is saved.

mod addressing;
pub mod affine;
mod associate;
mod bank;
mod codes;
pub mod config;
mod contradiction;
mod correction;
mod counters;
mod cycle;
mod dream;
mod event;
mod filter;
mod fusion;
pub mod gate;
mod goal;
mod graph;
mod input;
mod join;
mod kernel;
mod knn;
mod late;
pub mod log;
mod lookup;
mod ltm;
mod normalization;
mod observation;
mod observer;
mod page;
mod recall;
mod reflect;
mod relocation;
mod report;
mod search;
mod seeded;
mod shared;
mod shuffle;
mod sketch;
mod slot;
mod slot_report;
mod snapshot;
mod stm;
mod surprise;
pub mod trace;
mod unified;
mod union;
mod vector;

pub use addressing::Addressed;
pub use associate::{Associated, Chain};
pub use config::{ConfigError, MemoryConfig};
pub use counters::Counters;
pub use dream::{DreamCheck, DreamError, DreamOptions, DreamReport, Merged};
pub use event::{Cause, Flag, Intake, MemoryEvent, Near, Share};
pub use fusion::{FusionError, fuse};
pub use goal::Goal;
pub use graph::Link;
pub use input::{Answer, Input, Outcome};
pub use join::{Contradiction, Grown, JoinError, JoinReport, OnContradiction, join};
pub use knn::{Neighbour, NextTokenQuery};
pub use late::TokenQuery;
pub use normalization::{Normalization, NormalizationError};
pub use observation::{MAX_CYCLES, MAX_TICK, MemoryError, Observation};
pub use observer::{Counterfactual, Perturbation};
pub use recall::Recalled;
pub use reflect::{Novelty, Reflection};
pub use relocation::{GoalRelocated, Relocated, RelocationError};
pub use report::{MemoryReport, Spread, StoreReport};
pub use shared::{Offered, Settlement};
pub use slot::{
    Consolidation, KeyStatistics, Slot, SlotId, SlotRef, SlotValue, StoreKind, Tick, TokenKeys,
    Validity,
};
pub use slot_report::SlotReport;
pub use snapshot::{
    GraphProblem, MemorySnapshot, MemoryTensor, RestoreError, SlotProblem, SlotRecord,
};
pub use surprise::{SurpriseStatistics, energy_from_surprise};
pub use unified::{ForeignSpace, UnifiedMemory};
pub use union::UnionReport;
pub use vector::VectorError;
