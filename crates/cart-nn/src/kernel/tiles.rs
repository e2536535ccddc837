//! Tiles in the making: a matrix is packed piece by piece, as its bytes go by.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use cart_format::DType;

use crate::kernel::Kernels;
use crate::kernel::format::{Format, GROUP, with_format};
use crate::kernel::memory::{Arena, Memory};
use crate::kernel::packed::{LINE, OUTPUTS, Packed, pack_tile, tile_bytes};
use crate::parallel::split;

/// Bytes of rows that are packed before they are let go of.
const STEP: usize = 4 << 20;

/// A matrix of blocks, some of whose tiles are packed.
pub(crate) struct Tiles {
    dtype: DType,
    /// Outputs and inputs.
    shape: [usize; 2],
    bytes: Memory,
    /// For each tile whether somebody has packed it, or is at it.
    taken: Vec<AtomicBool>,
}

impl Tiles {
    /// None is packed yet. The type is one of blocks, of which a row has a whole number; see
    /// [`Tiles::room`].
    pub(crate) fn new(arena: &mut Arena, dtype: DType, shape: [usize; 2]) -> Self {
        let count = shape[0].div_ceil(OUTPUTS);
        let bytes = arena.take(Self::room(dtype, shape).unwrap_or(0));
        let taken = (0..count).map(|_| AtomicBool::new(false)).collect();
        Self { dtype, shape, bytes, taken }
    }

    /// Bytes that the tiles of a matrix take; none if it has none.
    pub(crate) fn room(dtype: DType, [outputs, inputs]: [usize; 2]) -> Option<usize> {
        let blocks = dtype.block_elements() as usize;
        if outputs == 0 || inputs == 0 || !inputs.is_multiple_of(blocks) {
            return None;
        }
        // No tile is larger than its values as floats.
        inputs.checked_mul(size_of::<f32>() * OUTPUTS)?;
        let size = with_format!(dtype, F => Some(tile_bytes::<F>(inputs / GROUP)), else None)?;
        outputs.div_ceil(OUTPUTS).checked_mul(size)?.checked_next_multiple_of(LINE)
    }

    /// Type, outputs and inputs.
    pub(crate) fn kind(&self) -> (DType, [usize; 2]) {
        (self.dtype, self.shape)
    }

    /// Bytes of the rows of a tile.
    pub(crate) fn grain(&self) -> usize {
        let blocks = self.shape[1] as u64 / self.dtype.block_elements();
        OUTPUTS * (blocks * self.dtype.block_bytes()) as usize
    }

    /// Packs the tiles whose rows are all in `bytes`, which begin at byte `at` of the matrix.
    pub(crate) fn see(&self, at: usize, bytes: &[u8]) {
        let grain = self.grain();
        let rows = self.shape[0] * (grain / OUTPUTS);
        let bytes = &bytes[..bytes.len().min(rows.saturating_sub(at))];
        let end = at + bytes.len();
        // The last tile may have fewer rows.
        let last = if end >= rows { self.taken.len() } else { end / grain };
        let tiles = at.div_ceil(grain)..last;
        if !tiles.is_empty() {
            self.pack(tiles.clone(), &bytes[tiles.start * grain - at..]);
        }
    }

    /// Packs those of some tiles that nobody has packed. `rows` begin with the first one's.
    fn pack(&self, tiles: Range<usize>, rows: &[u8]) {
        with_format!(self.dtype, F => self.pack_as::<F>(tiles, rows), else ());
    }

    fn pack_as<F: Format>(&self, tiles: Range<usize>, rows: &[u8]) {
        let (kernels, grain) = (Kernels::detect(), self.grain());
        let size = tile_bytes::<F>(self.shape[1] / GROUP);
        for (tile, rows) in tiles.zip(rows.chunks(grain)) {
            if !self.taken[tile].swap(true, Ordering::AcqRel) {
                // SAFETY: nobody else has taken the tile, and none is read before all are packed.
                let tile = unsafe { self.bytes.part(tile * size..(tile + 1) * size) };
                pack_tile::<F>(kernels, rows, grain / OUTPUTS, tile);
            }
        }
    }

    /// Packs what is missing, by the threads at hand. `release(n)` is called when the first `n` bytes
    /// of the rows will not be read again.
    pub(crate) fn finish(self, rows: &[u8], release: &mut dyn FnMut(usize)) -> Packed {
        let grain = self.grain();
        let missing: Vec<usize> = (0..self.taken.len())
            .filter(|&tile| !self.taken[tile].load(Ordering::Acquire))
            .collect();
        for step in missing.chunks((STEP / grain).max(1)) {
            split(step.len(), 1, &|part| {
                for &tile in &step[part] {
                    self.pack(tile..tile + 1, &rows[tile * grain..]);
                }
            });
            let done = step.last().map_or(0, |tile| tile + 1);
            release((done * grain).min(rows.len()));
        }
        Packed::of(self.bytes, self.shape[0], self.shape[1] / GROUP)
    }
}
