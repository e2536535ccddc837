//! An open packed file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::ChunkId;
use cart_format::packed::{Packed, PackedError, PackedHead};
use cart_format::safetensors::Parsed;
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::source::read_exact;

/// Bytes read first: as many as the header has.
const FIRST_READ: u64 = cart_format::packed::DATA_START;

/// Why a file is not a usable packed file.
#[derive(Debug, Error)]
pub enum PackedFileError {
    /// Its head or documents are damaged, foreign or edited.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<PackedError>,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An open packed file, whose head and documents are intact. Its chunks were not looked at.
#[derive(Clone, Debug)]
pub struct PackedFile {
    file: Arc<File>,
    path: Arc<Path>,
    len: u64,
    packed: Arc<Packed>,
}

impl PackedFile {
    /// Whether a file begins like a packed one. Says nothing of whether it is intact.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn is_likely(path: &Path) -> Result<bool, FileError> {
        let file = File::open(path).at("open", path)?;
        let len = file.metadata().at("read", path)?.len().min(FIRST_READ);
        let mut prefix = vec![0; len as usize];
        read_exact(&file, path, &mut prefix, 0)?;
        Ok(PackedHead::is_likely(&prefix))
    }

    /// Opens a packed file: checks its header and its documents.
    ///
    /// # Errors
    /// It is not a packed file, cut short, edited, or of a newer version.
    pub fn open(path: &Path) -> Result<Self, PackedFileError> {
        let file = File::open(path).at("open", path)?;
        let refuse =
            |source| PackedFileError::Format { path: path.into(), source: Box::new(source) };
        let len = file.metadata().at("read", path)?.len();
        let mut wanted = len.min(FIRST_READ);
        let head = loop {
            let mut prefix = vec![0; wanted as usize];
            read_exact(&file, path, &mut prefix, 0)?;
            match PackedHead::parse(&prefix, len).map_err(refuse)? {
                Parsed::Head(head) => break head,
                Parsed::NeedMore(bytes) => wanted = bytes,
            }
        };
        let read = |range: Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read_exact(&file, path, &mut bytes, range.start).map(|()| bytes)
        };
        let layout = head.layout();
        let (index, manifest) = (read(layout.index())?, read(layout.manifest())?);
        let commit = layout.commit().map(read).transpose()?;
        let packed = head.check(&index, &manifest, commit.as_deref()).map_err(refuse)?;
        let (file, path, packed) = (Arc::new(file), path.into(), Arc::new(packed));
        Ok(Self { file, path, len, packed })
    }

    /// What is in it.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: it has a header.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads a chunk; whether it has its digest.
    ///
    /// * `bytes`: is replaced
    pub(super) fn chunk(
        &self,
        (range, id): &(Range<u64>, ChunkId),
        bytes: &mut Vec<u8>,
    ) -> Result<bool, FileError> {
        bytes.resize((range.end - range.start) as usize, 0);
        read_exact(&self.file, &self.path, bytes, range.start)?;
        Ok(ChunkId::of(bytes) == *id)
    }
}
