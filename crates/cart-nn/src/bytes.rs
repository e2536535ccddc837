//! Where weights come from: shared, read-only bytes with an element type and a shape.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use cart_format::DType;

/// Read-only bytes with a shared owner: a map of a file, or a buffer. Cloning shares the owner;
/// nothing is copied.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::from_owner(Arc::new(owner))
    }

    /// All bytes of an owner that is shared already.
    pub fn from_owner(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*owner).as_ref().len();
        Self { owner, range }
    }

    /// The bytes at `range`, counted from the start of these; `None` where they end before.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start..start + range.len() })
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("range", &self.range).finish_non_exhaustive()
    }
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub struct WeightTensor {
    /// Element type; block types keep their GGUF blocks.
    pub dtype: DType,
    /// Logical shape in C order, the last axis contiguous: `[outputs, inputs]` for a projection.
    /// (GGUF lists its dimensions the other way round.)
    pub shape: Vec<usize>,
    /// Raw little-endian bytes.
    pub bytes: SharedBytes,
}

/// Tensors by name.
pub trait WeightSource {
    /// The tensor called `name`, if there is one.
    fn tensor(&self, name: &str) -> Option<WeightTensor>;
}

impl WeightSource for std::collections::BTreeMap<String, WeightTensor> {
    fn tensor(&self, name: &str) -> Option<WeightTensor> {
        self.get(name).cloned()
    }
}
