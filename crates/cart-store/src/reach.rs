//! What can be reached from names: all that gc must keep.

use std::collections::{BTreeMap, BTreeSet};

use cart_format::{BlobEntry, BlobId, CommitId, Manifest, ManifestId};

use crate::objects::ObjectError;
use crate::store::Store;

/// Commits, manifests and blobs that something names.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    pub(crate) commits: BTreeSet<CommitId>,
    pub(crate) manifests: BTreeSet<ManifestId>,
    /// The blobs that manifests name, with what they say about them.
    pub(crate) blobs: BTreeMap<BlobId, BlobEntry>,
}

impl Reach {
    /// Adds a commit, its ancestors, and all they name. Blobs' bytes are not looked at. `visit`
    /// sees each manifest that is new. After an error everything that could be read is in.
    pub(crate) fn add(
        &mut self,
        store: &Store,
        root: CommitId,
        visit: &mut dyn FnMut(ManifestId, &Manifest),
    ) -> Result<(), ObjectError> {
        let mut todo = vec![root];
        let mut failure = None;
        while let Some(id) = todo.pop() {
            if !self.commits.insert(id) {
                continue;
            }
            match store.commit(&id) {
                Ok(commit) => {
                    todo.extend(commit.parents);
                    if let Err(error) = self.add_manifest(store, commit.manifest, visit) {
                        failure.get_or_insert(error);
                    }
                }
                // A parent that was never here; said so when its child came.
                Err(ObjectError::Absent { .. })
                    if id != root && store.layout.shallow_commit(&id).is_file() =>
                {
                    self.commits.remove(&id);
                }
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Whether a file in the store's folder of blobs is needed.
    pub(crate) fn has_blob(&self, blob: &BlobId) -> bool {
        let as_manifest = ManifestId::from_bytes(*blob.as_bytes());
        self.blobs.contains_key(blob) || self.manifests.contains(&as_manifest)
    }

    fn add_manifest(
        &mut self,
        store: &Store,
        id: ManifestId,
        visit: &mut dyn FnMut(ManifestId, &Manifest),
    ) -> Result<(), ObjectError> {
        if !self.manifests.insert(id) {
            return Ok(());
        }
        let manifest = store.manifest(&id)?;
        visit(id, &manifest);
        self.blobs.extend(manifest.blobs);
        Ok(())
    }
}
