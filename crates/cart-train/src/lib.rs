//! Training that ends in a cartridge.
//!
//! A [`Trainer`] makes steps over the variables of a graph: it refuses a tensor that no gradient
//! reaches, stops before a number that is not finite does harm, and goes on from a [`Checkpoint`] bit
//! for bit. What is learned is an [`Objective`]. [`agent::Agent`] is a small model from nothing but
//! text ([`Corpus`]); [`distill::Distillation`] is a student of a larger model, and
//! [`memory::MemoryTraining`] teaches memory layers. All chance follows from a seed and a place
//! ([`Chance`]).

pub mod agent;
mod birth;
mod cartridge;
mod chance;
mod checkpoint;
mod corpus;
pub mod distill;
mod error;
pub mod gates;
pub mod memory;
mod schedule;
mod trainer;

pub use cartridge::{NewModel, NewTensor, NewTokenizer};
pub use chance::Chance;
pub use checkpoint::{CHECKPOINT, Checkpoint};
pub use corpus::{Batch, Corpus};
pub use error::TrainError;
pub use schedule::Schedule;
pub use trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};
