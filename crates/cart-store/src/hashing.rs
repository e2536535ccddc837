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

/// Most bytes that are read at once because they belong together.
const MAX_GRAIN: usize = 4 << 20;

/// Runs `work` with this thread's buffer. (A stack of them: work that rayon starts inside other
/// work gets another.)
pub(crate) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    with_buffer_of(BUFFER, work)
}

/// As [`with_buffer`], with `len` bytes.
fn with_buffer_of<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let done = work(&mut buffer[..len]);
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
    /// Bytes that belong together: what is read at once ends where such a group ends, counted from 0.
    pub(crate) grain: usize,
    pub(crate) read: &'a Read<'a>,
    /// Is shown what was read, in order.
    pub(crate) see: Option<&'a mut See<'a>>,
}

/// Looks at bytes, and is told where they begin.
pub(crate) type See<'a> = dyn FnMut(u64, &[u8]) + 'a;

/// Fills a buffer with the bytes that begin at an offset.
pub(crate) type Read<'a> = dyn Fn(&mut [u8], u64) -> Result<(), FileError> + 'a;

/// The digests of two ranges, hashed side by side: SHA instructions leave room for a second stream.
/// A failure in one does not touch the other.
pub(crate) fn digest_pair(
    lanes: [Lane<'_>; 2],
    progress: &dyn Progress,
) -> Result<[Result<[u8; 32], FileError>; 2], Cancelled> {
    let grain = lanes.iter().map(|lane| lane.grain.min(MAX_GRAIN)).max().unwrap_or(0);
    with_buffer_of(BUFFER.max(2 * grain), |buffer| {
        let [left, right] = lanes;
        let (left_buffer, right_buffer) = buffer.split_at_mut(buffer.len() / 2);
        let mut left = LaneState::new(left, left_buffer);
        let mut right = LaneState::new(right, right_buffer);
        loop {
            if progress.cancelled() {
                return Err(Cancelled);
            }
            let together = match (left.fill(), right.fill()) {
                (0, 0) => break,
                (0, alone) | (alone, 0) => alone,
                (left, right) => left.min(right),
            };
            let (from_left, from_right) = (left.advance(together), right.advance(together));
            progress.add((from_left.len() + from_right.len()) as u64);
            let (from_left, from_right) = (&left.buffer[from_left], &right.buffer[from_right]);
            left.hasher.update_pair(from_left, &mut right.hasher, from_right);
        }
        Ok([left.finish(), right.finish()])
    })
}

struct LaneState<'a, 'b> {
    lane: Lane<'a>,
    hasher: Hasher,
    failure: Option<FileError>,
    buffer: &'b mut [u8],
    /// What of the buffer was read and not hashed yet.
    waiting: Range<usize>,
}

impl<'a, 'b> LaneState<'a, 'b> {
    fn new(lane: Lane<'a>, buffer: &'b mut [u8]) -> Self {
        Self { lane, hasher: Hasher::new(), failure: None, buffer, waiting: 0..0 }
    }

    /// Reads on if nothing waits. Gives how many bytes wait; none at the end or after a failure.
    fn fill(&mut self) -> usize {
        let range = &mut self.lane.range;
        if !self.waiting.is_empty() || range.is_empty() {
            return self.waiting.len();
        }
        let len = piece(range, self.buffer.len(), self.lane.grain);
        let part = &mut self.buffer[..len];
        match (self.lane.read)(part, range.start) {
            Ok(()) => {
                if let Some(see) = &mut self.lane.see {
                    see(range.start, part);
                }
                range.start += len as u64;
                self.waiting = 0..len;
            }
            Err(error) => {
                self.failure = Some(error);
                range.start = range.end;
            }
        }
        self.waiting.len()
    }

    /// Takes the next bytes that wait, at most `len`.
    fn advance(&mut self, len: usize) -> Range<usize> {
        let start = self.waiting.start;
        self.waiting.start += len.min(self.waiting.len());
        start..self.waiting.start
    }

    fn finish(self) -> Result<[u8; 32], FileError> {
        self.failure.map_or(Ok(self.hasher.finish()), Err)
    }
}

/// Bytes to read next: as many as there is room for, up to the end of a group.
fn piece(range: &Range<u64>, room: usize, grain: usize) -> usize {
    let full = range.start + room as u64;
    if full >= range.end {
        return (range.end - range.start) as usize;
    }
    let whole = full / grain.max(1) as u64 * grain.max(1) as u64;
    if whole > range.start { (whole - range.start) as usize } else { room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_groups_end() {
        assert_eq!(piece(&(0..100), 64, 10), 60);
        assert_eq!(piece(&(5..100), 64, 10), 55);
        assert_eq!(piece(&(60..100), 64, 10), 40);
        assert_eq!(piece(&(0..100), 8, 10), 8);
        assert_eq!(piece(&(8..100), 8, 10), 2);
        assert_eq!(piece(&(0..100), 64, 1), 64);
        assert_eq!(piece(&(0..100), 64, 0), 64);
    }
}
