//! Which elements stay, a bit each.

/// A bit for each element of a chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Mask {
    words: Vec<u64>,
}

impl Mask {
    /// None of `len` elements.
    pub(super) fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)] }
    }

    pub(super) fn set(&mut self, index: usize, kept: bool) {
        self.words[index / 64] |= u64::from(kept) << (index % 64);
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.words[index / 64] >> (index % 64) & 1 == 1
    }
}
