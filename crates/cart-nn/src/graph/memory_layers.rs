//! Layers that attend to what memory says: cross-attention over hidden states that were stored
//! (spec 39).
//!
//! A memory layer stands beside the attention of one layer of the model, and reads what goes into
//! that layer. It begins as a copy of that attention, so that it finds in stored states of the same
//! place what the model would find there:
//!
//! ```text
//! q = query(norm(h)),  k = key(norm(m)),  v = value(norm(m))
//! h + tanh(gate) · out(softmax([sink + ln(rows), q · kᵀ · scale + bias]) · [0, v])
//! ```
//!
//! There is no rotation: what was remembered has no place in the text. The sink of each head takes
//! the attention that nothing in memory deserves: it weighs as much as all rows would that score
//! `sink`, however many there are, so that a large memory is not louder than a small one. With a gate of 0, or with no rows, the layer is not
//! there, to the bit.

mod birth;
mod rows;

use std::collections::BTreeMap;

use candle_core::{DType, Result as TensorResult, Tensor};
use cart_format::ArchSpec;
use cart_format::arch::{AttentionSpec, BlockSpec, MixerSpec, NormKind, NormPlacement, NormSpec};
use thiserror::Error;

use super::attention::AttentionInput;
use super::operations::{NormWeights, linear};
use super::parameters::Parameters;

pub use rows::{MemoryRows, MemorySpan};

/// Why memory layers can't be bound or made.
#[derive(Debug, Error)]
pub enum MemoryLayerError {
    /// There is no such layer.
    #[error("a memory layer stands beside layer {layer}, but the model has {layers}; allowed: 1 to {}", layers - 1)]
    NoLayer {
        /// The layer, from 0.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The first layer has no hidden states before it that say anything.
    #[error(
        "a memory layer can't stand beside layer 0, which reads bare tokens; allowed: 1 and up"
    )]
    First,
    /// The layer has no attention.
    #[error(
        "layer {layer} has no attention that a memory layer could begin as; choose another layer"
    )]
    NoAttention {
        /// The layer, from 0.
        layer: usize,
    },
    /// A tensor is missing.
    #[error("the memory layers lack the tensor `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor is of another shape.
    #[error(
        "the memory layers' tensor `{name}` has the shape {found:?}; this model needs {expected:?}"
    )]
    Shape {
        /// Its name.
        name: String,
        /// The shape found.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// A tensor that no memory layer has.
    #[error("the memory layers have a tensor `{name}`, which this cart does not know; update cart")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The tensor library failed.
    #[error("the memory layers can't be made")]
    Tensor(#[from] candle_core::Error),
}

/// Memory layers bound to tensors.
#[derive(Debug)]
pub struct MemoryLayers {
    layers: Vec<MemoryLayer>,
}

/// One of them.
#[derive(Debug)]
struct MemoryLayer {
    /// The layer beside whose attention it stands.
    index: usize,
    norm: NormWeights,
    query: Projection,
    key: Projection,
    value: Projection,
    out: Projection,
    /// Over what is read, where the model has one there too (Gemma 2 and 3).
    after_norm: Option<NormWeights>,
    query_norm: Option<NormWeights>,
    key_norm: Option<NormWeights>,
    /// `[1]`.
    gate: Tensor,
    /// `[heads]`.
    sink: Tensor,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    soft_cap: Option<f64>,
}

#[derive(Debug)]
struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Projection {
    fn apply(&self, x: &Tensor) -> TensorResult<Tensor> {
        linear(x, &self.weight, self.bias.as_ref())
    }
}

impl MemoryLayers {
    /// Binds tensors to the layers of an architecture. Variables among them stay variables.
    ///
    /// * `layers`: beside whose attention they stand
    /// * `tensors`: `LAYER.PART`, as [`MemoryLayers::shapes`] lists them
    ///
    /// # Errors
    /// A layer has no attention, or a tensor is missing, of another shape, or not known.
    pub fn bind(
        spec: &ArchSpec,
        layers: &[usize],
        tensors: &Parameters,
    ) -> Result<Self, MemoryLayerError> {
        let mut shapes = Self::shapes(spec, layers)?;
        for (name, tensor) in tensors {
            let unknown = || MemoryLayerError::Unknown { name: name.clone() };
            let expected = shapes.remove(name).ok_or_else(unknown)?;
            if tensor.dims() != expected {
                let (name, found) = (name.clone(), tensor.dims().to_vec());
                return Err(MemoryLayerError::Shape { name, found, expected });
            }
        }
        if let Some((name, _)) = shapes.pop_first() {
            return Err(MemoryLayerError::Missing { name });
        }
        let bound = layers.iter().map(|&layer| MemoryLayer::bind(spec, layer, tensors));
        Ok(Self { layers: bound.collect::<Result<_, _>>()? })
    }

    /// The tensors of memory layers beside these layers, with their shapes.
    ///
    /// # Errors
    /// A layer has no attention.
    pub fn shapes(
        spec: &ArchSpec,
        layers: &[usize],
    ) -> Result<BTreeMap<String, Vec<usize>>, MemoryLayerError> {
        let mut shapes = BTreeMap::new();
        for &layer in layers {
            let (block, attention) = attention_of(spec, layer)?;
            let parts = part_shapes(spec.hidden_size as usize, block, attention);
            shapes
                .extend(parts.into_iter().map(|(part, shape)| (format!("{layer}.{part}"), shape)));
        }
        Ok(shapes)
    }

    /// The layers beside whose attention they stand, from 0.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.layers.iter().map(|layer| layer.index)
    }

    /// `tanh(gate)` of each.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn gates(&self) -> TensorResult<Vec<f32>> {
        let gate =
            |layer: &MemoryLayer| Ok(layer.gate.to_dtype(DType::F32)?.to_vec1::<f32>()?[0].tanh());
        self.layers.iter().map(gate).collect()
    }

    /// What goes into layer `index`, with what its memory layer adds; none where there is no such
    /// memory layer.
    ///
    /// * `hidden`: `[batch, n, hidden_size]`
    /// * `rows`: of as many memories as there are sequences
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn apply(
        &self,
        index: usize,
        hidden: &Tensor,
        rows: &MemoryRows,
    ) -> TensorResult<Option<Tensor>> {
        let place = self.layers.iter().position(|layer| layer.index == index);
        let Some(place) = place else { return Ok(None) };
        self.layers[place].apply(hidden, &rows.layers[place], rows).map(Some)
    }
}

