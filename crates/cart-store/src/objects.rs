//! Manifests and commits in a store, and whether blobs are there.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cart_format::limits::{COMMIT_BYTES, MANIFEST_BYTES};
use cart_format::{BlobId, Commit, CommitError, CommitId, Manifest, ManifestError, ManifestId};
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::store::Store;

/// Why an object was not stored or not found.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// It is not in the store.
    #[error("{kind} {id} is not in the store at {}", store.display())]
    Absent {
        /// `manifest` or `commit`.
        kind: &'static str,
        /// Its id, in hexadecimal digits.
        id: String,
        /// The store.
        store: PathBuf,
    },
    /// A manifest names a blob that is not there, or not of the size it says.
    #[error(
        "manifest {manifest} needs blob {blob} of {size} bytes, which is not in the store; pack it again"
    )]
    BlobAbsent {
        /// The manifest.
        manifest: ManifestId,
        /// The blob.
        blob: BlobId,
        /// Its size by the manifest.
        size: u64,
    },
    /// The file's bytes do not have the digest that is its name.
    #[error(
        "{} is damaged: its bytes have the digest {found}; restore it from a copy, or run `cart fsck`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest of its bytes.
        found: String,
    },
    /// Longer than such a document may be.
    #[error("{} has {found} bytes; allowed: {allowed}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// The bytes are intact, but not a manifest that this version reads.
    #[error("manifest {id}: {source}")]
    Manifest {
        /// The manifest.
        id: ManifestId,
        /// The reason.
        source: ManifestError,
    },
    /// The bytes are intact, but not a commit that this version reads.
    #[error("commit {id}: {source}")]
    Commit {
        /// The commit.
        id: CommitId,
        /// The reason.
        source: CommitError,
    },
    /// A manifest that contradicts itself was to be stored.
    #[error("the new manifest is not acceptable: {0}")]
    NewManifest(#[source] ManifestError),
    /// A commit that has no canonical form was to be stored.
    #[error("the new commit is not acceptable: {0}")]
    NewCommit(#[source] CommitError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Store {
    /// Stores a manifest, whose blobs must be in the store, durably.
    ///
    /// # Errors
    /// The manifest contradicts itself, a blob is missing, or the store can't be written.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<ManifestId, ObjectError> {
        let _guard = self.hold()?;
        manifest.check().map_err(ObjectError::NewManifest)?;
        let bytes = manifest.to_bytes().map_err(ObjectError::NewManifest)?;
        let id = ManifestId::of(&bytes);
        self.check_blobs(id, manifest)?;
        let path = self.layout.blob(&id.into());
        self.publisher.publish(&self.layout.tmp(), &path, &bytes)?;
        Ok(id)
    }

    /// Stores a commit, whose manifest must be in the store, durably. A parent that the store does
    /// not have (the commit came from elsewhere) is marked as absent, so that history ends there
    /// and is not taken for damaged.
    ///
    /// # Errors
    /// The manifest is missing, or the store can't be written.
    pub fn put_commit(&self, commit: &Commit) -> Result<CommitId, ObjectError> {
        let _guard = self.hold()?;
        let bytes = commit.to_bytes().map_err(ObjectError::NewCommit)?;
        let id = CommitId::of(&bytes);
        if !self.layout.blob(&commit.manifest.into()).is_file() {
            return Err(self.absent("manifest", commit.manifest.hex()));
        }
        for parent in &commit.parents {
            let marker = self.layout.shallow_commit(parent);
            if !self.layout.commit(parent).is_file() && !marker.is_file() {
                self.publisher.publish(&self.layout.tmp(), &marker, b"")?;
            }
        }
        self.publisher.publish(&self.layout.tmp(), &self.layout.commit(&id), &bytes)?;
        Ok(id)
    }

    /// Reads a manifest and checks its digest.
    ///
    /// # Errors
    /// It is missing, damaged, or of a newer version.
    pub fn manifest(&self, id: &ManifestId) -> Result<Manifest, ObjectError> {
        let path = self.layout.blob(&(*id).into());
        let bytes = self.document("manifest", id.hex(), &path, MANIFEST_BYTES)?;
        Manifest::from_bytes(&bytes).map_err(|source| ObjectError::Manifest { id: *id, source })
    }

    /// Reads a commit and checks its digest.
    ///
    /// # Errors
    /// It is missing, damaged, or of a newer version.
    pub fn commit(&self, id: &CommitId) -> Result<Commit, ObjectError> {
        let bytes = self.document("commit", id.hex(), &self.layout.commit(id), COMMIT_BYTES)?;
        Commit::from_bytes(&bytes).map_err(|source| ObjectError::Commit { id: *id, source })
    }

    /// Whether the store has a blob, of this size. Its bytes are not looked at.
    pub fn has_blob(&self, blob: &BlobId, size: u64) -> bool {
        let found = std::fs::metadata(self.layout.blob(blob));
        found.is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Whether every blob that a manifest names is there.
    pub(crate) fn check_blobs(
        &self,
        id: ManifestId,
        manifest: &Manifest,
    ) -> Result<(), ObjectError> {
        match manifest.blobs.iter().find(|(blob, entry)| !self.has_blob(blob, entry.size)) {
            Some((&blob, entry)) => {
                Err(ObjectError::BlobAbsent { manifest: id, blob, size: entry.size })
            }
            None => Ok(()),
        }
    }

    fn document(
        &self,
        kind: &'static str,
        id: String,
        path: &Path,
        allowed: u64,
    ) -> Result<Vec<u8>, ObjectError> {
        let mut bytes = Vec::new();
        let file = match File::open(path).at("open", path) {
            Err(error) if error.is_missing() => return Err(self.absent(kind, id)),
            opened => opened?,
        };
        file.take(allowed + 1).read_to_end(&mut bytes).at("read", path)?;
        let path = path.to_path_buf();
        if bytes.len() as u64 > allowed {
            return Err(ObjectError::TooLarge { path, found: bytes.len() as u64, allowed });
        }
        let found = BlobId::of(&bytes).hex();
        if found != id {
            return Err(ObjectError::Damaged { path, found });
        }
        Ok(bytes)
    }

    fn absent(&self, kind: &'static str, id: String) -> ObjectError {
        ObjectError::Absent { kind, id, store: self.root().to_path_buf() }
    }
}
