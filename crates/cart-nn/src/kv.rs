//! Keys and values of an attention layer.

/// Keys and values of a layer, position after position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KvCache {
    /// Numbers of a position: `kv_heads · head_dim`.
    pub(crate) width: usize,
    /// `[positions, kv_heads, head_dim]`, rotated.
    pub(crate) keys: Vec<f32>,
    /// `[positions, kv_heads, head_dim]`.
    pub(crate) values: Vec<f32>,
    /// Keys before rotation, where a span is being made.
    pub(crate) unrotated: Option<Vec<f32>>,
}

impl KvCache {
    /// An empty cache for positions of `width` numbers.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, keys: Vec::new(), values: Vec::new(), unrotated: None }
    }

    /// Forgets every position from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.keys.truncate(len * self.width);
        self.values.truncate(len * self.width);
        if let Some(unrotated) = &mut self.unrotated {
            unrotated.truncate(len * self.width);
        }
    }

    /// Bytes that keys and values take.
    pub(crate) fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<f32>()
    }
}