impl MemoryLayer {
    fn bind(spec: &ArchSpec, layer: usize, tensors: &Parameters) -> Result<Self, MemoryLayerError> {
        let (block, attention) = attention_of(spec, layer)?;
        let find = |part: &str| tensors.get(&format!("{layer}.{part}")).cloned();
        let tensor = |part: &str| {
            find(part).ok_or_else(|| MemoryLayerError::Missing { name: format!("{layer}.{part}") })
        };
        let projection = |part: &str| {
            let weight = tensor(&format!("{part}.weight"))?;
            Ok::<_, MemoryLayerError>(Projection { weight, bias: find(&format!("{part}.bias")) })
        };
        let norm = |part: &str, spec: &NormSpec| {
            Ok::<_, MemoryLayerError>(NormWeights {
                kind: spec.kind,
                eps: spec.eps,
                unit_offset: spec.unit_offset,
                weight: tensor(&format!("{part}.weight"))?,
                bias: find(&format!("{part}.bias")),
            })
        };
        let after = block.placement == NormPlacement::Sandwich;
        let head_norm =
            |part: &str| attention.qk_norm.as_ref().map(|spec| norm(part, spec)).transpose();
        Ok(Self {
            index: layer,
            norm: norm("norm", &block.norm)?,
            query: projection("query")?,
            key: projection("key")?,
            value: projection("value")?,
            out: projection("out")?,
            after_norm: after.then(|| norm("after_norm", &block.norm)).transpose()?,
            query_norm: head_norm("query_norm")?,
            key_norm: head_norm("key_norm")?,
            gate: tensor("gate")?,
            sink: tensor("sink")?,
            kv_heads: attention.kv_heads as usize,
            head_dim: attention.head_dim as usize,
            scale: attention.scale.unwrap_or_else(|| (attention.head_dim as f64).powf(-0.5)),
            soft_cap: attention.score_softcap,
        })
    }

    /// * `keys`, `values`: `[batch, kv_heads, 1 + rows, head_dim]`, the sink's first
    fn apply(
        &self,
        hidden: &Tensor,
        (keys, values): &(Tensor, Tensor),
        rows: &MemoryRows,
    ) -> TensorResult<Tensor> {
        let (batch, count, width) = hidden.dims3()?;
        let flat = hidden.contiguous()?.reshape((batch * count, width))?;
        let query = self.query.apply(&self.norm.apply(&flat)?)?;
        let query = self.heads(&query, batch, count, self.query_norm.as_ref())?;
        let input = AttentionInput {
            query,
            keys: keys.clone(),
            values: values.clone(),
            scale: self.scale,
            soft_cap: self.soft_cap,
            bias: Some(self.bias(rows)?),
        };
        let read = input.attend()?.transpose(1, 2)?.contiguous()?.reshape((batch * count, ()))?;
        let mut read = self.out.apply(&read)?;
        if let Some(norm) = &self.after_norm {
            read = norm.apply(&read)?;
        }
        (flat + read.broadcast_mul(&self.gate.tanh()?)?)?.reshape((batch, count, width))
    }

