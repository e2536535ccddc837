//! Where things lie in a store (spec 50 §1). The only place that builds these paths.

use std::path::{Path, PathBuf};

use cart_format::{BlobId, CommitId};

use crate::ref_name::RefName;

/// The paths of a store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The document that says that this folder is a store, and of which version.
    pub(crate) fn marker(&self) -> PathBuf {
        self.root.join("cart-store.json")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, blob: &BlobId) -> PathBuf {
        self.blobs().join(blob.hex())
    }

    pub(crate) fn commits(&self) -> PathBuf {
        self.root.join("commits/sha256")
    }

    pub(crate) fn commit(&self, commit: &CommitId) -> PathBuf {
        self.commits().join(commit.hex())
    }

    /// Empty files named by commits that are known to be absent: parents of what came from
    /// elsewhere.
    pub(crate) fn shallow(&self) -> PathBuf {
        self.root.join("shallow/sha256")
    }

    pub(crate) fn shallow_commit(&self, commit: &CommitId) -> PathBuf {
        self.shallow().join(commit.hex())
    }

    pub(crate) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(crate) fn reference(&self, name: &RefName) -> PathBuf {
        self.refs().join(name.folder()).join(name.tag())
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, name: &RefName) -> PathBuf {
        self.logs().join(name.folder()).join(name.tag())
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Shared by writers, exclusive for gc. Names never begin with a dot, so no ref's lock is here.
    pub(crate) fn store_lock(&self) -> PathBuf {
        self.locks().join(".store")
    }

    pub(crate) fn ref_lock(&self, name: &RefName) -> PathBuf {
        self.locks().join(name.folder()).join(name.tag())
    }

    /// Every folder of a complete store.
    pub(crate) fn folders(&self) -> [PathBuf; 8] {
        [
            self.blobs(),
            self.commits(),
            self.shallow(),
            self.refs(),
            self.logs(),
            self.tmp(),
            self.trash(),
            self.locks(),
        ]
    }
}
