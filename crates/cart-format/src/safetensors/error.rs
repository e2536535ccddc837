//! Why bytes are not a safetensors file.

use std::ops::Range;

use thiserror::Error;

use crate::dtype::{DType, DTypeError};
use crate::head::codes;
use crate::limits::{DIMENSIONS, HEADER_BYTES, TENSORS};
use crate::names::{NameError, TensorName};

/// Why bytes are not a safetensors file.
#[derive(Debug, Error)]
pub enum SafetensorsError {
    /// No room for the header's length.
    #[error("the file has {found} bytes; a safetensors file has at least 10")]
    TooShort {
        /// Its length.
        found: u64,
    },
    /// The header's length is over the limit.
    #[error(
        "the header claims {found} bytes; allowed: {HEADER_BYTES}. Is this a safetensors file?"
    )]
    HeaderTooLarge {
        /// The claimed length.
        found: u64,
    },
    /// The file ends inside its header.
    #[error("the header claims to end at byte {end}, but the file has {len}; it was cut short")]
    HeaderTruncated {
        /// Where the header would end.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The header is not an object.
    #[error(
        "the header begins with byte 0x{found:02x}; allowed: `{{`. Is this a safetensors file?"
    )]
    Start {
        /// Its first byte.
        found: u8,
    },
    /// The header is not JSON of the right form.
    #[error("the header can't be read: {0}")]
    Header(#[source] serde_json::Error),
    /// A name comes twice.
    #[error("the header lists tensor `{name}` twice")]
    DuplicateTensor {
        /// The name.
        name: TensorName,
    },
    /// A name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Over the limit.
    #[error("the header lists {found} tensors; allowed: {TENSORS}")]
    TooManyTensors {
        /// How many.
        found: u64,
    },
    /// Over the limit.
    #[error("tensor `{name}` has {found} dimensions; allowed: {DIMENSIONS}")]
    TooManyDimensions {
        /// The tensor.
        name: TensorName,
        /// How many.
        found: u64,
    },
    /// An element type that this version does not know.
    #[error("tensor `{name}`: {source}")]
    UnknownDType {
        /// The tensor.
        name: TensorName,
        /// The reason, with the type's name.
        source: DTypeError,
    },
    /// Shape and element type don't give a size.
    #[error("tensor `{name}`: {source}")]
    Shape {
        /// The tensor.
        name: TensorName,
        /// The reason.
        source: DTypeError,
    },
    /// Ends before it begins.
    #[error("tensor `{name}` claims to begin at byte {begin} of the data and to end at {end}")]
    Backwards {
        /// The tensor.
        name: TensorName,
        /// Its first byte.
        begin: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Another size than shape and element type give.
    #[error("tensor `{name}` ({dtype} {shape:?}) needs {needed} bytes, but claims {found}")]
    Size {
        /// The tensor.
        name: TensorName,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes by shape.
        needed: u64,
        /// Bytes claimed.
        found: u64,
    },
    /// Goes beyond the end of the file.
    #[error(
        "tensor `{name}` claims bytes {claimed:?} of the data, but the data ends at {end}; the file was cut short or the header is damaged"
    )]
    OutOfBounds {
        /// The tensor.
        name: TensorName,
        /// Its bytes.
        claimed: Range<u64>,
        /// Bytes of data.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap at byte {at} of the data")]
    Overlap {
        /// The one that begins first.
        first: TensorName,
        /// The other.
        second: TensorName,
        /// Where the other begins.
        at: u64,
    },
    /// Bytes before a tensor that belong to none.
    #[error("bytes {hole:?} of the data, before tensor `{before}`, belong to no tensor")]
    Hole {
        /// The bytes.
        hole: Range<u64>,
        /// The tensor that follows.
        before: TensorName,
    },
    /// Bytes after the last tensor.
    #[error("the tensors end at byte {end} of the data, but the file goes on to {found}")]
    Trailing {
        /// Where the last tensor ends.
        end: u64,
        /// Bytes of data.
        found: u64,
    },
}

codes! { SafetensorsError {
    TooShort => "too_short",
    HeaderTooLarge => "header_too_large",
    HeaderTruncated => "header_truncated",
    Start => "start",
    Header => "header",
    DuplicateTensor => "duplicate_tensor",
    Name => "name",
    TooManyTensors => "too_many_tensors",
    TooManyDimensions => "too_many_dimensions",
    UnknownDType => "unknown_dtype",
    Shape => "shape",
    Backwards => "backwards",
    Size => "size",
    OutOfBounds => "out_of_bounds",
    Overlap => "overlap",
    Hole => "hole",
    Trailing => "trailing",
} }
