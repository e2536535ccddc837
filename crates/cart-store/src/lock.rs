//! Advisory locks of the operating system: gone with the process that held them, so there are no
//! stale locks and no clocks in it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::file_error::{At as _, FileError};

/// Keeps gc away while it lives. Hold one from the first [`crate::Store::ingest`] to the
/// [`crate::Store::update_ref`] that makes its blobs reachable.
#[derive(Debug)]
#[must_use = "gc may run as soon as it is dropped"]
pub struct StoreGuard {
    _lock: Lock,
}

impl StoreGuard {
    pub(crate) fn new(lock: Lock) -> Self {
        Self { _lock: lock }
    }
}

/// A held lock. Released when dropped, or by the system when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody holds it exclusively.
    pub(crate) fn shared(path: &Path) -> Result<Self, FileError> {
        let (file, path) = open(path)?;
        file.lock_shared().at("lock", &path)?;
        Ok(Self { _file: file })
    }

    /// Waits until nobody holds it.
    pub(crate) fn exclusive(path: &Path) -> Result<Self, FileError> {
        let (file, path) = open(path)?;
        file.lock().at("lock", &path)?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<(File, PathBuf), FileError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    Ok((file.at("lock", path)?, path.to_path_buf()))
}
