//! Bytes to take in.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::BlobId;

use crate::file_error::{At as _, FileError};
use crate::hashing::{self, HashError};
use crate::ingest::IngestError;
use crate::progress::Progress;

/// Some bytes, in memory or in a file. Cheap to clone.
#[derive(Clone, Debug)]
pub enum SourceRange {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A range of a file, read as it is needed.
    File {
        /// The open file.
        file: Arc<File>,
        /// Its path, for messages.
        path: Arc<Path>,
        /// Where the range begins.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
}

impl SourceRange {
    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// A range of a file.
    pub fn range(file: &Arc<File>, path: &Arc<Path>, offset: u64, len: u64) -> Self {
        Self::File { file: Arc::clone(file), path: Arc::clone(path), offset, len }
    }

    /// A whole file, with the length that it has now.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn whole(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).at("open", path)?;
        let len = file.metadata().at("read", path)?.len();
        Ok(Self::File { file: Arc::new(file), path: path.into(), offset: 0, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes that begin at `at`, counted from the start of the range.
    ///
    /// # Errors
    /// The file ends before, or can't be read.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<(), FileError> {
        match self {
            Self::Bytes(bytes) => {
                buffer.copy_from_slice(&bytes[at as usize..][..buffer.len()]);
                Ok(())
            }
            Self::File { file, path, offset, .. } => read_exact(file, path, buffer, offset + at),
        }
    }

    /// The whole file, if the range is that.
    pub(crate) fn as_whole_file(&self) -> Option<&File> {
        match self {
            Self::File { file, offset: 0, len, .. } => {
                file.metadata().is_ok_and(|now| now.len() == *len).then_some(file.as_ref())
            }
            _ => None,
        }
    }
}

/// The id that these bytes would have as a blob, computed on this thread.
///
/// # Errors
/// The file can't be read, or the work was cancelled.
pub fn digest_source(source: &SourceRange, progress: &dyn Progress) -> Result<BlobId, IngestError> {
    let digest =
        hashing::digest(0..source.len(), progress, |buffer, at| source.read_at(buffer, at));
    digest.map(BlobId::from_bytes).map_err(|error| match error {
        HashError::Cancelled => IngestError::Cancelled,
        HashError::File(error) => error.into(),
    })
}

/// Whether two ranges have the same bytes. One that can't be read is like no other.
pub(crate) fn same_bytes(a: &SourceRange, b: &SourceRange) -> bool {
    a.len() == b.len()
        && hashing::with_buffer(|buffer| {
            let (left, right) = buffer.split_at_mut(hashing::BUFFER / 2);
            let step = left.len() as u64;
            (0..a.len()).step_by(left.len()).all(|at| {
                let len = step.min(a.len() - at) as usize;
                let (left, right) = (&mut left[..len], &mut right[..len]);
                a.read_at(left, at).is_ok() && b.read_at(right, at).is_ok() && left == right
            })
        })
}

/// Reads a range of a file; its end inside the range is an error that says so.
pub(crate) fn read_exact(
    file: &File,
    path: &Path,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), FileError> {
    match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(FileError::Short {
            action: "read",
            path: PathBuf::from(path),
            end: offset + buffer.len() as u64,
        }),
        read => read.at("read", path),
    }
}
