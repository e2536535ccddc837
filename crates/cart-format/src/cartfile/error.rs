//! Why a file is not a cart file.

use thiserror::Error;

use super::{CART_FILE_VERSION, MANIFEST_TENSOR};
use crate::commit::CommitError;
use crate::digest::{IdError, ManifestId};
use crate::head::codes;
use crate::limits::{DATA_ALIGN, HEADER_BYTES};
use crate::manifest::{ManifestError, Version};
use crate::safetensors::SafetensorsError;

/// Why a file is not a cart file, or a cartridge can't become one.
#[derive(Debug, Error)]
pub enum CartFileError {
    /// Not a safetensors file, cut short, too long, or with tensors that overlap.
    #[error("the file is damaged, or not a cart file: {0}")]
    Safetensors(#[from] SafetensorsError),
    /// Safetensors, but not ours.
    #[error(
        "this is a safetensors file, but not a cart file: it has no tensor `{MANIFEST_TENSOR}`; `cart pack` makes a cartridge of it"
    )]
    Foreign,
    /// Ours, but written again by a tool that does not know what must be kept.
    #[error(
        "this was a cart file, and a tool that does not know the format saved it again: {lost}; get the original, or pack the tensors anew"
    )]
    Resaved {
        /// What was lost.
        lost: Lost,
    },
    /// The header names another version.
    #[error(
        "the cart file has layout version {found}; this cart reads up to {}.x: update cart",
        CART_FILE_VERSION.major
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
    /// Manifest or commit over their limits.
    #[error("tensor `{tensor}` has {found} bytes; allowed: {allowed}")]
    TooLarge {
        /// The tensor.
        tensor: &'static str,
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// The bytes of manifest or commit were changed.
    #[error(
        "tensor `{tensor}` is damaged: the header says its digest is {expected}, found {found}"
    )]
    Digest {
        /// The tensor.
        tensor: &'static str,
        /// The digest in the header.
        expected: String,
        /// The digest of the bytes.
        found: String,
    },
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
    /// A tensor of the header is not where, or what, the manifest asks for.
    #[error("tensor `{name}` should be {expected}, but is {found}; the file was edited")]
    Tensor {
        /// Its name.
        name: String,
        /// By the manifest.
        expected: String,
        /// By the header.
        found: String,
    },
    /// The header means the right thing and has other bytes.
    #[error("byte {at} of the header differs from what its manifest asks for; the file was edited")]
    Header {
        /// The first byte that differs, counted from the start of the file.
        at: u64,
    },
    /// Padding that is not zeros.
    #[error("padding `{name}` is not zeros; the file was edited or is damaged")]
    Padding {
        /// The padding's name.
        name: String,
    },
    /// Too many tensors for a header.
    #[error(
        "the header would have {found} bytes; allowed: {HEADER_BYTES}; keep this cartridge in a store"
    )]
    HeaderTooLarge {
        /// Its length.
        found: u64,
    },
}

codes! { CartFileError {
    Safetensors => "safetensors",
    Foreign => "foreign",
    Resaved => "resaved",
    NewerMajor => "newer_major",
    Metadata => "metadata",
    Id => "id",
    TooLarge => "too_large",
    Digest => "digest",
    Manifest => "manifest",
    Commit => "commit",
    OtherManifest => "other_manifest",
    Tensor => "tensor",
    Header => "header",
    Padding => "padding",
    HeaderTooLarge => "header_too_large",
} }

/// What a tool lost that saved a cart file again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Lost {
    /// The metadata.
    #[error("the header's metadata is lost")]
    Metadata,
    /// The alignment of the data.
    #[error("the data starts at byte {found}, not at a multiple of {DATA_ALIGN}")]
    DataStart {
        /// Where it starts.
        found: u64,
    },
    /// The order of the tensors.
    #[error("tensor `{found}` stands where `{expected}` belongs")]
    Order {
        /// Which tensor is there.
        found: String,
        /// Which should be.
        expected: String,
    },
    /// A tensor.
    #[error("tensor `{name}` is lost")]
    Tensor {
        /// Its name.
        name: String,
    },
}
