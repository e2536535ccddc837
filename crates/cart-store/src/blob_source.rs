//! Where a cartridge's blobs are read from.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::BlobId;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapOptions};
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::source::read_exact;
use crate::store::Store;

/// Why a blob can't be read.
#[derive(Debug, Error)]
pub enum BlobError {
    /// The manifest has no such blob.
    #[error("blob {blob} is not in the manifest")]
    Unlisted {
        /// The blob.
        blob: BlobId,
    },
    /// It is not where it should be.
    #[error("blob {blob} is missing from {}; pack or fetch it again", at.display())]
    Absent {
        /// The blob.
        blob: BlobId,
        /// The store or file.
        at: PathBuf,
    },
    /// It has another size than the manifest says.
    #[error("blob {blob} in {} has {found} bytes; the manifest says {expected}", at.display())]
    Size {
        /// The blob.
        blob: BlobId,
        /// The file.
        at: PathBuf,
        /// Its length.
        found: u64,
        /// The length by the manifest.
        expected: u64,
    },
    /// More than the caller can take.
    #[error("blob {blob} has {found} bytes; allowed here: {allowed}")]
    TooLarge {
        /// The blob.
        blob: BlobId,
        /// Its length.
        found: u64,
        /// The caller's limit.
        allowed: u64,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Finds the bytes of blobs. A store and a `.cart` file are such.
pub trait BlobSource: Send + Sync {
    /// Where the bytes of a blob are. They are not looked at.
    ///
    /// # Errors
    /// The blob is not there.
    fn locate(&self, blob: &BlobId) -> Result<BlobLocation, BlobError>;

    /// What it is, for messages.
    fn place(&self) -> &Path;
}

/// A range of a file that holds a blob.
#[derive(Clone, Debug)]
pub struct BlobLocation {
    /// The open file.
    pub file: Arc<File>,
    /// Its path, for messages.
    pub path: Arc<Path>,
    /// Where the blob begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl BlobLocation {
    /// Fills `buffer` from `at`, counted from the start of the blob.
    ///
    /// # Errors
    /// The file ends before, or can't be read.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<(), FileError> {
        read_exact(&self.file, &self.path, buffer, self.offset + at)
    }

    /// Maps the bytes.
    ///
    /// # Errors
    /// The file is shorter than the range, or the system refuses.
    pub fn map(&self) -> Result<MappedBlob, FileError> {
        let end = self.offset + self.len;
        if self.file.metadata().at("read", &self.path)?.len() < end {
            let path = self.path.to_path_buf();
            return Err(FileError::Short { action: "map", path, end });
        }
        let mut options = MmapOptions::new();
        options.offset(self.offset).len(self.len as usize);
        // SAFETY: a map is sound while nobody changes or cuts the file. Files in a store and
        // finished `.cart` files are never written in place: all of them come by rename from
        // temporary files and leave by unlinking, which a map outlives. Someone who edits them by
        // hand breaks that, as with every program that maps its data; `verify` reads without a map.
        let map = unsafe { options.map(&*self.file) }.at("map", &self.path)?;
        Ok(MappedBlob(Arc::new(map)))
    }
}

/// The bytes of a blob, mapped from its file. Cheap to clone; the map lives as long as any clone.
#[derive(Clone, Debug)]
pub struct MappedBlob(Arc<Mmap>);

impl MappedBlob {
    /// Lets go of the memory of a range; it comes back from the file when it is read again. Does
    /// nothing where the system can't.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        // SAFETY: the map is of a file and is never written, so what is dropped is read again.
        let _ = unsafe {
            self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl AsRef<[u8]> for MappedBlob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for MappedBlob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl BlobSource for Store {
    fn locate(&self, blob: &BlobId) -> Result<BlobLocation, BlobError> {
        let path = self.layout.blob(blob);
        let file = match File::open(&path).at("open", &path) {
            Err(error) if error.is_missing() => {
                return Err(BlobError::Absent { blob: *blob, at: self.root().to_path_buf() });
            }
            opened => opened?,
        };
        let len = file.metadata().at("read", &path)?.len();
        Ok(BlobLocation { file: Arc::new(file), path: path.into(), offset: 0, len })
    }

    fn place(&self) -> &Path {
        self.root()
    }
}
