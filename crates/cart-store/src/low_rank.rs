//! Files of low-rank deltas.

use std::fs::File;
use std::path::{Path, PathBuf};

use cart_format::low_rank::{LOW_RANK_BYTES, LowRank, LowRankError};
use thiserror::Error;

use crate::file_error::{At as _, FileError, existing_folder_of};
use crate::publish::Publisher;
use crate::source::read_exact;

/// Bytes that tell such a file from others.
const FIRST_READ: u64 = 4096;

/// Why a low-rank delta was not read or written.
#[derive(Debug, Error)]
pub enum LowRankFileError {
    /// It is damaged or foreign, or can't be written as one.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<LowRankError>,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LowRankFileError {
    fn at(path: &Path) -> impl Fn(LowRankError) -> Self {
        move |source| Self::Format { path: path.into(), source: Box::new(source) }
    }
}

/// Whether a file begins like a low-rank delta. Says nothing of whether it is intact.
///
/// # Errors
/// The file can't be read.
pub fn is_low_rank(path: &Path) -> Result<bool, FileError> {
    let file = File::open(path).at("open", path)?;
    let metadata = file.metadata().at("read", path)?;
    if !metadata.is_file() {
        return Ok(false);
    }
    let mut prefix = vec![0; metadata.len().min(FIRST_READ) as usize];
    read_exact(&file, path, &mut prefix, 0)?;
    Ok(LowRank::is_likely(&prefix))
}

/// Reads a low-rank delta and compares every part with its digest.
///
/// # Errors
/// It is none, damaged, of a newer version, or can't be read.
pub fn read_low_rank(path: &Path) -> Result<LowRank, LowRankFileError> {
    let file = File::open(path).at("open", path)?;
    let found = file.metadata().at("read", path)?.len();
    if found > LOW_RANK_BYTES {
        return Err(LowRankFileError::at(path)(LowRankError::TooLarge { found }));
    }
    let mut bytes = vec![0; found as usize];
    read_exact(&file, path, &mut bytes, 0)?;
    LowRank::from_bytes(&bytes).map_err(LowRankFileError::at(path))
}

/// Writes a low-rank delta durably, in place of what is at `path`; gives its length.
///
/// # Errors
/// It contradicts itself, or the file can't be written; `path` is then as it was.
pub fn write_low_rank(delta: &LowRank, path: &Path) -> Result<u64, LowRankFileError> {
    let bytes = delta.to_bytes().map_err(LowRankFileError::at(path))?;
    let folder = existing_folder_of(path)?;
    let publisher = Publisher::default();
    let file = publisher.create(folder, ".cart")?;
    file.write_at(&bytes, 0)?;
    file.sync()?.replace(path)?;
    publisher.sync_folder(folder)?;
    Ok(bytes.len() as u64)
}
