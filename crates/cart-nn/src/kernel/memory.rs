//! Memory for packed weights: few large pieces, so that the system can back them with large pages.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::MmapMut;

use crate::kernel::packed::LINE;
use crate::parallel::{Rows, split};

/// Bytes of a piece. What is not used of it is never touched, so it takes no memory.
const PIECE: usize = 32 << 20;

/// Bytes that are filled before their source is let go of.
const STEP: usize = 4 << 20;

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
    map: MmapMut,
    start: *mut u8,
}

// SAFETY: who writes which part of the memory is settled by `Arena`.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    fn new(len: usize) -> Self {
        let mut map = MmapMut::map_anon(len).expect("the system has memory for the weights");
        #[cfg(target_os = "linux")]
        // Where the system has no large pages, small ones do.
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { start: map.as_mut_ptr(), map }
    }
}

impl Arena {
    /// `len` bytes from `fill`, which is called with a place and the zeros to write from there: whole
    /// multiples of `grain` of them, by several threads. `done(n)` is called as soon as the first `n`
    /// bytes are written.
    pub(crate) fn filled(
        &mut self,
        len: usize,
        grain: usize,
        fill: &(dyn Fn(usize, &mut [u8]) + Sync),
        done: &mut dyn FnMut(usize),
    ) -> Memory {
        let memory = self.take(len);
        // SAFETY: the memory is inside its piece, `take` gives it to nobody else, and it is not read
        // before it is written.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(memory.piece.start.add(memory.start), len) };
        let bytes = Rows::new(bytes, len);
        let grains = len / grain;
        assert_eq!(grains * grain, len);
        let step = (STEP / grain).max(1);
        for first in (0..grains).step_by(step) {
            let count = step.min(grains - first);
            split(count, 1, &|range| {
                let part = (first + range.start) * grain..(first + range.end) * grain;
                // SAFETY: each grain is in one range of the split.
                fill(part.start, unsafe { bytes.part(0, part.clone()) });
            });
            done((first + count) * grain);
        }
        memory
    }

    /// Bytes that nobody else has, not written yet.
    fn take(&mut self, len: usize) -> Memory {
        let room = self.piece.as_ref().map_or(0, |piece| piece.map.len().saturating_sub(self.used));
        if self.piece.is_none() || room < len {
            self.piece = Some(Arc::new(Piece::new(len.max(PIECE))));
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
        // SAFETY: inside the piece; `filled` wrote all of it before it gave the memory away.
        unsafe { std::slice::from_raw_parts(self.piece.start.add(self.start), self.len) }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}
