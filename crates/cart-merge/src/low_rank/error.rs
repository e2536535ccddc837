//! Why low-rank changes were not found or not added.

use cart_format::{DType, ManifestId, TensorName};
use thiserror::Error;

use crate::diff::DiffError;

/// Why the difference of two cartridges was not extracted.
#[derive(Debug, Error)]
pub enum ExtractionError {
    /// A tensor is on one side only, or has another shape there.
    #[error(
        "{what} `{tensor}` {how}; low rank is for the same tensors with other values; without --rank the delta is exact"
    )]
    Unlike {
        /// Tensor, or another part.
        what: &'static str,
        /// Its name.
        tensor: String,
        /// In which way the sides are unlike.
        how: String,
    },
    /// No weights differ.
    #[error(
        "the two have the same weights: there is nothing to extract; without --rank the delta has what else differs"
    )]
    Same,
    /// A value is infinite or no number.
    #[error("tensor `{tensor}` has values that are not finite; without --rank the delta is exact")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// A tensor can't be read, or somebody cancelled.
    #[error(transparent)]
    Read(#[from] DiffError),
}

/// Why low-rank changes don't fit a base.
#[derive(Debug, Error)]
pub enum AdditionError {
    /// The delta goes with another base.
    #[error("the delta goes with base {expected}, found {found}; nothing was changed")]
    WrongBase {
        /// The base that it goes with.
        expected: ManifestId,
        /// The one that was given.
        found: ManifestId,
    },
    /// The base lacks a tensor.
    #[error(
        "the delta changes tensor `{tensor}`, which the base lacks; it was made for another model"
    )]
    Missing {
        /// The tensor.
        tensor: TensorName,
    },
    /// The base's tensor has another shape.
    #[error(
        "the delta is for a tensor `{tensor}` of shape {delta:?}, but the base's has {base:?}; it was made for another model"
    )]
    Shape {
        /// The tensor.
        tensor: TensorName,
        /// Its shape by the delta.
        delta: Vec<u64>,
        /// Its shape in the base.
        base: Vec<u64>,
    },
    /// Values of the base's tensor are not known.
    #[error(
        "tensor `{tensor}` is {dtype}, to whose values nothing can be added; allowed: f32, f16, bf16 and GGUF's blocks of known values"
    )]
    Unknown {
        /// The tensor.
        tensor: TensorName,
        /// Its type.
        dtype: DType,
    },
    /// Values can't be packed into the base's type again.
    #[error(
        "tensor `{tensor}` is {dtype}, into which cart does not quantize; --keep-float leaves it float"
    )]
    Unwritable {
        /// The tensor.
        tensor: TensorName,
        /// Its type.
        dtype: DType,
    },
}
