//! SHA-256 over what is read through small reused buffers.
//!
//! Files are read with `pread`, not mapped: a mapped file that is cut while it is hashed kills the
//! process, and its pages count as the process's memory.

use std::cell::RefCell;
use std::ops::Range;

use cart_format::Hasher;

use crate::file_error::FileError;
use crate::progress::Progress;

/// Bytes of the buffer that each thread reads through. It fits the second-level cache, so that a
/// byte that was read is hashed from there.
pub(crate) const BUFFER: usize = 256 << 10;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Why there is no digest.
#[derive(Debug)]
pub(crate) enum HashError {
    Cancelled,
    File(FileError),
}

impl From<FileError> for HashError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Runs `work` with this thread's buffer. (A stack of them: work that rayon starts inside other
/// work gets another.)
pub(crate) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let pop = BUFFERS.with_borrow_mut(Vec::pop);
    let mut buffer = pop.unwrap_or_else(|| vec![0; BUFFER]);
    let done = work(&mut buffer);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    done
}

/// Reads a range in order and shows it, buffer by buffer, to `each` (bytes, offset).
pub(crate) fn stream(
    range: Range<u64>,
    progress: &dyn Progress,
    read: impl Fn(&mut [u8], u64) -> Result<(), FileError>,
    mut each: impl FnMut(&[u8], u64) -> Result<(), FileError>,
) -> Result<(), HashError> {
    with_buffer(|buffer| {
        let mut at = range.start;
        while at < range.end {
            if progress.cancelled() {
                return Err(HashError::Cancelled);
            }
            let len = (range.end - at).min(buffer.len() as u64) as usize;
            let part = &mut buffer[..len];
            read(part, at)?;
            each(part, at)?;
            progress.add(len as u64);
            at += len as u64;
        }
        Ok(())
    })
}

/// The digest of a range.
pub(crate) fn digest(
    range: Range<u64>,
    progress: &dyn Progress,
    read: impl Fn(&mut [u8], u64) -> Result<(), FileError>,
) -> Result<[u8; 32], HashError> {
    let mut hasher = Hasher::new();
    stream(range, progress, read, |bytes, _| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hasher.finish())
}
