//! One file of weights, cut at its tensors.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::gguf::{self, GgufError};
use cart_format::safetensors::{self, Parsed, SafetensorsError, TensorRange};

use crate::file_error::{At as _, FileError};
use crate::hashing::with_buffer;
use crate::import::error::ImportError;
use crate::source::{SourceRange, read_exact};

/// Bytes that are read first. Most heads end in them.
const FIRST_READ: u64 = 256 << 10;

/// An open file that is imported, and what it was when it was opened.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    file: Arc<File>,
    path: Arc<Path>,
    stamp: Stamp,
}

/// Tells a file that was written to meanwhile. A help for people; digests are the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Some bytes of a file.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// A tensor.
    Tensor(TensorRange),
    /// A head, or padding that is not zero.
    Bytes(std::ops::Range<u64>),
    /// Zeros.
    Zeros(u64),
}

impl OpenFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ImportError> {
        let file = File::open(path).at("open", path)?;
        let metadata = file.metadata().at("read", path)?;
        if !metadata.is_file() {
            return Err(ImportError::UnknownInput { path: path.to_path_buf() });
        }
        Ok(Self { file: Arc::new(file), path: path.into(), stamp: Stamp::of(&metadata) })
    }

    pub(crate) fn len(&self) -> u64 {
        self.stamp.len
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn range(&self, range: &std::ops::Range<u64>) -> SourceRange {
        SourceRange::range(&self.file, &self.path, range.start, range.end - range.start)
    }

    pub(crate) fn whole(&self) -> SourceRange {
        self.range(&(0..self.len()))
    }

    /// Reads a document of at most `allowed` bytes.
    pub(crate) fn read(&self, allowed: u64) -> Result<Vec<u8>, ImportError> {
        if self.len() > allowed {
            let path = self.path.to_path_buf();
            return Err(ImportError::DocumentTooLarge { path, found: self.len(), allowed });
        }
        Ok(self.prefix(self.len())?)
    }

    /// Refuses a file that was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImportError> {
        let now = self.file.metadata().at("read", &self.path)?;
        if Stamp::of(&now) == self.stamp {
            return Ok(());
        }
        Err(ImportError::Changed { path: self.path.to_path_buf() })
    }

    pub(crate) fn safetensors(&self) -> Result<safetensors::Head, ImportError> {
        let parse = |bytes: &[u8]| safetensors::Head::parse(bytes, self.len());
        let wrap =
            |source: SafetensorsError, path: PathBuf| ImportError::Safetensors { path, source };
        self.head(parse, wrap)
    }

    pub(crate) fn gguf(&self) -> Result<gguf::Head, ImportError> {
        let parse = |bytes: &[u8]| gguf::Head::parse(bytes, self.len());
        let wrap = |source: GgufError, path: PathBuf| ImportError::Gguf { path, source };
        self.head(parse, wrap)
    }

    /// Every byte of the file in one part, in order. `tensors` are in order and apart, as both
    /// heads promise.
    pub(crate) fn parts(
        &self,
        data_start: u64,
        tensors: Vec<TensorRange>,
    ) -> Result<Vec<Part>, ImportError> {
        let mut parts = vec![Part::Bytes(0..data_start)];
        let mut at = data_start;
        for tensor in tensors {
            self.push_gap(at..tensor.range.start, &mut parts)?;
            at = tensor.range.end;
            parts.push(Part::Tensor(tensor));
        }
        self.push_gap(at..self.len(), &mut parts)?;
        Ok(parts)
    }

    fn push_gap(&self, gap: std::ops::Range<u64>, parts: &mut Vec<Part>) -> Result<(), FileError> {
        if !gap.is_empty() {
            let zeros = self.is_zero(&gap)?;
            let length = gap.end - gap.start;
            parts.push(if zeros { Part::Zeros(length) } else { Part::Bytes(gap) });
        }
        Ok(())
    }

    fn is_zero(&self, range: &std::ops::Range<u64>) -> Result<bool, FileError> {
        with_buffer(|buffer| {
            let mut at = range.start;
            while at < range.end {
                let length = (range.end - at).min(buffer.len() as u64) as usize;
                read_exact(&self.file, &self.path, &mut buffer[..length], at)?;
                if buffer[..length].iter().any(|&byte| byte != 0) {
                    return Ok(false);
                }
                at += length as u64;
            }
            Ok(true)
        })
    }

    fn head<T, E>(
        &self,
        parse: impl Fn(&[u8]) -> Result<Parsed<T>, E>,
        wrap: impl Fn(E, PathBuf) -> ImportError,
    ) -> Result<T, ImportError> {
        let mut given = self.prefix(self.len().min(FIRST_READ))?;
        loop {
            match parse(&given).map_err(|error| wrap(error, self.path.to_path_buf()))? {
                Parsed::Head(head) => return Ok(head),
                Parsed::NeedMore(more) => given = self.prefix(more)?,
            }
        }
    }

    fn prefix(&self, len: u64) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; len as usize];
        read_exact(&self.file, &self.path, &mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
