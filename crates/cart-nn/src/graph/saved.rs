//! A state of the graph as named tensors, the same as those of the CPU's decoder, and back.

use candle_core::{DType, Device, Tensor};
use cart_format::blocks::{Q8_0, values};
use half::f16;

use super::state::{GraphState, Kept, LayerState};
use super::{Graph, wide_dtype};
use crate::decoder::RestoreError;
use crate::kv::KvFormat;
use crate::saved::{
    BIAS, RestoreStateError, SavedState, StateTensor, channels_name, channels_shape, keys_name,
    values_name, window_name, window_shape,
};
use crate::state::LayerShape;

impl GraphState {
    /// The state as named tensors in `f32`; of one sequence.
    ///
    /// # Errors
    /// There are several sequences, or the tensor library failed.
    pub fn save(&self) -> candle_core::Result<SavedState> {
        if self.batch != 1 {
            candle_core::bail!(
                "a state of {} sequences can't be saved; save each alone",
                self.batch
            );
        }
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, values: Vec<f32>| {
            let shape = shape.into_iter().map(|dim| dim as u64).collect();
            tensors.push(StateTensor::floats(name, shape, values.into_iter()));
        };
        for (index, layer) in self.layers.iter().enumerate() {
            match &layer.kept {
                Some(Kept::Attention { keys, values, .. }) => {
                    for (name, tensor) in [(keys_name(index), keys), (values_name(index), values)] {
                        let by_position = tensor.squeeze(0)?.transpose(0, 1)?.contiguous()?;
                        push(name, by_position.dims().to_vec(), floats(&by_position)?);
                    }
                }
                Some(Kept::Recurrent { window, channels }) => {
                    let LayerShape::Recurrent(shape) = layer.shape else { continue };
                    let values = window.as_ref().map_or(Ok(Vec::new()), floats)?;
                    push(window_name(index), vec![shape.conv_past, shape.conv_width], values);
                    push(channels_name(index), channels.dims()[1..].to_vec(), floats(channels)?);
                }
                None => {}
            }
        }
        if let Some(bias) = &self.bias {
            push(BIAS.to_owned(), vec![self.len], floats(bias)?);
        }
        Ok(SavedState { positions: self.len, kv: KvFormat::F32, tensors })
    }
}

impl Graph {
    /// The state that was saved, by this decoder or by that of the CPU.
    ///
    /// # Errors
    /// Tensors are missing, too many, or of another geometry, or there are no positions.
    pub fn restore_state(&self, saved: &SavedState) -> Result<GraphState, RestoreError> {
        let (positions, context) = (saved.positions, self.spec.context_length as usize);
        if positions == 0 {
            return Err(RestoreStateError::Empty.into());
        }
        if positions > context {
            return Err(RestoreStateError::TooLong { found: positions, context }.into());
        }
        let mut known = vec![BIAS.to_owned()];
        let mut state = self.new_state(1);
        state.len = positions;
        for (index, layer) in state.layers.iter_mut().enumerate() {
            match layer.shape {
                LayerShape::Attention { .. } => {
                    known.extend([keys_name(index), values_name(index)]);
                }
                LayerShape::Recurrent(_) => {
                    known.extend([window_name(index), channels_name(index)]);
                }
                LayerShape::Nothing => {}
            }
            self.restore_layer(saved, index, layer)?;
        }
        if let Some(tensor) = saved.tensors.iter().find(|tensor| !known.contains(&tensor.name)) {
            return Err(RestoreStateError::Unknown { name: tensor.name.clone() }.into());
        }
        if let Ok(bias) = saved.tensor(BIAS) {
            let bytes = bias.checked(cart_format::DType::F32, &[positions as u64])?;
            state.bias = Some(tensor(decoded(KvFormat::F32, bytes), &[positions], self.device())?);
        }
        Ok(state)
    }

    fn restore_layer(
        &self,
        saved: &SavedState,
        index: usize,
        layer: &mut LayerState,
    ) -> Result<(), RestoreError> {
        match layer.shape {
            LayerShape::Attention { kv_heads, head_dim } => {
                let shape = [saved.positions, kv_heads, head_dim];
                let part = |name: String| {
                    let expected = shape.map(|dim| dim as u64);
                    let bytes = saved.tensor(&name)?.checked(saved.kv.dtype(), &expected)?;
                    let rows = tensor(decoded(saved.kv, bytes), &shape, self.device())?;
                    let heads = rows.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
                    Ok::<_, RestoreError>(heads.to_dtype(self.dtype)?)
                };
                let (keys, values) = (part(keys_name(index))?, part(values_name(index))?);
                layer.kept = Some(Kept::Attention { keys, values, raw: None });
            }
            LayerShape::Recurrent(shape) => {
                let dtype = wide_dtype(self.dtype);
                let part = |name: String, expected: &[u64], sizes: &[usize]| {
                    let bytes = saved.tensor(&name)?.checked(cart_format::DType::F32, expected)?;
                    let part = tensor(decoded(KvFormat::F32, bytes), sizes, self.device())?;
                    Ok::<_, RestoreError>(part.to_dtype(dtype)?)
                };
                let sizes = [1, shape.heads, shape.head_dim, shape.state_size];
                let channels = part(channels_name(index), &channels_shape(shape), &sizes)?;
                let sizes = [1, shape.conv_past, shape.conv_width];
                let window = (shape.conv_past > 0)
                    .then(|| part(window_name(index), &window_shape(shape), &sizes));
                layer.kept = Some(Kept::Recurrent { window: window.transpose()?, channels });
            }
            LayerShape::Nothing => {}
        }
        Ok(())
    }
}

fn floats(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn tensor(values: Vec<f32>, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape, device)
}

fn decoded(format: KvFormat, bytes: &[u8]) -> Vec<f32> {
    match format {
        KvFormat::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        KvFormat::F16 => {
            bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        KvFormat::Q8 => values::<Q8_0>(bytes),
    }
}
