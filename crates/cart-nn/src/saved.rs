//! A state as named tensors, and back.

use cart_format::DType;
use thiserror::Error;

use crate::kv::{KvCache, KvFormat, KvShape};
use crate::model::Model;
use crate::recurrent::{RecurrentShape, RecurrentState};
use crate::state::{LayerCache, LayerShape, State};

/// A state as named tensors, to be written down.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedState {
    /// Positions that were read.
    pub positions: usize,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// What the layers keep: `N.keys` and `N.values`, `[positions, kv_heads, head_dim]`, of a layer
    /// `N` of attention; `N.window`, `[conv_past, conv_width]`, and `N.channels`, `[heads,
    /// head_dim, state_size]`, of a recurrent one. And `bias`, `[positions]`, where scores have
    /// one.
    pub tensors: Vec<StateTensor>,
}

/// A tensor of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape, row-major.
    pub shape: Vec<u64>,
    /// Its bytes, little-endian.
    pub bytes: Vec<u8>,
}

/// Why saved tensors don't make a state of a model.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RestoreStateError {
    /// There is nothing in it.
    #[error("the saved state has no positions, so there is nothing to restore")]
    Empty,
    /// More positions than the model was made for.
    #[error("the saved state has {found} positions; the model was made for up to {context}")]
    TooLong {
        /// Positions found.
        found: usize,
        /// Positions allowed.
        context: usize,
    },
    /// A tensor that the model's layers ask for is absent.
    #[error("the saved state lacks tensor `{name}`; it was made by another model, or cut")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor that no layer of the model asks for.
    #[error("the saved state has tensor `{name}`, which no layer of this model keeps")]
    Unknown {
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another type, shape or size.
    #[error(
        "tensor `{name}` of the saved state is {found_dtype} {found:?} of {bytes} bytes; this model's is {expected_dtype} {expected:?}"
    )]
    Tensor {
        /// The tensor's name.
        name: String,
        /// Its element type.
        found_dtype: DType,
        /// Its shape.
        found: Vec<u64>,
        /// Its bytes.
        bytes: usize,
        /// The type that the model asks for.
        expected_dtype: DType,
        /// The shape that the model asks for.
        expected: Vec<u64>,
    },
}

impl State {
    /// How keys and values are stored; none where no layer has any.
    pub fn kv_format(&self) -> Option<KvFormat> {
        self.layers.iter().find_map(|layer| match layer {
            LayerCache::Attention(cache) => Some(cache.shape().format),
            LayerCache::Recurrent(_) | LayerCache::Nothing => None,
        })
    }

    /// The state as named tensors.
    pub fn save(&self) -> SavedState {
        let kv = self.kv_format().unwrap_or(KvFormat::F32);
        let mut tensors = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            match layer {
                LayerCache::Attention(cache) => {
                    let names = [keys_name(index), values_name(index)];
                    for (name, bytes) in names.into_iter().zip(cache.export()) {
                        let (dtype, shape) = (kv.dtype(), kv_shape(self.len, cache.shape()));
                        tensors.push(StateTensor { name, dtype, shape, bytes });
                    }
                }
                LayerCache::Recurrent(state) => {
                    let shape = state.shape;
                    let (window, channels) = (state.window.iter(), state.in_order());
                    tensors.push(StateTensor::floats(
                        window_name(index),
                        window_shape(shape),
                        window.copied(),
                    ));
                    tensors.push(StateTensor::floats(
                        channels_name(index),
                        channels_shape(shape),
                        channels.into_iter(),
                    ));
                }
                LayerCache::Nothing => {}
            }
        }
        if let Some(bias) = &self.bias {
            let shape = vec![self.len as u64];
            tensors.push(StateTensor::floats(BIAS.to_owned(), shape, bias.iter().copied()));
        }
        SavedState { positions: self.len, kv, tensors }
    }
}

