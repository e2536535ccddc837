//! Why a cartridge was not exported.

use std::path::PathBuf;

use cart_format::gguf::GgufError;
use cart_format::safetensors::SafetensorsError;
use cart_format::{BlobId, DType, DTypeError};
use thiserror::Error;

use crate::blob_source::BlobError;
use crate::file_error::FileError;
use crate::hashing::HashError;

/// Why a cartridge was not exported. Nothing was left at the destination.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Something is there.
    #[error("{} exists; choose another path, or overwrite it with --force", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is a folder where a file is wanted, or the other way round.
    #[error("{} is {found}; this form needs {allowed}", path.display())]
    DestinationKind {
        /// The destination.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What may be there.
        allowed: &'static str,
    },
    /// The cartridge was not imported from that form.
    #[error(
        "the cartridge can't be given as {wanted}: {}; its forms are cart{}",
        origin.map_or_else(|| "it was not imported from files".to_owned(), |origin| format!("it was imported from {origin}")),
        origin.map_or_else(String::new, |origin| format!(" and {origin}"))
    )]
    Form {
        /// The form that was asked for.
        wanted: &'static str,
        /// The form that it was imported from.
        origin: Option<&'static str>,
    },
    /// The tensors are not those of the files any more.
    #[error(
        "tensor `{tensor}` is not the one that was imported, so the original files can't be given back; `--as safetensors` or `--as cart` writes the tensors as they are"
    )]
    TensorsChanged {
        /// The first tensor that differs.
        tensor: String,
    },
    /// The form has no such element type.
    #[error(
        "tensor `{tensor}` is {dtype}, which safetensors does not have; `--as cart` keeps it as it is"
    )]
    Quantized {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
    },
    /// What was written is not what was imported.
    #[error(
        "`{file}` came out with the digest {found}; it was imported with {expected}: a blob is damaged, `cart verify` tells which"
    )]
    Digest {
        /// The file.
        file: String,
        /// Its digest.
        found: BlobId,
        /// The digest at import.
        expected: BlobId,
    },
    /// A tensor's bytes are not those that the manifest names.
    #[error(
        "tensor `{tensor}` is damaged: its bytes have the digest {found}; the manifest says {expected}"
    )]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The digest of its bytes.
        found: BlobId,
        /// Its blob.
        expected: BlobId,
    },
    /// The head of an imported safetensors file can't be read any more.
    #[error("the head of `{file}` can't be read: {source}")]
    SafetensorsHead {
        /// The file.
        file: String,
        /// The reason.
        source: SafetensorsError,
    },
    /// The head of an imported GGUF file can't be read any more.
    #[error("the head of `{file}` can't be read: {source}")]
    GgufHead {
        /// The file.
        file: String,
        /// The reason.
        source: GgufError,
    },
    /// The tensors are too large for one file.
    #[error(transparent)]
    Size(#[from] DTypeError),
    /// The progress said stop.
    #[error("cancelled; nothing was written")]
    Cancelled,
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<HashError> for ExportError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Cancelled => Self::Cancelled,
            HashError::File(error) => Self::File(error),
        }
    }
}

impl ExportError {
    /// A name for the kind of error that does not change with its wording.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "exists",
            Self::DestinationKind { .. } => "destination_kind",
            Self::Form { .. } => "form",
            Self::TensorsChanged { .. } => "tensors_changed",
            Self::Quantized { .. } => "quantized",
            Self::Digest { .. } => "digest",
            Self::Tensor { .. } => "tensor",
            Self::SafetensorsHead { .. } => "safetensors_head",
            Self::GgufHead { .. } => "gguf_head",
            Self::Size(_) => "size",
            Self::Cancelled => "cancelled",
            Self::Blob(_) => "blob",
            Self::File(_) => "file",
        }
    }
}
