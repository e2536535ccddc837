//! Memory for packed weights: few large pieces, so that the system can back them with large pages.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::kernel::packed::LINE;

/// Bytes of a piece that is made for more than what is asked for now. What is not used of it is never
/// touched, so it takes no memory.
const PIECE: usize = 32 << 20;

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Gives memory away, front to back.
#[derive(Default)]
pub(crate) struct Arena {
    piece: Option<Arc<Piece>>,
    used: usize,
}

/// Bytes of a piece, which lives as long as any of its memory.
#[derive(Clone)]
pub(crate) struct Memory {
    piece: Arc<Piece>,
    start: usize,
    len: usize,
}

/// Memory that is written part by part, and only read from then on.
struct Piece {
    start: *mut u8,
    len: usize,
    /// Keeps the memory.
    _map: MmapMut,
}

// SAFETY: who writes which part of the memory is settled by who calls `Memory::part`.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    /// `len` zeros that begin where a large page can begin; none where the system has no room. Only
    /// whole large pages are asked for: the last one would take memory that nobody uses.
    fn new(len: usize) -> Option<Self> {
        let mut map = MmapMut::map_anon(len.checked_add(LARGE_PAGE)?).ok()?;
        let skipped = map.as_ptr().align_offset(LARGE_PAGE).min(LARGE_PAGE);
        #[cfg(target_os = "linux")]
        {
            let whole = len / LARGE_PAGE * LARGE_PAGE;
            // Where the system has no large pages, small ones do.
            let _ = map.advise_range(memmap2::Advice::HugePage, skipped, whole);
        }
        // SAFETY: at most a large page into a map that is one longer than asked for.
        let start = unsafe { map.as_mut_ptr().add(skipped) };
        Some(Self { start, len, _map: map })
    }
}

impl Memory {
    /// Bytes `range`, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes any of them for as long as they are held.
    #[allow(clippy::mut_from_ref, reason = "who writes what is settled by the caller")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the piece, as just checked; unshared, as the caller promises.
        unsafe {
            let start = self.piece.start.add(self.start + range.start);
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}

impl Arena {
    /// With room for as many bytes; none where the system has none.
    pub(crate) fn with_room(len: usize) -> Option<Self> {
        Some(Self { piece: Some(Arc::new(Piece::new(len)?)), used: 0 })
    }

    /// Bytes that nobody else has: zeros.
    pub(crate) fn take(&mut self, len: usize) -> Memory {
        let room = self.piece.as_ref().map_or(0, |piece| piece.len.saturating_sub(self.used));
        if self.piece.is_none() || room < len {
            let piece = Piece::new(len.max(PIECE));
            self.piece = Some(Arc::new(piece.expect("the system has memory for the weights")));
            self.used = 0;
        }
        let piece = Arc::clone(self.piece.as_ref().expect("just made"));
        let start = self.used;
        self.used = (start + len).next_multiple_of(LINE);
        Memory { piece, start, len }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: inside the piece, which begins as zeros; whoever writes is promised that nobody reads.
        unsafe { std::slice::from_raw_parts(self.piece.start.add(self.start), self.len) }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}
