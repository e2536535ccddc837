//! Why an adapter can't be used.

use std::path::PathBuf;

use cart_format::arch::ArchError;
use cart_format::json::JsonError;
use cart_format::{DType, TensorName};
use thiserror::Error;

use crate::file_error::FileError;
use crate::import::ImportError;

/// Why an adapter can't be used.
#[derive(Debug, Error)]
pub enum AdapterError {
    /// The configuration is not JSON.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: JsonError,
    },
    /// A field of the configuration has a value that is not understood.
    #[error("adapter_config.json: `{field}` is {found}; allowed: {allowed}")]
    Field {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// Two patterns give a module different values.
    #[error(
        "adapter_config.json: more than one pattern of `{field}` fits module `{module}`, with different values"
    )]
    Ambiguous {
        /// The field.
        field: &'static str,
        /// The module.
        module: String,
    },
    /// A tensor of the adapter is no part of a LoRA.
    #[error(
        "the adapter's `{key}` is {why}; an adapter of LoRA has factors lora_A and lora_B for each module"
    )]
    Key {
        /// Its name.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tensor of a type without float values.
    #[error("the adapter's `{key}` is {dtype}; allowed: f32, f16, bf16")]
    DType {
        /// Its name.
        key: String,
        /// Its type.
        dtype: DType,
    },
    /// A value is infinite or no number.
    #[error("the adapter's `{key}` has a value that is not finite, element {element}")]
    NotFinite {
        /// Its name.
        key: String,
        /// Its index in C order.
        element: u64,
    },
    /// Factors that can't be multiplied.
    #[error(
        "the factors of `{key}` have shapes {a:?} (A) and {b:?} (B), which can't be multiplied"
    )]
    Factors {
        /// The target.
        key: String,
        /// The shape of A.
        a: Vec<u64>,
        /// The shape of B.
        b: Vec<u64>,
    },
    /// The base has no such tensor.
    #[error("the adapter changes `{key}`, which the base lacks; it was made for another model")]
    Missing {
        /// The target.
        key: String,
    },
    /// The base's tensor has another shape.
    #[error(
        "the adapter's `{key}` makes {found:?}, but the base's tensor `{tensor}` is {expected:?}; it was made for another model"
    )]
    Shape {
        /// The target.
        key: String,
        /// The base's tensor.
        tensor: TensorName,
        /// The shape by the adapter.
        found: Vec<u64>,
        /// The shape in the base.
        expected: Vec<u64>,
    },
    /// The adapter has another original than the base.
    #[error(
        "the adapter was saved with `{key}` as it was then, and the base's tensor `{tensor}` has other values; it was made for another model, or the vocabulary was resized"
    )]
    OtherBase {
        /// The target.
        key: String,
        /// The base's tensor.
        tensor: TensorName,
    },
    /// Nothing is changed.
    #[error("the adapter changes nothing: adapter_model.safetensors has no factors")]
    Empty,
    /// Rows of queries and keys would have to be ordered in a way that is not known.
    #[error(
        "the base orders the rows of `{tensor}` for rotary embedding of {dims} of {head_dim} dimensions, which no converter is known to do"
    )]
    Order {
        /// The tensor.
        tensor: String,
        /// Dimensions that are rotated.
        dims: u64,
        /// Width of a head.
        head_dim: u64,
    },
    /// The base's architecture can't be read.
    #[error(transparent)]
    Architecture(#[from] ArchError),
    /// A file of the adapter can't be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}
