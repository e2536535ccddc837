//! Keys and values of an attention layer.

mod block;
mod format;

use std::sync::Arc;

pub(crate) use block::{BLOCK, Block, HeadBlock, KvShape, LANE_PAD};
pub use format::{KvFormat, KvFormatError, UnknownKvFormat};

/// Keys and values of a layer, position after position, in blocks that clones share until one of
/// them writes.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: KvShape,
    len: usize,
    blocks: Vec<Arc<Block>>,
    /// What was appended, where a span is being made.
    pub(crate) recording: Option<Recording>,
}

/// Keys before rotation, and values, `[positions, kv_heads, head_dim]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recording {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

impl KvCache {
    /// An empty cache.
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, len: 0, blocks: Vec::new(), recording: None }
    }

    /// How a position is stored.
    pub(crate) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Positions.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Positions `index · BLOCK` and on.
    pub(crate) fn block(&self, index: usize) -> &Block {
        &self.blocks[index]
    }

    /// Appends positions.
    ///
    /// * `keys`, `values`: `[new, kv_heads, head_dim]`, keys rotated
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        let width = self.shape.width();
        assert_eq!(keys.len(), values.len(), "each position has a key and a value");
        for (key, value) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            let (index, place) = (self.len / BLOCK, self.len % BLOCK);
            if index == self.blocks.len() {
                self.blocks.push(Arc::new(Block::new(self.shape)));
            }
            let block = Arc::make_mut(&mut self.blocks[index]);
            block.write(self.shape, place, key, value);
            self.len += 1;
        }
    }

    /// Forgets every position from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.blocks.truncate(len.div_ceil(BLOCK));
        if let Some(recording) = &mut self.recording {
            recording.keys.truncate(len * self.shape.width());
            recording.values.truncate(len * self.shape.width());
        }
    }

    /// Bytes that keys and values take.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * self.shape.block_bytes()
    }

    /// Bytes of the blocks that `other` does not share.
    pub(crate) fn bytes_beyond(&self, other: &Self) -> usize {
        let pairs = self.blocks.iter().zip(&other.blocks);
        let shared = pairs.filter(|(own, other)| Arc::ptr_eq(own, other)).count();
        (self.blocks.len() - shared) * self.shape.block_bytes()
    }

    /// Keys and values as they are stored, position after position, `[len, kv_heads, head_dim]`
    /// each, little-endian; codes as blocks of `Q8_0`.
    pub(crate) fn export(&self) -> [Vec<u8>; 2] {
        let mut out = [Vec::new(), Vec::new()];
        for position in 0..self.len {
            self.block(position / BLOCK).read(self.shape, position % BLOCK, &mut out);
        }
        out
    }

    /// Puts back what [`KvCache::export`] gave. `None` where the bytes are not those of `len`
    /// positions.
    pub(crate) fn import(shape: KvShape, len: usize, [keys, values]: [&[u8]; 2]) -> Option<Self> {
        let row = shape.row_bytes();
        let expected = len.checked_mul(row)?;
        if keys.len() != expected || values.len() != expected {
            return None;
        }
        let mut cache = Self::new(shape);
        for (keys, values) in keys.chunks(row * BLOCK).zip(values.chunks(row * BLOCK)) {
            let mut block = Block::new(shape);
            for (place, row) in keys.chunks(row).zip(values.chunks(row)).enumerate() {
                block.write_stored(shape, place, row);
            }
            cache.blocks.push(Arc::new(block));
        }
        cache.len = len;
        Some(cache)
    }
}

/// The same positions with the same numbers; what was forgotten does not count.
impl PartialEq for KvCache {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape
            && self.len == other.len
            && self.recording == other.recording
            && self.export() == other.export()
    }
}
