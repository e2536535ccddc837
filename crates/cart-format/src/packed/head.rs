//! Reading the head of a packed file, and checking the documents that it points to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::error::PackedError;
use super::index::{Index, IndexedBlob, IndexedChunk, PackedBlob};
use super::layout::{COMMIT, DATA, INDEX, Ids, Layout, Lengths, MANIFEST};
use super::{PACKED_FORMAT, PACKED_VERSION};
use crate::codec::{Codec, Elements};
use crate::commit::Commit;
use crate::digest::{BlobId, ChunkId, CommitId, IdError, ManifestId};
use crate::limits::{COMMIT_BYTES, INDEX_BYTES, MANIFEST_BYTES};
use crate::manifest::{Manifest, Version};
use crate::safetensors::{Head, Parsed};

/// The head of a packed file.
#[derive(Clone, Copy, Debug)]
pub struct PackedHead {
    version: Version,
    layout: Layout,
}

/// A packed file whose head and documents are intact. Nothing is known of its chunks yet.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What it unpacks to.
    pub manifest: Manifest,
    /// Its id.
    pub manifest_id: ManifestId,
    /// The commit that goes along.
    pub commit: Option<(CommitId, Commit)>,
    /// What it needs to be unpacked.
    pub base: Option<ManifestId>,
    /// The blobs that are in the file. All others of the manifest are in the base.
    pub blobs: Vec<PackedBlob>,
}

impl PackedHead {
    /// Whether a file begins like a packed one; says nothing of whether it is intact.
    pub fn is_likely(prefix: &[u8]) -> bool {
        let begins = format!("{{\"__metadata__\":{{\"format\":\"{PACKED_FORMAT}\"");
        prefix.get(8..).is_some_and(|header| header.starts_with(begins.as_bytes()))
    }

    /// Reads the head of a file of `file_len` bytes from its first bytes.
    ///
    /// # Errors
    /// Not safetensors, or no packed cartridge.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Parsed<Self>, PackedError> {
        match Head::parse(prefix, file_len)? {
            Parsed::NeedMore(bytes) => Ok(Parsed::NeedMore(bytes)),
            Parsed::Head(head) => Self::of(&head, prefix).map(Parsed::Head),
        }
    }

    fn of(head: &Head, prefix: &[u8]) -> Result<Self, PackedError> {
        let fields = &head.metadata;
        if fields.get("format").is_none_or(|format| format != PACKED_FORMAT) {
            return Err(PackedError::Foreign);
        }
        let version = version(fields)?;
        let ids = Ids {
            manifest: id_of(fields, "manifest")?,
            base: fields.contains_key("base").then(|| id_of(fields, "base")).transpose()?,
            commit: fields.contains_key("commit").then(|| id_of(fields, "commit")).transpose()?,
            index: id_of(fields, "index")?,
        };
        let len = |name: &'static str| {
            let found = head.tensors.iter().find(|tensor| tensor.name.as_str() == name);
            let range = found.map(|tensor| tensor.range.end - tensor.range.start);
            range.ok_or(PackedError::Tensor { name })
        };
        let commit = if ids.commit.is_some() { len(COMMIT)? } else { 0 };
        let lengths =
            Lengths { data: len(DATA)?, index: len(INDEX)?, manifest: len(MANIFEST)?, commit };
        let layout = Layout { ids, lengths };
        for place in layout.places() {
            let is_there = head
                .tensors
                .iter()
                .any(|tensor| tensor.name.as_str() == place.name && tensor.range == place.range);
            if !is_there {
                return Err(PackedError::Tensor { name: place.name });
            }
        }
        // A later minor version may say more in the header.
        let header = layout.header();
        if version <= PACKED_VERSION && !prefix.starts_with(&header) {
            let same = header.iter().zip(prefix).take_while(|(a, b)| a == b).count();
            return Err(PackedError::Header { at: same as u64 });
        }
        for (what, found, allowed) in [
            ("index", lengths.index, INDEX_BYTES),
            ("packed manifest", lengths.manifest, MANIFEST_BYTES),
            ("commit", lengths.commit, COMMIT_BYTES),
        ] {
            if found > allowed {
                return Err(PackedError::TooLarge { what, found, allowed });
            }
        }
        Ok(Self { version, layout })
    }

    /// The version of the layout.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where things are. Index, manifest and commit are within their limits.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Checks the documents.
    ///
    /// * `index`, `manifest`, `commit`: the bytes where [`PackedHead::layout`] says
    ///
    /// # Errors
    /// One of them is damaged, or they contradict each other.
    pub fn check(
        &self,
        index: &[u8],
        manifest: &[u8],
        commit: Option<&[u8]>,
    ) -> Result<Packed, PackedError> {
        let ids = self.layout.ids;
        digest("index", ids.index.hex(), BlobId::of(index).hex())?;
        let index = Index::from_bytes(index)?;
        if index.base != ids.base {
            let found = ids.base.map(|base| base.hex());
            return Err(PackedError::Metadata { field: "base", found });
        }
        let IndexedChunk(len, packed) = index.manifest;
        digest("packed manifest", packed.hex(), ChunkId::of(manifest).hex())?;
        let manifest = unpack_manifest(len, manifest)?;
        digest("manifest", ids.manifest.hex(), ManifestId::of(&manifest).hex())?;
        let manifest = Manifest::from_bytes(&manifest)?;
        let commit = match ids.commit.zip(commit) {
            Some((id, bytes)) => Some((id, check_commit(id, bytes, ids.manifest)?)),
            None => None,
        };
        let blobs = blobs(&manifest, index.blobs, self.layout.data(), ids.base.is_some())?;
        Ok(Packed { manifest, manifest_id: ids.manifest, commit, base: ids.base, blobs })
    }
}

