//! What sequences have read so far, as tensors.

use candle_core::{DType, Result, Tensor};

use crate::state::{HUSHED, LayerShape, TruncateError};

/// What the layers keep of every position so far: a value. Clones share tensors, which never change
/// in place, so that a clone is a fork.
///
/// It is of one sequence, or of several of equal length that go through the graph together.
#[derive(Clone)]
pub struct GraphState {
    pub(super) batch: usize,
    pub(super) len: usize,
    pub(super) layers: Vec<LayerState>,
    /// Added to the scores of each position, `[len]`, once some position has one.
    pub(super) bias: Option<Tensor>,
    /// Whether keys before rotation are kept too.
    pub(super) recording: bool,
}

/// What a layer keeps.
#[derive(Clone)]
pub(super) struct LayerState {
    pub(super) shape: LayerShape,
    pub(super) kept: Option<Kept>,
}

#[derive(Clone)]
pub(super) enum Kept {
    /// `[batch, kv_heads, len, head_dim]`; `raw`: keys before rotation.
    Attention { keys: Tensor, values: Tensor, raw: Option<Tensor> },
    /// `window`: the last inputs of the convolution, `[batch, conv_past, conv_width]`, none where
    /// it looks back no position; `channels`: `[batch, heads, head_dim, state_size]`.
    Recurrent { window: Option<Tensor>, channels: Tensor },
}

impl GraphState {
    pub(super) fn new(shapes: &[LayerShape], batch: usize) -> Self {
        let layers = shapes.iter().map(|&shape| LayerState { shape, kept: None }).collect();
        Self { batch, len: 0, layers, bias: None, recording: false }
    }

    /// Positions in the state.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sequences that go through the graph together.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Forgets every position from `len` on. Does nothing where there are no more than that.
    ///
    /// # Errors
    /// A layer is recurrent and `len` is not 0. The state is as it was.
    pub fn truncate(&mut self, len: usize) -> std::result::Result<(), TruncateError> {
        if len >= self.len {
            return Ok(());
        }
        let recurrent = |layer: &LayerState| matches!(layer.shape, LayerShape::Recurrent(_));
        if let Some(layer) = self.layers.iter().position(recurrent).filter(|_| len > 0) {
            return Err(TruncateError::Recurrent { layer, found: self.len, asked: len });
        }
        self.len = len;
        self.bias = self.bias.take().filter(|_| len > 0).map(|bias| cut(&bias, 0, len));
        for layer in &mut self.layers {
            layer.kept = match layer.kept.take() {
                Some(Kept::Attention { keys, values, raw }) if len > 0 => Some(Kept::Attention {
                    keys: cut(&keys, 2, len),
                    values: cut(&values, 2, len),
                    raw: raw.map(|raw| cut(&raw, 2, len)),
                }),
                _ => None,
            };
        }
        Ok(())
    }

    /// The same numbers, through which no gradient goes back.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut state = self.clone();
        state.bias = state.bias.map(|bias| bias.detach());
        for layer in &mut state.layers {
            layer.kept = layer.kept.take().map(|kept| match kept {
                Kept::Attention { keys, values, raw } => Kept::Attention {
                    keys: keys.detach(),
                    values: values.detach(),
                    raw: raw.map(|raw| raw.detach()),
                },
                Kept::Recurrent { window, channels } => Kept::Recurrent {
                    window: window.map(|window| window.detach()),
                    channels: channels.detach(),
                },
            });
        }
        state
    }

    /// Bytes that its tensors take, those that clones share included.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flat_map(LayerState::tensors).map(bytes).sum()
    }

    /// Keys and values of layer `layer`, `[batch, kv_heads, len, head_dim]`, the keys rotated; none
    /// where it has none.
    pub fn keys_and_values(&self, layer: usize) -> Option<(&Tensor, &Tensor)> {
        match self.layers.get(layer)?.kept.as_ref()? {
            Kept::Attention { keys, values, .. } => Some((keys, values)),
            Kept::Recurrent { .. } => None,
        }
    }

    pub(super) fn shapes(&self) -> impl ExactSizeIterator<Item = LayerShape> {
        self.layers.iter().map(|layer| layer.shape)
    }

    /// Has nothing attend to these positions any more.
    ///
    /// # Errors
    /// The device fails.
    pub fn hush(&mut self, positions: std::ops::Range<usize>) -> Result<()> {
        let Some(bias) = &self.bias else { return Ok(()) };
        let mut values = bias.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        values[positions].fill(HUSHED);
        self.bias = Some(Tensor::new(values, bias.device())?.to_dtype(bias.dtype())?);
        Ok(())
    }

    /// Counts `new` positions, with this bias.
    pub(super) fn advance(&mut self, new: usize, bias: Option<&Tensor>) -> Result<()> {
        let past = self.len;
        self.len += new;
        let before = self.bias.take();
        let Some(like) = bias.or(before.as_ref()) else { return Ok(()) };
        let zeros = |count: usize| Tensor::zeros(count, like.dtype(), like.device());
        let of_new = match bias {
            Some(bias) => bias.clone(),
            None => zeros(new)?,
        };
        self.bias = Some(match &before {
            Some(before) => Tensor::cat(&[before, &of_new], 0)?,
            None if past > 0 => Tensor::cat(&[zeros(past)?, of_new], 0)?,
            None => of_new,
        });
        Ok(())
    }
}

impl LayerState {
    /// Appends keys and values, and gives all of them.
    ///
    /// * each `[batch, kv_heads, new, head_dim]`
    pub(super) fn append(
        &mut self,
        keys: Tensor,
        values: Tensor,
        raw: Option<Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (keys, values, raw) = match self.kept.take() {
            Some(Kept::Attention { keys: old, values: old_values, raw: old_raw }) => {
                let raw = match (old_raw, raw) {
                    (Some(old), Some(raw)) => Some(Tensor::cat(&[old, raw], 2)?),
                    (_, raw) => raw,
                };
                let keys = Tensor::cat(&[old, keys], 2)?;
                (keys, Tensor::cat(&[old_values, values], 2)?, raw)
            }
            _ => (keys, values, raw),
        };
        let (all_keys, all_values) = (keys.clone(), values.clone());
        self.kept = Some(Kept::Attention { keys, values, raw });
        Ok((all_keys, all_values))
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let tensors = match &self.kept {
            Some(Kept::Attention { keys, values, raw }) => [Some(keys), Some(values), raw.as_ref()],
            Some(Kept::Recurrent { window, channels }) => [window.as_ref(), Some(channels), None],
            None => [None, None, None],
        };
        tensors.into_iter().flatten()
    }
}

impl std::fmt::Debug for GraphState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { batch, len, .. } = self;
        f.debug_struct("GraphState").field("batch", batch).field("len", len).finish_non_exhaustive()
    }
}

fn cut(tensor: &Tensor, dim: usize, len: usize) -> Tensor {
    tensor.narrow(dim, 0, len).expect("the tensor has as many positions as the state")
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}
