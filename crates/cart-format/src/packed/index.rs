//! Which blobs are in a packed file, and where.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::error::PackedError;
use crate::codec::Elements;
use crate::digest::{BlobId, ChunkId, ManifestId};
use crate::dtype::DType;
use crate::json;
use crate::limits::INDEX_BYTES;

/// The index as it is written: a canonical JSON document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The base of the header, which has no digest of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ManifestId>,
    /// The manifest: its bytes when it is unpacked, and the SHA-256 of the packed ones.
    pub manifest: IndexedChunk,
    /// The blobs, in the order of their chunks.
    pub blobs: Vec<IndexedBlob>,
}

/// A blob of the index. Its size is in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedBlob {
    /// Its id.
    pub blob: BlobId,
    /// The blob of the base that its chunks may refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BlobId>,
    /// The elements that it is packed as; a document if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
    /// Its chunks.
    pub chunks: Vec<IndexedChunk>,
}

/// A chunk of the index: its packed length, and the SHA-256 of those bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedChunk(pub u64, pub ChunkId);

/// A blob of a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlob {
    /// Its id.
    pub blob: BlobId,
    /// Its size.
    pub size: u64,
    /// The blob of the base that its chunks may refer to.
    pub base: Option<BlobId>,
    /// What it is packed as.
    pub elements: Elements,
    /// Each chunk, as a range of the file, and its digest.
    pub chunks: Vec<(Range<u64>, ChunkId)>,
}

impl PackedBlob {
    /// Its packed bytes.
    pub fn packed(&self) -> u64 {
        self.chunks.iter().map(|(range, _)| range.end - range.start).sum()
    }
}

impl IndexedBlob {
    /// What it is packed as.
    pub fn elements(&self) -> Elements {
        self.dtype.map_or(Elements::Document, Elements::Of)
    }
}

impl Index {
    /// Reads an index from its canonical bytes.
    ///
    /// # Errors
    /// Not canonical, over its limit, or with other fields.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PackedError> {
        let value = json::from_canonical(bytes, INDEX_BYTES).map_err(PackedError::Index)?;
        serde_json::from_value(value).map_err(PackedError::Fields)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_canonical(self).expect("whole numbers and ids have a canonical form")
    }
}
