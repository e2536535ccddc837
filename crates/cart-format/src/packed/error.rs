//! Why a file is not a packed cartridge.

use thiserror::Error;

use super::PACKED_VERSION;
use crate::codec::CodecError;
use crate::commit::CommitError;
use crate::digest::{BlobId, IdError, ManifestId};
use crate::head::codes;
use crate::json::JsonError;
use crate::manifest::{ManifestError, Version};
use crate::safetensors::SafetensorsError;

/// Why a file is not a packed cartridge.
#[derive(Debug, Error)]
pub enum PackedError {
    /// Not a safetensors file, cut short, or too long.
    #[error("the file is damaged, or no packed cartridge: {0}")]
    Safetensors(#[from] SafetensorsError),
    /// Safetensors, but something else.
    #[error("this is a safetensors file, but no packed cartridge")]
    Foreign,
    /// The header names another version.
    #[error(
        "the packed file has layout version {found}; this cart reads up to {}.x: update cart",
        PACKED_VERSION.major
    )]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// A field of the header's metadata is missing or has no sense.
    #[error("the header's metadata field `{field}` is {found:?}; the file was edited")]
    Metadata {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: Option<String>,
    },
    /// An id in the header is not one.
    #[error("the header's metadata field `{field}`: {source}")]
    Id {
        /// The field.
        field: &'static str,
        /// The reason.
        source: IdError,
    },
    /// A tensor is missing or not where it belongs.
    #[error("tensor `{name}` is missing or not where it belongs; the file was edited")]
    Tensor {
        /// Its name.
        name: &'static str,
    },
    /// A document over its limit.
    #[error("the {what} has {found} bytes; allowed: {allowed}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// The header means the right thing and has other bytes.
    #[error("byte {at} of the header differs from what its fields ask for; the file was edited")]
    Header {
        /// The first byte that differs, counted from the start of the file.
        at: u64,
    },
    /// The bytes of a document were changed.
    #[error("the {what} is damaged: the header says its digest is {expected}, found {found}")]
    Digest {
        /// Which.
        what: &'static str,
        /// The digest in the header.
        expected: String,
        /// The digest of the bytes.
        found: String,
    },
    /// The index is not one.
    #[error("the index can't be read: {0}")]
    Index(#[source] JsonError),
    /// The index has other fields.
    #[error("the index can't be used: {0}")]
    Fields(#[source] serde_json::Error),
    /// The packed manifest can't be unpacked.
    #[error("the manifest can't be unpacked: {0}")]
    Unpack(#[source] CodecError),
    /// The manifest is intact, but this version can't use it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The commit is intact, but this version can't use it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The commit is about another manifest.
    #[error("the commit is of manifest {found}, but the file holds manifest {expected}")]
    OtherManifest {
        /// What the commit names.
        found: ManifestId,
        /// What the file holds.
        expected: ManifestId,
    },
    /// The index names a blob that the manifest has not, or twice, or leaves one out that no base has.
    #[error("blob {blob} is {what}")]
    Blob {
        /// The blob.
        blob: BlobId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The chunks of a blob are not those of its size, or not those of the file.
    #[error("the chunks of blob {blob} are not those of its {size} bytes")]
    Chunks {
        /// The blob.
        blob: BlobId,
        /// Its size.
        size: u64,
    },
    /// The chunks end elsewhere than the data.
    #[error("the index has chunks of {indexed} bytes, the file {found}")]
    Data {
        /// By the index.
        indexed: u64,
        /// In the file.
        found: u64,
    },
}

codes! { PackedError {
    Safetensors => "safetensors",
    Foreign => "foreign",
    NewerMajor => "newer_major",
    Metadata => "metadata",
    Id => "id",
    Tensor => "tensor",
    TooLarge => "too_large",
    Header => "header",
    Digest => "digest",
    Index => "index",
    Fields => "fields",
    Unpack => "unpack",
    Manifest => "manifest",
    Commit => "commit",
    OtherManifest => "other_manifest",
    Blob => "blob",
    Chunks => "chunks",
    Data => "data",
} }
