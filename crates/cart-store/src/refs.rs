//! Refs: the names that change.

use std::path::{Path, PathBuf};

use cart_format::CommitId;
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::lock::Lock;
use crate::objects::ObjectError;
use crate::ref_log::LogEntry;
use crate::ref_name::RefName;
use crate::store::Store;

/// Why a ref was not read or changed. It is as it was before.
#[derive(Debug, Error)]
pub enum RefError {
    /// Someone else changed it meanwhile.
    #[error(
        "{name} is at {}, not at {}: it was changed meanwhile; look at it again",
        shown(*found),
        shown(*expected)
    )]
    Conflict {
        /// The ref.
        name: RefName,
        /// What the caller took it to be.
        expected: Option<CommitId>,
        /// What it is.
        found: Option<CommitId>,
    },
    /// There is no such ref.
    #[error("there is no {name} in the store")]
    Absent {
        /// The ref.
        name: RefName,
    },
    /// The file does not hold an id.
    #[error("{} is damaged: it should hold one commit id; its log is in logs/", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file lies where only refs may be.
    #[error("{} is not the name of a ref; move it away", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
    },
    /// The commit, its manifest or one of its blobs is missing or damaged.
    #[error("{name} can't point there: {source}")]
    Incomplete {
        /// The ref.
        name: RefName,
        /// What is missing.
        source: Box<ObjectError>,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Store {
    /// What a ref points to, if it exists.
    ///
    /// # Errors
    /// The file can't be read or is damaged.
    pub fn read_ref(&self, name: &RefName) -> Result<Option<CommitId>, RefError> {
        let path = self.layout.reference(name);
        match std::fs::read(&path).at("read", &path) {
            Err(error) if error.is_missing() => Ok(None),
            Err(FileError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotADirectory =>
            {
                Ok(None)
            }
            read => parse(&read?).map(Some).ok_or(RefError::Damaged { path }),
        }
    }

    /// Points a ref to `new`, if it points to `expected` now (`None`: if it does not exist). The
    /// commit, its parents' ids aside, must be complete: manifest and all blobs in the store.
    /// `time` is seconds since 1970-01-01 UTC, for the log.
    ///
    /// # Errors
    /// The ref is elsewhere, `new` is incomplete, or the store can't be written.
    pub fn update_ref(
        &self,
        name: &RefName,
        expected: Option<CommitId>,
        new: CommitId,
        time: u64,
        message: &str,
    ) -> Result<(), RefError> {
        let _guard = self.hold()?;
        self.check_complete(new)
            .map_err(|source| RefError::Incomplete { name: name.clone(), source: source.into() })?;
        let _lock = self.lock_ref(name)?;
        self.expect_ref(name, expected)?;
        // Whoever published an object may have died before the folder was synced.
        self.publisher.sync_folder(&self.layout.blobs())?;
        self.publisher.sync_folder(&self.layout.commits())?;
        let message = message.to_owned();
        self.append_log(name, &LogEntry { time, old: expected, new: Some(new), message })?;
        let path = self.layout.reference(name);
        self.make_parent(&path)?;
        let text = format!("{new}\n");
        Ok(self.publisher.replace(&self.layout.tmp(), &path, text.as_bytes())?)
    }

    /// Deletes a ref, if it points to `expected` now. Its log stays.
    ///
    /// # Errors
    /// The ref is elsewhere or absent, or the store can't be written.
    pub fn delete_ref(
        &self,
        name: &RefName,
        expected: CommitId,
        time: u64,
        message: &str,
    ) -> Result<(), RefError> {
        let _guard = self.hold()?;
        if self.read_ref(name)?.is_none() {
            return Err(RefError::Absent { name: name.clone() });
        }
        let _lock = self.lock_ref(name)?;
        self.expect_ref(name, Some(expected))?;
        let message = message.to_owned();
        self.append_log(name, &LogEntry { time, old: Some(expected), new: None, message })?;
        let path = self.layout.reference(name);
        self.publisher.remove(&path)?;
        Ok(self.publisher.sync_folder(path.parent().expect("a ref lies in a folder"))?)
    }

    /// Every ref and what it points to, sorted.
    ///
    /// # Errors
    /// One can't be read or is damaged.
    pub fn list_refs(&self) -> Result<Vec<(RefName, CommitId)>, RefError> {
        let mut refs = Vec::new();
        for name in named_files(&self.layout.refs())? {
            // One that is gone by now was deleted since.
            if let Some(commit) = self.read_ref(&name)? {
                refs.push((name, commit));
            }
        }
        Ok(refs)
    }

    /// The changes of a ref, oldest first. A deleted ref still has them.
    ///
    /// # Errors
    /// The files can't be read.
    pub fn log(&self, name: &RefName) -> Result<Vec<LogEntry>, RefError> {
        let now = self.read_ref(name)?;
        Ok(self.raw_log(name)?.effective(now))
    }

    fn check_complete(&self, commit: CommitId) -> Result<(), ObjectError> {
        let id = self.commit(&commit)?.manifest;
        self.check_blobs(id, &self.manifest(&id)?)
    }

    fn expect_ref(&self, name: &RefName, expected: Option<CommitId>) -> Result<(), RefError> {
        let found = self.read_ref(name)?;
        if found == expected {
            return Ok(());
        }
        Err(RefError::Conflict { name: name.clone(), expected, found })
    }

    fn lock_ref(&self, name: &RefName) -> Result<Lock, FileError> {
        let path = self.layout.ref_lock(name);
        self.make_parent(&path)?;
        Lock::exclusive(&path)
    }

    fn append_log(&self, name: &RefName, entry: &LogEntry) -> Result<(), FileError> {
        let path = self.layout.log(name);
        self.make_parent(&path)?;
        self.publisher.append_line(&path, &entry.line())
    }

    fn make_parent(&self, path: &Path) -> Result<(), FileError> {
        self.publisher.make_folder(path.parent().expect("refs, logs and locks lie in folders"))
    }
}

/// Every ref that has a file below `folder`, sorted.
pub(crate) fn named_files(folder: &Path) -> Result<Vec<RefName>, RefError> {
    let mut names = Vec::new();
    for (name_folder, path) in list(folder)? {
        for (tag, path) in list(&path)? {
            match RefName::from_folder(&name_folder, &tag) {
                Ok(name) => names.push(name),
                Err(_) => return Err(RefError::Stray { path }),
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Names and paths in a folder. A file where a folder is expected is stray.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, RefError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(RefError::Stray { path: folder.to_path_buf() });
        }
        entries => entries.at("list", folder)?,
    };
    for entry in entries {
        let path = entry.at("list", folder)?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => found.push((name.to_owned(), path.clone())),
            None => return Err(RefError::Stray { path }),
        }
    }
    Ok(found)
}

fn parse(bytes: &[u8]) -> Option<CommitId> {
    std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.parse().ok()
}

fn shown(commit: Option<CommitId>) -> String {
    commit.map_or_else(|| "nothing".to_owned(), |id| id.hex())
}
