//! Where weights come from: shared, read-only bytes with an element type and a shape.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use cart_format::DType;

/// Read-only bytes with a shared owner: a map of a file, or a buffer. Cloning shares the owner;
/// nothing is copied.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

/// What holds bytes.
trait Owner: Send + Sync {
    fn bytes(&self) -> &[u8];

    /// Lets go of the memory of a range.
    fn release(&self, range: Range<usize>);
}

struct Plain<T>(T);

impl<T: AsRef<[u8]> + Send + Sync> Owner for Plain<T> {
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn release(&self, _range: Range<usize>) {}
}

struct Mapped<T> {
    map: T,
    release: fn(&T, Range<usize>),
}

impl<T: AsRef<[u8]> + Send + Sync> Owner for Mapped<T> {
    fn bytes(&self) -> &[u8] {
        self.map.as_ref()
    }

    fn release(&self, range: Range<usize>) {
        (self.release)(&self.map, range);
    }
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::of(Plain(owner))
    }

    /// All bytes of the map of a file. `release` lets go of the memory of a range, which comes back
    /// from the file when it is read again. A model calls it for weights that it has packed.
    pub fn mapped<T>(map: T, release: fn(&T, Range<usize>)) -> Self
    where
        T: AsRef<[u8]> + Send + Sync + 'static,
    {
        Self::of(Mapped { map, release })
    }

    fn of(owner: impl Owner + 'static) -> Self {
        let range = 0..owner.bytes().len();
        Self { owner: Arc::new(owner), range }
    }

    /// The bytes at `range`, counted from the start of these; `None` where they end before.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start..start + range.len() })
    }

    /// Lets go of the memory of `range`, where these are the map of a file.
    pub(crate) fn release(&self, range: Range<usize>) {
        self.owner.release(self.range.start + range.start..self.range.start + range.end);
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
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
