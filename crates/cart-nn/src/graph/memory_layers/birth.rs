//! Memory layers as they begin: copies of the attention beside them.

use candle_core::{DType, Result as TensorResult, Tensor};
use cart_format::arch::{AttentionSpec, QkvLayout};

use super::{MemoryLayerError, MemoryLayers};
use crate::graph::Graph;
use crate::graph::layer::{Attention, Linear, Mixer};
use crate::graph::operations::NormWeights;
use crate::graph::parameters::Parameters;

/// The sinks at birth: rows that match a little are heard.
const SINK: f32 = -2.0;

impl MemoryLayers {
    /// The tensors of memory layers that are copies of the attention of these layers, as `f32`.
    ///
    /// * `gate`: of each; `tanh(gate)` weighs what is read. With 0 the layers are not there.
    ///
    /// # Errors
    /// A layer has no attention.
    pub fn at_birth(
        graph: &Graph,
        layers: &[usize],
        gate: f32,
    ) -> Result<Parameters, MemoryLayerError> {
        let shapes = Self::shapes(graph.spec(), layers)?;
        let mut tensors = Parameters::new();
        for &layer in layers {
            let mixer = graph.layers[layer].mixer.as_ref();
            let Some((mixer, Mixer::Attention(attention))) =
                mixer.map(|mixer| (mixer, &mixer.mixer))
            else {
                return Err(MemoryLayerError::NoAttention { layer });
            };
            let mut parts = Parts { layer, tensors: &mut tensors };
            parts.norm("norm", &mixer.norm)?;
            for (part, norm) in [
                ("after_norm", &mixer.after_norm),
                ("query_norm", &attention.query_norm),
                ("key_norm", &attention.key_norm),
            ] {
                norm.iter().try_for_each(|norm| parts.norm(part, norm))?;
            }
            let (weight, bias) = mixer.out.parts();
            parts.projection("out", weight, bias)?;
            for (part, (weight, bias)) in
                ["query", "key", "value"].into_iter().zip(split(attention)?)
            {
                parts.projection(part, &weight, bias.as_ref())?;
            }
            let device = graph.device();
            parts.insert("gate", &Tensor::new(&[gate], device)?)?;
            let heads = attention.spec.heads as usize;
            parts.insert("sink", &Tensor::full(SINK, heads, device)?)?;
        }
        debug_assert!(tensors.keys().eq(shapes.keys()), "a copy has every part");
        Ok(tensors)
    }
}

struct Parts<'a> {
    layer: usize,
    tensors: &'a mut Parameters,
}

impl Parts<'_> {
    fn insert(&mut self, part: &str, tensor: &Tensor) -> TensorResult<()> {
        let tensor = tensor.detach().to_dtype(DType::F32)?.contiguous()?.copy()?;
        self.tensors.insert(format!("{}.{part}", self.layer), tensor);
        Ok(())
    }

    fn norm(&mut self, part: &str, norm: &NormWeights) -> TensorResult<()> {
        self.projection(part, &norm.weight, norm.bias.as_ref())
    }

    fn projection(
        &mut self,
        part: &str,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> TensorResult<()> {
        self.insert(&format!("{part}.weight"), weight)?;
        bias.map_or(Ok(()), |bias| self.insert(&format!("{part}.bias"), bias))
    }
}

/// Weights and biases of queries, keys and values, however they are laid out.
fn split(attention: &Attention) -> TensorResult<Vec<(Tensor, Option<Tensor>)>> {
    let AttentionSpec { heads, kv_heads, head_dim, qkv, .. } = attention.spec;
    if qkv == QkvLayout::Separate {
        let owned = |linear: &Linear| {
            let (weight, bias) = linear.parts();
            (weight.clone(), bias.cloned())
        };
        return Ok(attention.inputs.iter().map(owned).collect());
    }
    let (heads, kv_heads, head_dim) = (heads as usize, kv_heads as usize, head_dim as usize);
    let (weight, bias) = attention.inputs[0].parts();
    let group = heads / kv_heads;
    // Outputs of each part, from where and how many, in groups of a key's own.
    let part = |of: &Tensor, which: usize| {
        let width = of.elem_count() / of.dim(0)?;
        if qkv == QkvLayout::Fused {
            let from = [0, heads, heads + kv_heads][which] * head_dim;
            let count = [heads, kv_heads, kv_heads][which] * head_dim;
            return of.narrow(0, from, count);
        }
        let (from, count) = [(0, group), (group, 1), (group + 1, 1)][which];
        let grouped = of.reshape((kv_heads, group + 2, head_dim, width))?;
        let own = grouped.narrow(1, from, count)?.contiguous()?;
        if of.rank() == 1 {
            own.flatten_all()
        } else {
            own.reshape((kv_heads * count * head_dim, width))
        }
    };
    let of =
        |which: usize| Ok((part(weight, which)?, bias.map(|bias| part(bias, which)).transpose()?));
    (0..3).map(of).collect()
}
