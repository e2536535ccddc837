//! Why bytes are not a GGUF file that can be read.

use std::ops::Range;

use thiserror::Error;

use super::{ARRAY_DEPTH, KEY_BYTES, MAX_ALIGNMENT};
use crate::dtype::DTypeError;
use crate::head::codes;
use crate::limits::{DIMENSIONS, HEADER_BYTES};
use crate::names::{NameError, TensorName};

/// Why bytes are not a GGUF file that can be read.
#[derive(Debug, Error)]
pub enum GgufError {
    /// Not GGUF at all.
    #[error("the file begins with {found:?}; a GGUF file begins with \"GGUF\"")]
    Magic {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// Numbers in the other byte order.
    #[error("the file is big-endian GGUF; convert it to little-endian (gguf-convert-endian does)")]
    BigEndian,
    /// Another version.
    #[error("the file is GGUF version {found}; allowed: 2 and 3")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The file ends inside its head.
    #[error("{what} goes on to byte {end}, but the file ends at {len}; it was cut short")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it ends.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The head is over the limit.
    #[error("{what} goes on to byte {end}; a head may have {HEADER_BYTES} bytes")]
    HeadTooLarge {
        /// What was being read.
        what: String,
        /// Where it ends.
        end: u64,
    },
    /// Over a limit.
    #[error("the file lists {found} {what}; allowed: {allowed}")]
    TooMany {
        /// Tensors or entries.
        what: &'static str,
        /// How many.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// A key that is too long or empty.
    #[error("a metadata key has {found} bytes; allowed: 1 to {KEY_BYTES}")]
    Key {
        /// Its length.
        found: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: String,
    },
    /// A key comes twice.
    #[error("the metadata has the key `{key}` twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A number that stands for no kind of value.
    #[error("{what} is of kind {found}; allowed: 0 to 12")]
    ValueKind {
        /// What was being read.
        what: String,
        /// The number.
        found: u32,
    },
    /// A truth value that is neither.
    #[error("{what} is a truth value of {found}; allowed: 0 and 1")]
    Bool {
        /// What was being read.
        what: String,
        /// The byte.
        found: u8,
    },
    /// Arrays in arrays in arrays.
    #[error("{what} nests arrays deeper than {ARRAY_DEPTH}")]
    ArrayDepth {
        /// What was being read.
        what: String,
    },
    /// `general.alignment` makes no sense.
    #[error(
        "`general.alignment` is {found}; allowed: a u32 that is a power of two up to {MAX_ALIGNMENT}"
    )]
    Alignment {
        /// What was found.
        found: String,
    },
    /// A tensor's name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A tensor comes twice.
    #[error("the file lists tensor `{name}` twice")]
    DuplicateTensor {
        /// The name.
        name: TensorName,
    },
    /// Over the limit.
    #[error("tensor `{name}` has {found} dimensions; allowed: {DIMENSIONS}")]
    TooManyDimensions {
        /// The tensor.
        name: TensorName,
        /// How many.
        found: u32,
    },
    /// An element type that this version does not know.
    #[error("tensor `{name}` has the ggml type {found}, which this cart does not know")]
    UnknownType {
        /// The tensor.
        name: TensorName,
        /// The type's number.
        found: u32,
    },
    /// Shape and element type don't give a size.
    #[error("tensor `{name}`: {source}")]
    Shape {
        /// The tensor.
        name: TensorName,
        /// The reason.
        source: DTypeError,
    },
    /// An offset off the alignment.
    #[error(
        "tensor `{name}` begins at byte {offset} of the data; allowed: multiples of {alignment}"
    )]
    Misaligned {
        /// The tensor.
        name: TensorName,
        /// Its first byte.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// Goes beyond the end of the file.
    #[error(
        "tensor `{name}` claims {size} bytes from byte {offset} of the data, but the data ends at {end}; the file was cut short or the head is damaged"
    )]
    OutOfBounds {
        /// The tensor.
        name: TensorName,
        /// Its first byte.
        offset: u64,
        /// Its size.
        size: u64,
        /// Bytes of data.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap in bytes {shared:?} of the file")]
    Overlap {
        /// The one that begins first.
        first: TensorName,
        /// The other.
        second: TensorName,
        /// The bytes.
        shared: Range<u64>,
    },
}

codes! { GgufError {
    Magic => "magic",
    BigEndian => "big_endian",
    Version => "version",
    Truncated => "truncated",
    HeadTooLarge => "head_too_large",
    TooMany => "too_many",
    Key => "key",
    NotUtf8 => "not_utf8",
    DuplicateKey => "duplicate_key",
    ValueKind => "value_kind",
    Bool => "bool",
    ArrayDepth => "array_depth",
    Alignment => "alignment",
    Name => "name",
    DuplicateTensor => "duplicate_tensor",
    TooManyDimensions => "too_many_dimensions",
    UnknownType => "unknown_type",
    Shape => "shape",
    Misaligned => "misaligned",
    OutOfBounds => "out_of_bounds",
    Overlap => "overlap",
} }