    /// What is added to scores, the sink's first: `[batch, kv_heads, group, 1, 1 + rows]`.
    fn bias(&self, rows: &MemoryRows) -> TensorResult<Tensor> {
        let MemoryRows { bias, counts, .. } = rows;
        let (batch, rows) = bias.dims2()?;
        let group = self.sink.dim(0)? / self.kv_heads;
        let heads = (batch, self.kv_heads, group, 1);
        let of_rows = bias.reshape((batch, 1, 1, 1, rows))?;
        let of_rows = of_rows.broadcast_as((heads.0, heads.1, heads.2, heads.3, rows))?;
        let of_sink = self.sink.reshape((1, self.kv_heads, group, 1, 1))?;
        let of_sink = of_sink.broadcast_add(&counts.reshape((batch, 1, 1, 1, 1))?)?;
        Tensor::cat(&[of_sink.contiguous()?, of_rows.contiguous()?], 4)
    }

    /// Keys and values of stored states.
    ///
    /// * `states`: `[batch, rows, hidden_size]`
    /// * returns two of `[batch, kv_heads, 1 + rows, head_dim]`, of which the first are 0
    fn keys_and_values(&self, states: &Tensor) -> TensorResult<(Tensor, Tensor)> {
        let (batch, rows, width) = states.dims3()?;
        let normed = self.norm.apply(&states.contiguous()?.reshape((batch * rows, width))?)?;
        let none = self.no_rows(batch)?.to_dtype(normed.dtype())?;
        let with_sink = |of: Tensor| Tensor::cat(&[none.clone(), of], 2);
        let keys = self.heads(&self.key.apply(&normed)?, batch, rows, self.key_norm.as_ref())?;
        let values = self.heads(&self.value.apply(&normed)?, batch, rows, None)?;
        Ok((with_sink(keys)?, with_sink(values)?))
    }

    /// The key or value of the sink, `[batch, kv_heads, 1, head_dim]`.
    fn no_rows(&self, batch: usize) -> TensorResult<Tensor> {
        let shape = (batch, self.kv_heads, 1, self.head_dim);
        Tensor::zeros(shape, self.sink.dtype(), self.sink.device())
    }

    /// `[batch · count, heads · head_dim]` to `[batch, heads, count, head_dim]`.
    fn heads(
        &self,
        x: &Tensor,
        batch: usize,
        count: usize,
        norm: Option<&NormWeights>,
    ) -> TensorResult<Tensor> {
        let heads = x.reshape((batch * count, (), self.head_dim))?;
        let heads = norm.map_or_else(|| Ok(heads.clone()), |norm| norm.apply(&heads))?;
        let heads = heads.reshape((batch, count, (), self.head_dim))?;
        heads.transpose(1, 2)?.contiguous()
    }
}

/// The block of a layer and its attention.
fn attention_of(
    spec: &ArchSpec,
    layer: usize,
) -> Result<(&BlockSpec, &AttentionSpec), MemoryLayerError> {
    if layer == 0 {
        return Err(MemoryLayerError::First);
    }
    let layers = spec.layers.len();
    let block =
        spec.layer_blocks().nth(layer).ok_or(MemoryLayerError::NoLayer { layer, layers })?;
    match &block.mixer {
        Some(MixerSpec::Attention(attention)) => Ok((block, attention)),
        _ => Err(MemoryLayerError::NoAttention { layer }),
    }
}

/// The parts of a memory layer.
fn part_shapes(
    width: usize,
    block: &BlockSpec,
    attention: &AttentionSpec,
) -> Vec<(String, Vec<usize>)> {
    let head_dim = attention.head_dim as usize;
    let heads = attention.heads as usize;
    let (queries, keys) = (heads * head_dim, attention.kv_heads as usize * head_dim);
    let mut parts = vec![("gate".to_owned(), vec![1]), ("sink".to_owned(), vec![heads])];
    let mut projection = |part: &str, outputs: usize, inputs: usize, bias: bool| {
        parts.push((format!("{part}.weight"), vec![outputs, inputs]));
        if bias {
            parts.push((format!("{part}.bias"), vec![outputs]));
        }
    };
    projection("query", queries, width, attention.qkv_bias);
    projection("key", keys, width, attention.qkv_bias);
    projection("value", keys, width, attention.qkv_bias);
    projection("out", width, queries, attention.out_bias);
    let mut norm = |part: &str, spec: &NormSpec, width: usize| {
        parts.push((format!("{part}.weight"), vec![width]));
        if spec.kind == NormKind::Layer {
            parts.push((format!("{part}.bias"), vec![width]));
        }
    };
    norm("norm", &block.norm, width);
    if block.placement == NormPlacement::Sandwich {
        norm("after_norm", &block.norm, width);
    }
    if let Some(spec) = &attention.qk_norm {
        norm("query_norm", spec, head_dim);
        norm("key_norm", spec, head_dim);
    }
    parts
}
