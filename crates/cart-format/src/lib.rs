//! The cartridge format: bytes on one side, typed manifests on the other.
//!
//! Everything here is a pure function of bytes. There are no files, no clock and no chance in this
//! crate, so that the same content gives the same id on every machine (`spec/10-identity.md`).
//!
//! Begin with [`Manifest`] (what a cartridge is), [`BlobId`] and [`ManifestId`] (what things are
//! called), [`DType`] and [`TensorEntry`] (what the numbers are), [`ArchSpec`] (what the model
//! computes) and [`json`] (the one way in which documents are written).

pub mod arch;
pub mod blocks;
pub mod cartfile;
pub mod codec;
mod commit;
mod digest;
mod dtype;
mod finite;
pub mod gguf;
mod head;
pub mod json;
pub mod limits;
pub mod low_rank;
mod manifest;
mod names;
pub mod packed;
pub mod safetensors;
mod sha256;

pub use arch::ArchSpec;
pub use commit::{Commit, CommitError, Probe, ProbeStep, Recipe, TokenLogprob};
pub use digest::{
    BasisId, BlobId, ChunkId, CommitId, IdError, ManifestId, MemoryId, SegmentId, SpaceId,
};
pub use dtype::{DType, DTypeError};
pub use finite::first_not_finite;
pub use manifest::{
    BlobEntry, BlockedTensor, FORMAT_VERSION, LAYERS_VERSION, Manifest, ManifestError,
    MemoryLayersSection, MemorySection, ModelSection, Origin, OriginFile, OriginKind,
    PARTS_VERSION, Piece, SESSION_VERSION, SessionSection, SpecialTokens, TensorEntry,
    TokenizerSection, Version,
};
pub use names::{NameError, TensorName};
pub use sha256::Hasher;
