//! Small cartridges to test with.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "these are parts of tests")]
#![allow(unreachable_pub, reason = "each test that includes this uses some of it")]

use cart_format::{
    BlobId, Commit, CommitId, DType, Manifest, ManifestId, Recipe, TensorEntry, TensorName,
};
use cart_store::{Ingested, RefName, Silent, SourceRange, Store};

/// Bytes that look random and depend on `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

/// A manifest of byte tensors, named as given.
pub fn manifest_of(tensors: &[(&str, &Ingested)]) -> Manifest {
    let mut manifest = Manifest::new();
    for (name, blob) in tensors {
        let entry = TensorEntry { dtype: DType::U8, shape: vec![blob.entry.size], blob: blob.blob };
        manifest.model.tensors.insert(TensorName::new(*name).unwrap(), entry);
        manifest.blobs.insert(blob.blob, blob.entry.clone());
    }
    manifest
}

/// Takes tensors in and gives them a name.
pub fn pack(store: &Store, name: &str, tensors: &[(&str, Vec<u8>)], time: u64) -> Packed {
    let _guard = store.hold().unwrap();
    let sources: Vec<_> =
        tensors.iter().map(|(_, bytes)| SourceRange::bytes(bytes.clone())).collect();
    let taken = store.ingest(&sources, &Silent).unwrap();
    let names: Vec<_> = tensors.iter().map(|(name, _)| *name).zip(&taken).collect();
    let manifest = store.put_manifest(&manifest_of(&names)).unwrap();
    let name: RefName = name.parse().unwrap();
    let old = store.read_ref(&name).unwrap();
    let mut commit = Commit::new(manifest, time, Recipe::new("test"));
    commit.parents.extend(old);
    let commit = store.put_commit(&commit).unwrap();
    store.update_ref(&name, old, commit, time, "packed").unwrap();
    Packed { manifest, commit, blobs: taken.into_iter().map(|one| one.blob).collect() }
}

/// What [`pack`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub manifest: ManifestId,
    pub commit: CommitId,
    pub blobs: Vec<BlobId>,
}

/// Where a blob lies in a store.
pub fn blob_path(store: &Store, blob: &BlobId) -> std::path::PathBuf {
    store.root().join("blobs/sha256").join(blob.hex())
}

/// Turns one bit of a file.
pub fn flip(path: &std::path::Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
