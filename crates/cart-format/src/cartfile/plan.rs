//! The layout of a cart file, from its manifest and commit.

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::CartFileError;
use super::{
    BLOB_PREFIX, CART_FILE_VERSION, COMMIT_TENSOR, MANIFEST_TENSOR, OWN_PREFIX, PAD_PREFIX,
};
use crate::digest::{BlobId, CommitId, ManifestId};
use crate::limits::{DATA_ALIGN, HEADER_BYTES, PAYLOAD_ALIGN};
use crate::manifest::Manifest;
use crate::safetensors::LENGTH_BYTES;

/// What fills a part of a cart file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The manifest's bytes.
    Manifest,
    /// The commit's bytes.
    Commit,
    /// A blob.
    Blob(BlobId),
    /// Zeros.
    Padding,
}

/// A tensor of a cart file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name in the header.
    pub name: String,
    /// Its element type, as safetensors calls it.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What it holds.
    pub content: Content,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// A cart file, laid out: write `header`, then the parts in order.
#[derive(Clone, Debug)]
pub struct CartPlan {
    /// The file's first bytes: the header's length, the header, and spaces up to the data.
    pub header: Vec<u8>,
    /// The rest of the file, without holes.
    pub parts: Vec<Part>,
}

impl CartPlan {
    /// Lays out a cartridge. `manifest_bytes` and `commit_bytes` are the canonical bytes.
    ///
    /// # Errors
    /// The header would be over its limit.
    pub fn new(
        manifest: &Manifest,
        manifest_bytes: &[u8],
        commit_bytes: Option<&[u8]>,
    ) -> Result<Self, CartFileError> {
        let mut parts = Parts::default();
        parts.push(MANIFEST_TENSOR.to_owned(), Content::Manifest, manifest_bytes.len() as u64);
        if let Some(bytes) = commit_bytes {
            parts.push(COMMIT_TENSOR.to_owned(), Content::Commit, bytes.len() as u64);
        }
        let mut rest: BTreeSet<BlobId> = manifest.blobs.keys().copied().collect();
        for (name, tensor) in &manifest.model.tensors {
            // A tied tensor's blob is there under the first of its names.
            if name.as_str().starts_with(OWN_PREFIX) || !rest.remove(&tensor.blob) {
                continue;
            }
            let size = manifest.blobs[&tensor.blob].size;
            let name = name.to_string();
            match tensor.dtype.safetensors() {
                Some(dtype) => {
                    let shape = tensor.shape.clone();
                    parts.push_as(name, dtype, shape, Content::Blob(tensor.blob), size);
                }
                None => parts.push(name, Content::Blob(tensor.blob), size),
            }
        }
        for blob in rest {
            parts.push(
                format!("{BLOB_PREFIX}{blob}"),
                Content::Blob(blob),
                manifest.blobs[&blob].size,
            );
        }
        let manifest_id = ManifestId::of(manifest_bytes);
        let header = header(&parts.0, manifest_id, commit_bytes.map(CommitId::of))?;
        let data = header.len() as u64;
        let moved =
            |part: Part| Part { range: part.range.start + data..part.range.end + data, ..part };
        Ok(Self { parts: parts.0.into_iter().map(moved).collect(), header })
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(self.header.len() as u64, |part| part.range.end)
    }

    /// Never: a cart file has a manifest.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Parts that follow each other, counted from the start of the data.
#[derive(Default)]
pub(super) struct Parts(pub(super) Vec<Part>);

impl Parts {
    /// A part that safetensors sees as bytes.
    pub(super) fn push(&mut self, name: String, content: Content, size: u64) {
        self.push_as(name, "U8", vec![size], content, size);
    }

    fn push_as(
        &mut self,
        name: String,
        dtype: &'static str,
        shape: Vec<u64>,
        content: Content,
        size: u64,
    ) {
        let end = self.0.last().map_or(0, |part| part.range.end);
        let start = end.next_multiple_of(PAYLOAD_ALIGN);
        if start > end {
            let (name, shape) = (format!("{PAD_PREFIX}{}", self.0.len()), vec![start - end]);
            let content = Content::Padding;
            self.0.push(Part { name, dtype: "U8", shape, content, range: end..start });
        }
        self.0.push(Part { name, dtype, shape, content, range: start..start + size });
    }
}

/// The length, the header, and spaces up to a multiple of 4096.
pub(super) fn header(
    parts: &[Part],
    manifest: ManifestId,
    commit: Option<CommitId>,
) -> Result<Vec<u8>, CartFileError> {
    use std::fmt::Write as _;
    let mut text = format!(
        "{{\"__metadata__\":{{\"format\":\"cart\",\"version\":\"{CART_FILE_VERSION}\",\"manifest\":\"{manifest}\""
    );
    if let Some(commit) = commit {
        write!(text, ",\"commit\":\"{commit}\"").expect("writing to a string does not fail");
    }
    text.push('}');
    for part in parts {
        let name = serde_json::to_string(&part.name).expect("text has a JSON form");
        let Part { dtype, shape, range: Range { start, end }, .. } = part;
        let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        write!(
            text,
            ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
        )
        .expect("writing to a string does not fail");
    }
    text.push('}');
    let data = (LENGTH_BYTES + text.len() as u64).next_multiple_of(DATA_ALIGN);
    let length = data - LENGTH_BYTES;
    if length > HEADER_BYTES {
        return Err(CartFileError::HeaderTooLarge { found: length });
    }
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(data as usize, b' ');
    Ok(bytes)
}
