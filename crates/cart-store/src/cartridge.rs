//! A cartridge that can be read: its manifest, and where its blobs are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use cart_format::{BlobId, Commit, CommitId, Manifest, ManifestId};

use crate::blob_source::{BlobError, BlobLocation, BlobSource, MappedBlob};

/// A cartridge in a store or a `.cart` file, with nothing said about its blobs' bytes yet:
/// [`Cartridge::verify`] reads them. Cheap to clone.
#[derive(Clone)]
pub struct Cartridge {
    manifest: Arc<Manifest>,
    manifest_id: ManifestId,
    commit: Option<(CommitId, Arc<Commit>)>,
    source: Arc<dyn BlobSource>,
}

impl Cartridge {
    /// The caller has checked that the ids are those of the documents.
    pub(crate) fn new(
        manifest: Manifest,
        manifest_id: ManifestId,
        commit: Option<(CommitId, Commit)>,
        source: Arc<dyn BlobSource>,
    ) -> Self {
        let commit = commit.map(|(id, commit)| (id, Arc::new(commit)));
        Self { manifest: Arc::new(manifest), manifest_id, commit, source }
    }

    /// What the cartridge is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the cartridge is, for those who keep it.
    pub fn shared_manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    /// The cartridge's id.
    pub fn manifest_id(&self) -> ManifestId {
        self.manifest_id
    }

    /// The commit through which it was found. A bare manifest has none.
    pub fn commit(&self) -> Option<(CommitId, &Commit)> {
        self.commit.as_ref().map(|(id, commit)| (*id, commit.as_ref()))
    }

    /// Where the blobs are.
    pub fn source(&self) -> &Arc<dyn BlobSource> {
        &self.source
    }

    /// The store or file, for messages.
    pub fn place(&self) -> &Path {
        self.source.place()
    }

    /// Where a blob's bytes are, of the size that the manifest says.
    ///
    /// # Errors
    /// The blob is not in the manifest, missing, or of another size.
    pub fn locate(&self, blob: &BlobId) -> Result<BlobLocation, BlobError> {
        let entry = self.manifest.blobs.get(blob).ok_or(BlobError::Unlisted { blob: *blob })?;
        let location = self.source.locate(blob)?;
        if location.len == entry.size {
            return Ok(location);
        }
        let at = location.path.to_path_buf();
        Err(BlobError::Size { blob: *blob, at, found: location.len, expected: entry.size })
    }

    /// Maps a blob's bytes.
    ///
    /// # Errors
    /// As [`Cartridge::locate`], or the system refuses.
    pub fn map(&self, blob: &BlobId) -> Result<MappedBlob, BlobError> {
        Ok(self.locate(blob)?.map()?)
    }

    /// Reads a blob of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// As [`Cartridge::locate`], larger than `limit`, or not readable.
    pub fn read(&self, blob: &BlobId, limit: u64) -> Result<Vec<u8>, BlobError> {
        let location = self.locate(blob)?;
        if location.len > limit {
            return Err(BlobError::TooLarge { blob: *blob, found: location.len, allowed: limit });
        }
        let mut bytes = vec![0; location.len as usize];
        location.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Cartridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.as_ref().map(|(id, _)| id);
        f.debug_struct("Cartridge")
            .field("manifest_id", &self.manifest_id)
            .field("commit", &commit)
            .field("place", &self.place())
            .finish_non_exhaustive()
    }
}
