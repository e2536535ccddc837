//! What a session has read so far.

use std::fmt;

use thiserror::Error;

use crate::kv::{KvCache, KvFormat, KvShape};
use crate::recurrent::{RecurrentShape, RecurrentState};

/// What the layers keep of every position so far: a value. Clone it to fork a session, truncate it
/// to go back.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(crate) len: usize,
    pub(crate) layers: Vec<LayerCache>,
    /// Added to the scores of each position, once some position has one that is not zero.
    pub(crate) bias: Option<Vec<f32>>,
    /// Whether a failed forward left it neither here nor there.
    pub(crate) lost: bool,
}

/// The bias of positions that nothing attends to: their share is zero in f32 beside any other score.
pub(crate) const HUSHED: f32 = -1e4;

/// A state that can't go back.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TruncateError {
    /// A recurrent layer keeps only where it is.
    #[error(
        "a recurrent layer (layer {layer}) keeps no earlier position, so the state can't go back \
         from {found} positions to {asked}; allowed: 0, or a clone made at {asked}"
    )]
    Recurrent {
        /// The first such layer.
        layer: usize,
        /// Positions in the state.
        found: usize,
        /// Positions asked for.
        asked: usize,
    },
}

/// What a layer keeps of the positions so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LayerCache {
    /// Of attention.
    Attention(KvCache),
    /// Of a recurrent mixer.
    Recurrent(RecurrentState),
    /// Of a layer without a mixer.
    Nothing,
}

/// What a layer keeps of the positions that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerShape {
    /// Keys and values of each position.
    Attention {
        /// Heads of keys, and of values.
        kv_heads: usize,
        /// Numbers in a head.
        head_dim: usize,
    },
    /// A state of fixed size.
    Recurrent(RecurrentShape),
    /// Nothing: there is no mixer.
    Nothing,
}

impl fmt::Display for LayerShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attention { kv_heads, head_dim } => {
                write!(f, "keys and values of {kv_heads} × {head_dim}")
            }
            Self::Recurrent(shape) => write!(f, "a state of {shape}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// Where the layers of a state, or of a span, are not those of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherLayers {
    /// There are more or fewer.
    Count {
        /// Layers found.
        found: usize,
        /// Layers of the model.
        expected: usize,
    },
    /// One keeps something else.
    Layer {
        /// The first such layer.
        layer: usize,
        /// What it keeps.
        found: LayerShape,
        /// What the model's keeps.
        expected: LayerShape,
    },
}

impl OtherLayers {
    /// The first difference, if there is one.
    pub(crate) fn between(
        found: impl ExactSizeIterator<Item = LayerShape>,
        expected: impl ExactSizeIterator<Item = LayerShape>,
    ) -> Option<Self> {
        if found.len() != expected.len() {
            return Some(Self::Count { found: found.len(), expected: expected.len() });
        }
        let mut pairs = found.zip(expected).enumerate();
        let (layer, (found, expected)) = pairs.find(|(_, (found, expected))| found != expected)?;
        Some(Self::Layer { layer, found, expected })
    }
}

impl fmt::Display for OtherLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { found, expected } => {
                write!(f, "{found} layers, but this model has {expected}")
            }
            Self::Layer { layer, found, expected } => {
                write!(f, "{found} in layer {layer}, but this model has {expected} there")
            }
        }
    }
}

impl LayerCache {
    fn new(shape: LayerShape, format: KvFormat) -> Self {
        match shape {
            LayerShape::Attention { kv_heads, head_dim } => {
                Self::Attention(KvCache::new(KvShape { kv_heads, head_dim, format }))
            }
            LayerShape::Recurrent(shape) => Self::Recurrent(RecurrentState::new(shape)),
            LayerShape::Nothing => Self::Nothing,
        }
    }

    fn shape(&self) -> LayerShape {
        match self {
            Self::Attention(cache) => {
                let KvShape { kv_heads, head_dim, .. } = cache.shape();
                LayerShape::Attention { kv_heads, head_dim }
            }
            Self::Recurrent(state) => LayerShape::Recurrent(state.shape),
            Self::Nothing => LayerShape::Nothing,
        }
    }

    /// Forgets every position from `len` on, which is 0 for a recurrent layer.
    fn truncate(&mut self, len: usize) {
        match self {
            Self::Attention(cache) => cache.truncate(len),
            Self::Recurrent(state) => state.clear(),
            Self::Nothing => {}
        }
    }

    fn bytes_beyond(&self, other: &Self) -> usize {
        match (self, other) {
            (Self::Attention(own), Self::Attention(other)) => own.bytes_beyond(other),
            (own, _) => own.bytes(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Attention(cache) => cache.bytes(),
            Self::Recurrent(state) => state.bytes(),
            Self::Nothing => 0,
        }
    }
}

impl State {
    /// An empty state for layers that keep this, keys and values in `format`.
    pub(crate) fn new(shapes: impl Iterator<Item = LayerShape>, format: KvFormat) -> Self {
        let layers = shapes.map(|shape| LayerCache::new(shape, format)).collect();
        Self { len: 0, layers, bias: None, lost: false }
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
    ///
    /// # Errors
    /// A layer is recurrent and `len` is not 0. The state is as it was.
    pub fn truncate(&mut self, len: usize) -> Result<(), TruncateError> {
        if len >= self.len {
            return Ok(());
        }
        let recurrent = |layer: &LayerCache| matches!(layer, LayerCache::Recurrent(_));
        if let Some(layer) = self.layers.iter().position(recurrent).filter(|_| len > 0) {
            return Err(TruncateError::Recurrent { layer, found: self.len, asked: len });
        }
        self.len = len;
        self.lost = false;
        for layer in &mut self.layers {
            layer.truncate(len);
        }
        if let Some(bias) = &mut self.bias {
            bias.truncate(len);
            if bias.iter().all(|bias| *bias == 0.0) {
                self.bias = None;
            }
        }
        Ok(())
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Bytes that it takes and `other` does not: clones share what neither has written since.
    pub fn bytes_beyond(&self, other: &Self) -> usize {
        let pairs = self.layers.iter().zip(&other.layers);
        pairs.map(|(own, other)| own.bytes_beyond(other)).sum()
    }

    /// Has nothing attend to these positions any more.
    ///
    /// # Panics
    /// There are no such positions.
    pub fn hush(&mut self, positions: std::ops::Range<usize>) {
        let len = self.len;
        let bias = self.bias.get_or_insert_with(|| vec![0.0; len]);
        bias[positions].fill(HUSHED);
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

    /// What each layer keeps.
    pub(crate) fn shapes(&self) -> impl ExactSizeIterator<Item = LayerShape> {
        self.layers.iter().map(LayerCache::shape)
    }
}
