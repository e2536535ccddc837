//! Why a file is no low-rank delta.

use thiserror::Error;

use super::{LOW_RANK_BYTES, LOW_RANK_VERSION};
use crate::json::JsonError;
use crate::manifest::Version;
use crate::names::{NameError, TensorName};
use crate::safetensors::SafetensorsError;

/// Why a file is no low-rank delta.
#[derive(Debug, Error)]
pub enum LowRankError {
    /// Not a safetensors file, cut short, or too long.
    #[error("the file is damaged, or no low-rank delta: {0}")]
    Safetensors(#[from] SafetensorsError),
    /// Safetensors, but something else.
    #[error("this is a safetensors file, but no low-rank delta")]
    Foreign,
    /// More than is read.
    #[error("the file has {found} bytes; allowed: {LOW_RANK_BYTES}")]
    TooLarge {
        /// Its length.
        found: u64,
    },
    /// The header names another version.
    #[error(
        "the low-rank delta has layout version {found}; this cart reads up to {}.x: update cart",
        LOW_RANK_VERSION.major
    )]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// The header is not the one that goes with the index.
    #[error("the header differs from the index from byte {at} on; the file was edited")]
    Header {
        /// The first byte that differs.
        at: u64,
    },
    /// The index is damaged.
    #[error("the index has another SHA-256 than the header says; the file is damaged")]
    IndexDigest,
    /// The index is not canonical JSON.
    #[error("the index: {0}")]
    Index(JsonError),
    /// The index has other fields.
    #[error("the index: {0}")]
    Fields(serde_json::Error),
    /// A part of a tensor is damaged.
    #[error("`{name}`, {part}, has another SHA-256 than the index says; get the file again")]
    Damaged {
        /// The tensor.
        name: TensorName,
        /// Which part: up, down or values.
        part: &'static str,
    },
    /// A tensor can't be used.
    #[error("`{name}` is in the delta {what}")]
    Tensor {
        /// The tensor.
        name: TensorName,
        /// In which way.
        what: &'static str,
    },
    /// A name is too long for what is added to it.
    #[error(transparent)]
    Name(#[from] NameError),
}
