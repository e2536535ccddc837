//! Copying blobs into other files: inside the kernel where that works.

use std::fs::File;
use std::sync::mpsc::channel;
use std::thread::ScopedJoinHandle;

use crate::blob_source::BlobLocation;
use crate::file_error::{At as _, FileError};
use crate::hashing::{self, HashError};
use crate::progress::Progress;
use crate::publish::Unpublished;
use crate::source::read_exact;

/// Bytes copied between two questions whether to stop.
const COPY: u64 = 8 << 20;
/// Bytes after which those so far are written to the disk.
const SYNC: u64 = 64 << 20;

/// Something that a file is put together from.
#[derive(Debug)]
pub(crate) enum Part {
    /// A blob.
    Blob(BlobLocation),
    /// So many zero bytes.
    Zeros(u64),
}

impl Part {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Blob(from) => from.len,
            Self::Zeros(zeros) => *zeros,
        }
    }
}

/// Writes parts one after the other from `start` on, and shows every byte that was written, in
/// order, to `see`: one thread copies, and this one reads what is in the new file already, so that
/// what is seen is what was written. A third has it written to the disk meanwhile, so that little
/// is left for the sync.
///
/// # Errors
/// A blob can't be read, the file can't be written, `see` fails, or `progress` cancelled.
pub(crate) fn copy_and_see(
    parts: &[Part],
    to: &Unpublished,
    start: u64,
    progress: &dyn Progress,
    see: impl FnMut(&[u8], u64) -> Result<(), FileError>,
) -> Result<(), HashError> {
    let total: u64 = parts.iter().map(Part::len).sum();
    if total <= COPY {
        copy_parts(parts, to, start, progress, &mut |_| {})?;
        return see_what_comes([start + total], to, start, progress, see);
    }
    let (written, so_far) = channel();
    let (large, due) = channel();
    std::thread::scope(|threads| {
        let copier = threads.spawn(move || {
            let mut synced = start;
            // A thread that has failed needs no more, and says so by its own error.
            let mut tell = |end| {
                let _ = written.send(end);
                if end - synced >= SYNC {
                    synced = end;
                    let _ = large.send(());
                }
            };
            copy_parts(parts, to, start, progress, &mut tell)
        });
        let syncer = threads.spawn(move || due.iter().try_for_each(|()| to.sync_so_far()));
        let seen = see_what_comes(so_far, to, start, progress, see);
        join(copier)?;
        join(syncer)?;
        seen
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn copy_parts(
    parts: &[Part],
    to: &Unpublished,
    mut at: u64,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(u64),
) -> Result<(), HashError> {
    for part in parts {
        match part {
            Part::Blob(from) => copy(from, to, at, &Quiet(progress), tell)?,
            Part::Zeros(zeros) => {
                let zero = |buffer: &mut [u8], _| {
                    buffer.fill(0);
                    Ok(())
                };
                let quiet = Quiet(progress);
                hashing::stream(0..*zeros, &quiet, zero, |bytes, offset| {
                    to.write_at(bytes, at + offset)
                })?;
                tell(at + zeros);
            }
        }
        at += part.len();
    }
    Ok(())
}

/// Reads the new file up to each end that is told, until nobody tells any more.
fn see_what_comes(
    so_far: impl IntoIterator<Item = u64>,
    to: &Unpublished,
    start: u64,
    progress: &dyn Progress,
    mut see: impl FnMut(&[u8], u64) -> Result<(), FileError>,
) -> Result<(), HashError> {
    let mut at = start;
    for end in so_far {
        let read = |buffer: &mut [u8], offset| read_exact(to.file(), to.path(), buffer, offset);
        hashing::stream(at..end, progress, read, &mut see)?;
        at = end;
    }
    Ok(())
}

/// Copies a blob inside the kernel where that works, through a buffer where it does not. `tell`
/// hears, again and again, up to where the new file has been written.
pub(crate) fn copy(
    from: &BlobLocation,
    to: &Unpublished,
    start: u64,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(u64),
) -> Result<(), HashError> {
    to.before_write()?;
    let mut done = 0;
    while done < from.len {
        if progress.cancelled() {
            return Err(HashError::Cancelled);
        }
        let want = (from.len - done).min(COPY);
        let copied = copy_in_kernel(&from.file, from.offset + done, to.file(), start + done, want);
        match copied {
            Ok(bytes) if bytes > 0 => {
                progress.add(bytes);
                done += bytes;
                tell(start + done);
            }
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::IO) => {
                copied.at("write", to.path())?;
            }
            // Not on this file system, or the file ends: reading will tell which.
            _ => {
                copy_through_buffer(from, done, to, start, progress)?;
                tell(start + from.len);
                return Ok(());
            }
        }
    }
    Ok(())
}

fn copy_in_kernel(
    from: &File,
    mut offset: u64,
    to: &File,
    mut start: u64,
    bytes: u64,
) -> rustix::io::Result<u64> {
    let copied =
        rustix::fs::copy_file_range(from, Some(&mut offset), to, Some(&mut start), bytes as usize)?;
    Ok(copied as u64)
}

fn copy_through_buffer(
    from: &BlobLocation,
    done: u64,
    to: &Unpublished,
    start: u64,
    progress: &dyn Progress,
) -> Result<(), HashError> {
    hashing::stream(
        done..from.len,
        progress,
        |buffer, at| from.read_at(buffer, at),
        |bytes, at| to.write_at(bytes, start + at),
    )
}

/// Copying that is counted where the bytes are read back; it can still be cancelled.
struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