fn unpack_manifest(len: u64, packed: &[u8]) -> Result<Vec<u8>, PackedError> {
    if len > MANIFEST_BYTES {
        let what = "manifest";
        return Err(PackedError::TooLarge { what, found: len, allowed: MANIFEST_BYTES });
    }
    let mut bytes = vec![0; len as usize];
    let unpacked = Codec::default().unpack(Elements::Document, packed, None, &mut bytes);
    unpacked.map_err(PackedError::Unpack)?;
    Ok(bytes)
}

fn check_commit(id: CommitId, bytes: &[u8], expected: ManifestId) -> Result<Commit, PackedError> {
    digest("commit", id.hex(), CommitId::of(bytes).hex())?;
    let commit = Commit::from_bytes(bytes)?;
    if commit.manifest == expected {
        return Ok(commit);
    }
    Err(PackedError::OtherManifest { found: commit.manifest, expected })
}

/// Finds the chunks of each blob, and sees that nothing is missing and nothing too much.
fn blobs(
    manifest: &Manifest,
    indexed: Vec<IndexedBlob>,
    data: Range<u64>,
    has_base: bool,
) -> Result<Vec<PackedBlob>, PackedError> {
    let mut missing: BTreeSet<BlobId> = manifest.blobs.keys().copied().collect();
    let mut at = data.start;
    let mut blobs = Vec::new();
    for one in indexed {
        let blob = one.blob;
        let refuse = |what| PackedError::Blob { blob, what };
        let size = manifest.blobs.get(&blob).ok_or_else(|| refuse("not in the manifest"))?.size;
        if !missing.remove(&blob) {
            return Err(refuse("in the index twice"));
        }
        if one.base.is_some() && !has_base {
            return Err(refuse("to be made from a base, but the file has none"));
        }
        let elements = one.elements();
        let wrong = || PackedError::Chunks { blob, size };
        let parts = elements.chunks(size);
        if parts.len() != one.chunks.len()
            || one.dtype.is_some_and(|dtype| !size.is_multiple_of(dtype.block_bytes()))
        {
            return Err(wrong());
        }
        let mut chunks = Vec::new();
        for (part, chunk) in parts.zip(&one.chunks) {
            let end = at.checked_add(chunk.0).filter(|&end| end <= data.end).ok_or_else(wrong)?;
            if chunk.0 == 0 || chunk.0 > part.end - part.start + 1 {
                return Err(wrong());
            }
            chunks.push((at..end, chunk.1));
            at = end;
        }
        blobs.push(PackedBlob { blob, size, base: one.base, elements, chunks });
    }
    if at != data.end {
        let (indexed, found) = (at - data.start, data.end - data.start);
        return Err(PackedError::Data { indexed, found });
    }
    match missing.first() {
        Some(&blob) if !has_base => {
            Err(PackedError::Blob { blob, what: "not in the index, and the file has no base" })
        }
        _ => Ok(blobs),
    }
}

fn digest(what: &'static str, expected: String, found: String) -> Result<(), PackedError> {
    if expected == found {
        return Ok(());
    }
    Err(PackedError::Digest { what, expected, found })
}

fn version(fields: &BTreeMap<String, String>) -> Result<Version, PackedError> {
    let found = fields.get("version");
    let version: Option<Version> = found.and_then(|text| text.parse().ok());
    match version {
        None => Err(PackedError::Metadata { field: "version", found: found.cloned() }),
        Some(version) if version.major > PACKED_VERSION.major => {
            Err(PackedError::NewerMajor { found: version })
        }
        Some(version) => Ok(version),
    }
}

fn id_of<T: std::str::FromStr<Err = IdError>>(
    fields: &BTreeMap<String, String>,
    field: &'static str,
) -> Result<T, PackedError> {
    let text = fields.get(field).ok_or(PackedError::Metadata { field, found: None })?;
    text.parse().map_err(|source| PackedError::Id { field, source })
}
