//! A memory as a document and tensors, and back, without losing a bit (spec 30).
//!
//! Numbers that are many are tensors; the rest is a JSON state. A slot keeps its row for life, and
//! tensors are cut into row blocks, so that one more slot changes one block of each tensor. What
//! can be computed (unit keys) is not saved.

mod error;
mod layout;
mod record;
mod restore;
mod state;

use cart_format::{DType, Hasher, MemoryId, SpaceId, json};

use crate::UnifiedMemory;
use crate::unified::ForeignSpace;
pub use error::{GraphProblem, RestoreError, SlotProblem};
use layout::{StoreTensors, bytes_of_f32};
pub use record::SlotRecord;
use state::State;

/// A memory's whole state.
#[derive(Clone, Debug, PartialEq)]
pub struct MemorySnapshot {
    /// What produced the vectors.
    pub space: SpaceId,
    /// Values in a key.
    pub dim: u64,
    /// Settings, slots without their vectors, counters and statistics. Every number in it has a
    /// canonical form.
    pub state: serde_json::Value,
    /// The vectors, sorted by name. Tensors without rows are left out.
    pub tensors: Vec<MemoryTensor>,
}

/// Vectors of a memory.
#[derive(Clone, PartialEq, Eq)]
pub struct MemoryTensor {
    /// Its name, such as `ltm.keys`.
    pub name: String,
    /// Type of its values.
    pub dtype: DType,
    /// Shape, in C order. The first axis is rows.
    pub shape: Vec<u64>,
    /// Rows that are stored together.
    pub rows_per_block: u64,
    /// Little-endian values.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for MemoryTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, dtype, shape, rows_per_block, bytes } = self;
        let bytes = bytes.len();
        write!(f, "{name}: {dtype} {shape:?}, {rows_per_block} rows a block, {bytes} bytes")
    }
}

impl MemoryTensor {
    /// The bytes of each row block, in order; the last may be shorter.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        let rows = self.shape.first().copied().unwrap_or(0).max(1) as usize;
        let block = self.bytes.len() / rows * self.rows_per_block as usize;
        self.bytes.chunks(block.max(1))
    }

    fn vector(name: &str, values: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: vec![values.len() as u64],
            rows_per_block: values.len() as u64,
            bytes: bytes_of_f32(values),
        }
    }
}

impl MemorySnapshot {
    /// Refuses another space.
    ///
    /// # Errors
    /// The snapshot's vectors do not belong to `expected`.
    pub fn require_space(&self, expected: SpaceId) -> Result<(), ForeignSpace> {
        if self.space == expected {
            return Ok(());
        }
        Err(ForeignSpace { found: self.space, expected })
    }

    /// SHA-256 over the space, the canonical state, and the name, type, shape and bytes of each tensor:
    /// two memories with one id are equal in every bit (spec 30 §4).
    pub fn id(&self) -> MemoryId {
        let mut hasher = Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.space.as_bytes());
        part(&json::to_canonical(&self.state).expect("a state's numbers have canonical forms"));
        for MemoryTensor { name, dtype, shape, bytes, .. } in &self.tensors {
            part(format!("{name} {dtype} {shape:?}").as_bytes());
            part(bytes);
        }
        MemoryId::from_bytes(hasher.finish())
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Option<&MemoryTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl UnifiedMemory {
    /// Everything, exactly: [`UnifiedMemory::restore`] gives back an equal memory, and its snapshot
    /// is this one again.
    pub fn snapshot(&self) -> MemorySnapshot {
        let mut tensors = vec![
            MemoryTensor::vector("centre", self.normalization.centre()),
            MemoryTensor::vector("goal", self.goal.vector()),
            MemoryTensor::vector("scale", self.normalization.scale()),
        ];
        for (store, bank) in self.stores() {
            tensors.extend(StoreTensors::of(store, bank, self).into_tensors());
        }
        if let Some(prompt) = self.goal.prompt() {
            tensors.push(MemoryTensor::vector("prompt", prompt));
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        MemorySnapshot {
            space: self.space,
            dim: self.dim() as u64,
            state: serde_json::to_value(State::of(self))
                .expect("the state has only text keys and finite numbers"),
            tensors,
        }
    }

    /// The memory of a snapshot. Nothing is believed: shapes, sizes, ranges and references are
    /// checked.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn restore(snapshot: &MemorySnapshot) -> Result<Self, RestoreError> {
        restore::restore(snapshot)
    }

    /// As [`UnifiedMemory::restore`], for a model whose vectors belong to `space`.
    ///
    /// # Errors
    /// The snapshot belongs to another space, or something does not fit.
    pub fn restore_for(snapshot: &MemorySnapshot, space: SpaceId) -> Result<Self, RestoreError> {
        snapshot.require_space(space)?;
        restore::restore(snapshot)
    }
}
