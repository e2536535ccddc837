//! Why bytes are not a manifest.

use thiserror::Error;

use super::{FORMAT_VERSION, Version};
use crate::digest::BlobId;
use crate::dtype::{DType, DTypeError};
use crate::head::codes;
use crate::json::JsonError;

/// Why bytes are not a manifest that this version can use.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not a canonical document.
    #[error("the manifest is damaged or foreign: {0}")]
    Json(#[from] JsonError),
    /// No `cart` field with a version.
    #[error(
        "the document is not a cart manifest: its field `cart` is {found}; allowed: a version such as \"1.0\""
    )]
    NotAManifest {
        /// What the field holds.
        found: String,
    },
    /// A major version of the future.
    #[error("the manifest has format version {found}; this cart reads up to {}.x: update cart", FORMAT_VERSION.major)]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// A feature that must be understood and is not.
    #[error(
        "the manifest needs the feature `{feature}`, which this cart does not know: update cart"
    )]
    UnknownCritical {
        /// The feature.
        feature: String,
    },
    /// A field is missing, unknown in kind, or of the wrong type.
    #[error("the manifest does not fit its schema: {0}")]
    Schema(#[source] serde_json::Error),
    /// Over a limit.
    #[error("the manifest lists {found} {what}; allowed: {allowed}")]
    TooMany {
        /// Tensors, dimensions, files.
        what: &'static str,
        /// How many.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// A blob is named, but not in the table of blobs.
    #[error("{what} names blob {blob}, which is not in the manifest's table of blobs")]
    UnlistedBlob {
        /// Who names it.
        what: String,
        /// The blob.
        blob: BlobId,
    },
    /// A blob is in the table, but nothing names it.
    #[error("the manifest lists blob {blob}, which nothing in it uses")]
    UnusedBlob {
        /// The blob.
        blob: BlobId,
    },
    /// Shape and element type don't give a size.
    #[error("tensor `{tensor}`: {source}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The reason.
        source: DTypeError,
    },
    /// Shape and element type give another size than the blob has.
    #[error("tensor `{tensor}` ({dtype} {shape:?}) needs {needed} bytes, but its blob has {found}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes by shape.
        needed: u64,
        /// Bytes of the blob.
        found: u64,
    },
    /// A blob's list of segments does not fit its size.
    #[error("blob {blob} of {size} bytes lists {found} segments; allowed: {allowed}")]
    Segments {
        /// The blob.
        blob: BlobId,
        /// Its size.
        size: u64,
        /// Segments listed.
        found: u64,
        /// Segments that its size asks for.
        allowed: u64,
    },
    /// A section that the manifest's version does not have yet.
    #[error("the manifest has a `{section}`, but says version {found}; allowed from {needed} on")]
    SectionVersion {
        /// The section.
        section: &'static str,
        /// The version found.
        found: Version,
        /// The first version that has it.
        needed: Version,
    },
    /// A part of a memory that can't be one.
    #[error(
        "part {place} of the memory (from 0) has parts itself, or another space or width than the memory; a part is a memory of the same model that was joined from nothing"
    )]
    MemoryPart {
        /// Its place among the parts.
        place: usize,
    },
    /// Memory layers that are none, or not in order.
    #[error(
        "the memory layers are beside layers {found:?}; allowed: one or more, each once, in ascending order"
    )]
    MemoryLayers {
        /// The layers.
        found: Vec<u64>,
    },
    /// The blocks of a memory's or a session's tensor don't cover its rows.
    #[error(
        "tensor `{tensor}` has {rows} rows in blocks of {rows_per_block}, but lists {found} blocks"
    )]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Its first dimension.
        rows: u64,
        /// Rows in each block but the last.
        rows_per_block: u64,
        /// Blocks listed.
        found: u64,
    },
    /// A file of the origin has a path that leaves its folder, or comes twice.
    #[error(
        "the origin's file path {path:?} is not acceptable; allowed: relative, unique, without `..`, `\\` or control characters"
    )]
    Path {
        /// The path.
        path: String,
    },
    /// The pieces of a file don't add up to its size.
    #[error("the origin's file `{path}` has {size} bytes, but its pieces add up to {found}")]
    Pieces {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// The sum of its pieces.
        found: u64,
    },
}

codes! { ManifestError {
    Json => "json",
    NotAManifest => "not_a_manifest",
    NewerMajor => "newer_major",
    UnknownCritical => "unknown_critical",
    Schema => "schema",
    TooMany => "too_many",
    UnlistedBlob => "unlisted_blob",
    UnusedBlob => "unused_blob",
    Shape => "shape",
    Size => "size",
    Segments => "segments",
    SectionVersion => "section_version",
    MemoryPart => "memory_part",
    MemoryLayers => "memory_layers",
    Blocks => "blocks",
    Path => "path",
    Pieces => "pieces",
} }
