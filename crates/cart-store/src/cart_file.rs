//! Reading the single-file form.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::cartridge::Cartridge;
use crate::file_error::FileError;

/// Why a file is not a usable `.cart` file.
#[derive(Debug, Error)]
pub enum CartFileError {
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    #[doc(hidden)]
    #[error("{}", path.display())]
    Pending { path: PathBuf },
}

/// The single-file form.
#[derive(Debug)]
pub struct CartFile;

impl CartFile {
    /// Opens a `.cart` file.
    ///
    /// # Errors
    /// It is not one.
    pub fn open(path: &Path) -> Result<Cartridge, CartFileError> {
        Err(CartFileError::Pending { path: path.to_path_buf() })
    }
}
