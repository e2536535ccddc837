//! What a session has read so far.

use crate::kv::KvCache;

/// Keys and values of every position so far: a value. Clone it to fork a session, truncate it to
/// go back.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(crate) len: usize,
    pub(crate) layers: Vec<LayerCache>,
    /// Added to the scores of each position, once some position has one that is not zero.
    pub(crate) bias: Option<Vec<f32>>,
}

/// What a layer keeps of the positions so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LayerCache {
    /// Of attention.
    Attention(KvCache),
}

impl LayerCache {
    /// Numbers of a position, for errors.
    pub(crate) fn width(&self) -> usize {
        let Self::Attention(cache) = self;
        cache.width
    }

    fn truncate(&mut self, len: usize) {
        let Self::Attention(cache) = self;
        cache.truncate(len);
    }

    fn bytes(&self) -> usize {
        let Self::Attention(cache) = self;
        cache.bytes()
    }
}

impl State {
    /// An empty state for layers of these widths.
    pub(crate) fn new(widths: impl Iterator<Item = usize>) -> Self {
        let layers = widths.map(|width| LayerCache::Attention(KvCache::new(width)));
        Self { len: 0, layers: layers.collect(), bias: None }
    }

    /// Positions in the state.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every position from `len` on. Does nothing where there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        for layer in &mut self.layers {
            layer.truncate(len);
        }
        if let Some(bias) = &mut self.bias {
            bias.truncate(len);
            if bias.iter().all(|bias| *bias == 0.0) {
                self.bias = None;
            }
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Counts `new` positions whose keys and values were appended, with this bias.
    pub(crate) fn advance(&mut self, new: usize, bias: f32) {
        self.len += new;
        if bias != 0.0 && self.bias.is_none() {
            self.bias = Some(vec![0.0; self.len - new]);
        }
        if let Some(biases) = &mut self.bias {
            biases.resize(self.len, bias);
        }
    }

    /// Layers and key widths, for errors.
    pub(crate) fn geometry(&self) -> String {
        geometry(self.layers.iter().map(LayerCache::width))
    }
}

/// Layers and key widths, for errors: `30 × 192`.
pub(crate) fn geometry(widths: impl ExactSizeIterator<Item = usize>) -> String {
    let layers = widths.len();
    let mut widths: Vec<_> = widths.collect();
    widths.dedup();
    let widths: Vec<_> = widths.iter().map(usize::to_string).collect();
    format!("{layers} × {}", widths.join(", "))
}
