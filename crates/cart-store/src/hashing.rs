//! SHA-256 over what is read through small reused buffers.
//!
//! Files are read with `pread`, not mapped: a mapped file that is cut while it is hashed kills the
//! process, and its pages count as the process's memory.

use std::cell::RefCell;
use std::ops::Range;

use cart_format::limits::SEGMENT;
use cart_format::{Hasher, SegmentId};

use crate::file_error::FileError;
use crate::progress::Progress;

/// Bytes of the buffer that each thread reads through. It fits the second-level cache, so that a
/// byte that was read is hashed from there.
pub(crate) const BUFFER: usize = 256 << 10;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// [`Progress::cancelled`] said so.
#[derive(Debug)]
pub(crate) struct Cancelled;

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

impl From<Cancelled> for HashError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
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

/// The digest of `0..len` and those of its segments, from one reading.
pub(crate) fn digest_segments(
    len: u64,
    progress: &dyn Progress,
    read: impl Fn(&mut [u8], u64) -> Result<(), FileError>,
) -> Result<([u8; 32], Vec<SegmentId>), HashError> {
    let (mut whole, mut segment, mut segments) = (Hasher::new(), Hasher::new(), Vec::new());
    stream(0..len, progress, read, |mut bytes, mut at| {
        while !bytes.is_empty() {
            let end = (at + bytes.len() as u64).min((at / SEGMENT + 1) * SEGMENT);
            let (now, rest) = bytes.split_at((end - at) as usize);
            whole.update_pair(now, &mut segment, now);
            if end.is_multiple_of(SEGMENT) || end == len {
                let done = std::mem::take(&mut segment).finish();
                segments.push(SegmentId::from_bytes(done));
            }
            (bytes, at) = (rest, end);
        }
        Ok(())
    })?;
    Ok((whole.finish(), segments))
}

/// One of two ranges that are hashed together.
pub(crate) struct Lane<'a> {
    pub(crate) range: Range<u64>,
    pub(crate) read: &'a Read<'a>,
    /// Is shown what was read, in order.
    pub(crate) see: Option<&'a mut See<'a>>,
}

/// Looks at bytes.
pub(crate) type See<'a> = dyn FnMut(&[u8]) + 'a;

/// Fills a buffer with the bytes that begin at an offset.
pub(crate) type Read<'a> = dyn Fn(&mut [u8], u64) -> Result<(), FileError> + 'a;

/// The digests of two ranges, hashed side by side: SHA instructions leave room for a second stream.
/// A failure in one does not touch the other.
pub(crate) fn digest_pair(
    lanes: [Lane<'_>; 2],
    progress: &dyn Progress,
) -> Result<[Result<[u8; 32], FileError>; 2], Cancelled> {
    let mut states = lanes.map(|lane| LaneState { lane, hasher: Hasher::new(), failure: None });
    with_buffer(|buffer| {
        let (left, right) = buffer.split_at_mut(BUFFER / 2);
        while states.iter().any(|state| !state.lane.range.is_empty()) {
            if progress.cancelled() {
                return Err(Cancelled);
            }
            let [first, second] = &mut states;
            let (left, right) = (first.fill(left), second.fill(right));
            first.hasher.update_pair(left, &mut second.hasher, right);
            progress.add((left.len() + right.len()) as u64);
        }
        Ok(())
    })?;
    Ok(states.map(|state| state.failure.map_or(Ok(state.hasher.finish()), Err)))
}

struct LaneState<'a> {
    lane: Lane<'a>,
    hasher: Hasher,
    failure: Option<FileError>,
}

impl LaneState<'_> {
    /// The next bytes; none at the end or after a failure.
    fn fill<'b>(&mut self, buffer: &'b mut [u8]) -> &'b [u8] {
        let range = &mut self.lane.range;
        let len = (range.end - range.start).min(buffer.len() as u64) as usize;
        let part = &mut buffer[..len];
        match (self.lane.read)(part, range.start) {
            Ok(()) => {
                range.start += len as u64;
                if let Some(see) = &mut self.lane.see {
                    see(part);
                }
                part
            }
            Err(error) => {
                self.failure = Some(error);
                range.start = range.end;
                &[]
            }
        }
    }
}
