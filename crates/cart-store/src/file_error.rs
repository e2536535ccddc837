//! Failures of the file system, each with the file, the action and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an action on a file failed.
#[derive(Debug, Error)]
pub enum FileError {
    /// The disk is full, or a quota is used up.
    #[error("can't {action} {}: no space left; free some (`cart gc` may help) and try again", path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words, which the message has in ours.
        cause: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("can't {action} {}: the file system is read-only; choose another place with --store", path.display())]
    ReadOnly {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words, which the message has in ours.
        cause: io::Error,
    },
    /// No permission.
    #[error("can't {action} {}: permission denied; check who owns it", path.display())]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words, which the message has in ours.
        cause: io::Error,
    },
    /// It is not there.
    #[error("can't {action} {}: there is no such file", path.display())]
    Missing {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words, which the message has in ours.
        cause: io::Error,
    },
    /// It ended before the bytes that were asked for.
    #[error("can't {action} {}: it ends before byte {end}; was it cut while in use?", path.display())]
    Short {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The end of the range that was wanted.
        end: u64,
    },
    /// The folder that it should come into is not there, or is none.
    #[error("can't write {}: there is no folder {}; make it, or choose another path", path.display(), folder.display())]
    NoFolder {
        /// What was to be written.
        path: PathBuf,
        /// Where.
        folder: PathBuf,
    },
    /// Anything else that the system says.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl FileError {
    /// Sorts an error of the system.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path, cause: source }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path, cause: source },
            io::ErrorKind::PermissionDenied => Self::Denied { action, path, cause: source },
            io::ErrorKind::NotFound => Self::Missing { action, path, cause: source },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the file was simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// The folder that a path's file comes into.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder that an output comes into, which must be there.
///
/// # Errors
/// [`FileError::NoFolder`].
pub(crate) fn existing_folder_of(path: &Path) -> Result<&Path, FileError> {
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(FileError::NoFolder { path: path.to_path_buf(), folder: folder.to_path_buf() })
}

/// Says what was tried on which file.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|errno| FileError::new(action, path, errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_hint() {
        let of = |errno: rustix::io::Errno| {
            FileError::new("write", Path::new("x"), errno.into()).to_string()
        };
        assert!(of(rustix::io::Errno::NOSPC).contains("no space left"));
        assert!(of(rustix::io::Errno::DQUOT).contains("no space left"));
        assert!(of(rustix::io::Errno::ROFS).contains("read-only"));
        assert!(of(rustix::io::Errno::ACCESS).contains("permission denied"));
        assert!(of(rustix::io::Errno::NOENT).contains("no such file"));
        assert!(of(rustix::io::Errno::IO).starts_with("can't write x: "));
    }
}