impl Model {
    /// The state that was saved. That it is of these weights is for the caller to know.
    ///
    /// # Errors
    /// Tensors are missing, too many, or of another geometry, or there are no positions.
    pub fn restore_state(&self, saved: &SavedState) -> Result<State, RestoreStateError> {
        let positions = saved.positions;
        if positions == 0 {
            return Err(RestoreStateError::Empty);
        }
        let context = self.spec().context_length as usize;
        if positions > context {
            return Err(RestoreStateError::TooLong { found: positions, context });
        }
        let mut known = vec![BIAS.to_owned()];
        let mut layers = Vec::new();
        for (index, shape) in self.layer_shapes().enumerate() {
            layers.push(match shape {
                LayerShape::Attention { kv_heads, head_dim } => {
                    let shape = KvShape { kv_heads, head_dim, format: saved.kv };
                    known.extend([keys_name(index), values_name(index)]);
                    LayerCache::Attention(restore_kv(saved, index, shape)?)
                }
                LayerShape::Recurrent(shape) => {
                    known.extend([window_name(index), channels_name(index)]);
                    LayerCache::Recurrent(restore_recurrent(saved, index, shape)?)
                }
                LayerShape::Nothing => LayerCache::Nothing,
            });
        }
        if let Some(tensor) = saved.tensors.iter().find(|tensor| !known.contains(&tensor.name)) {
            return Err(RestoreStateError::Unknown { name: tensor.name.clone() });
        }
        let bias = match saved.tensor(BIAS) {
            Ok(tensor) => Some(floats(tensor.checked(DType::F32, &[positions as u64])?)),
            Err(_) => None,
        };
        Ok(State { len: positions, layers, bias, lost: false })
    }
}

pub(crate) const BIAS: &str = "bias";

pub(crate) fn keys_name(layer: usize) -> String {
    format!("{layer}.keys")
}

pub(crate) fn values_name(layer: usize) -> String {
    format!("{layer}.values")
}

fn kv_shape(positions: usize, shape: KvShape) -> Vec<u64> {
    vec![positions as u64, shape.kv_heads as u64, shape.head_dim as u64]
}

fn restore_kv(
    saved: &SavedState,
    layer: usize,
    shape: KvShape,
) -> Result<KvCache, RestoreStateError> {
    let expected = kv_shape(saved.positions, shape);
    let keys = saved.tensor(&keys_name(layer))?;
    let values = saved.tensor(&values_name(layer))?.checked(shape.format.dtype(), &expected)?;
    let bytes = [keys.checked(shape.format.dtype(), &expected)?, values];
    KvCache::import(shape, saved.positions, bytes)
        .ok_or_else(|| keys.other(shape.format.dtype(), &expected))
}

pub(crate) fn window_name(layer: usize) -> String {
    format!("{layer}.window")
}

pub(crate) fn channels_name(layer: usize) -> String {
    format!("{layer}.channels")
}

pub(crate) fn window_shape(shape: RecurrentShape) -> Vec<u64> {
    vec![shape.conv_past as u64, shape.conv_width as u64]
}

pub(crate) fn channels_shape(shape: RecurrentShape) -> Vec<u64> {
    vec![shape.heads as u64, shape.head_dim as u64, shape.state_size as u64]
}

fn restore_recurrent(
    saved: &SavedState,
    layer: usize,
    shape: RecurrentShape,
) -> Result<RecurrentState, RestoreStateError> {
    let window = saved.tensor(&window_name(layer))?;
    let window = floats(window.checked(DType::F32, &window_shape(shape))?);
    let channels = saved.tensor(&channels_name(layer))?;
    let channels = floats(channels.checked(DType::F32, &channels_shape(shape))?);
    Ok(RecurrentState::from_order(shape, window, &channels))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

impl SavedState {
    pub(crate) fn tensor(&self, name: &str) -> Result<&StateTensor, RestoreStateError> {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.ok_or_else(|| RestoreStateError::Missing { name: name.to_owned() })
    }
}

impl StateTensor {
    pub(crate) fn floats(
        name: String,
        shape: Vec<u64>,
        numbers: impl Iterator<Item = f32>,
    ) -> Self {
        let bytes = numbers.flat_map(f32::to_le_bytes).collect();
        Self { name, dtype: DType::F32, shape, bytes }
    }

    /// The bytes, if they are a tensor of this type and shape.
    pub(crate) fn checked(&self, dtype: DType, shape: &[u64]) -> Result<&[u8], RestoreStateError> {
        let size = dtype.size_of(shape).ok();
        if self.dtype == dtype && self.shape == shape && size == Some(self.bytes.len() as u64) {
            return Ok(&self.bytes);
        }
        Err(self.other(dtype, shape))
    }

    fn other(&self, dtype: DType, shape: &[u64]) -> RestoreStateError {
        RestoreStateError::Tensor {
            name: self.name.clone(),
            found_dtype: self.dtype,
            found: self.shape.clone(),
            bytes: self.bytes.len(),
            expected_dtype: dtype,
            expected: shape.to_vec(),
        }
    }
}
