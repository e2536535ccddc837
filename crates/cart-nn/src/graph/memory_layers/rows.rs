//! What memory layers attend to.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::MemoryLayers;

/// Keys and values of what memories say, for each memory layer.
#[derive(Clone, Debug)]
pub struct MemoryRows {
    /// Two of `[batch, kv_heads, 1 + rows, head_dim]`, the sink's first, for each layer.
    pub(super) layers: Vec<(Tensor, Tensor)>,
    /// Added to the scores of each row, `[batch, rows]`.
    pub(super) bias: Tensor,
    /// The logarithm of how many rows there are, `[batch]`; 0 where there are none.
    pub(super) counts: Tensor,
}

/// Keys and values of a span of one memory, for each memory layer.
#[derive(Clone, Debug)]
pub struct MemorySpan {
    /// Two of `[1, kv_heads, rows, head_dim]` for each layer.
    layers: Vec<(Tensor, Tensor)>,
    rows: usize,
}

impl MemoryLayers {
    /// Keys and values of a span's stored states.
    ///
    /// * `states`: for each memory layer what went into the layer beside it when the span was read,
    ///   `[rows, hidden_size]`
    ///
    /// # Errors
    /// There are not as many states as layers, or the tensor library failed.
    pub fn span(&self, states: &[Tensor]) -> TensorResult<MemorySpan> {
        let rows = states.first().map_or(Ok(0), |states| states.dim(0))?;
        let batched: Vec<Tensor> =
            states.iter().map(|states| states.unsqueeze(0)).collect::<TensorResult<_>>()?;
        let bias = Tensor::zeros((1, rows), DType::F32, batched[0].device())?;
        let with_sink = self.rows(&batched, &bias)?;
        let own = |of: &Tensor| of.narrow(2, 1, rows)?.contiguous();
        let layers = with_sink.layers.iter().map(|(keys, values)| Ok((own(keys)?, own(values)?)));
        Ok(MemorySpan { layers: layers.collect::<TensorResult<_>>()?, rows })
    }

    /// What a memory of some spans is to these layers.
    ///
    /// * `spans`: one or more, each with the bias of its rows
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn of_spans(&self, spans: &[(&MemorySpan, f32)]) -> TensorResult<MemoryRows> {
        let bias: Vec<f32> =
            spans.iter().flat_map(|(span, bias)| std::iter::repeat_n(*bias, span.rows)).collect();
        let device = self.layers[0].sink.device();
        let bias = Tensor::from_vec(bias.clone(), (1, bias.len()), device)?;
        let layers = self.layers.iter().enumerate().map(|(place, layer)| {
            let none = layer.no_rows(1)?;
            let all = |which: fn(&(Tensor, Tensor)) -> &Tensor| {
                let own = spans.iter().map(|(span, _)| which(&span.layers[place]));
                Tensor::cat(&std::iter::once(&none).chain(own).collect::<Vec<_>>(), 2)
            };
            Ok((all(|of| &of.0)?, all(|of| &of.1)?))
        });
        let counts = counts(&bias)?;
        Ok(MemoryRows { layers: layers.collect::<TensorResult<_>>()?, bias, counts })
    }

    /// Keys and values of stored states. Gradients go through them.
    ///
    /// * `states`: for each memory layer what went into the layer beside it when the memories were
    ///   read, `[batch, rows, hidden_size]`
    /// * `bias`: of each row, `[batch, rows]`; `−∞` for one that is not there
    ///
    /// # Errors
    /// There are not as many states as layers, or the tensor library failed.
    pub fn rows(&self, states: &[Tensor], bias: &Tensor) -> TensorResult<MemoryRows> {
        if states.len() != self.layers.len() {
            candle_core::bail!("{} states for {} memory layers", states.len(), self.layers.len());
        }
        let each = self.layers.iter().zip(states);
        let layers = each.map(|(layer, states)| layer.keys_and_values(states));
        let layers = layers.collect::<TensorResult<_>>()?;
        Ok(MemoryRows { layers, bias: bias.clone(), counts: counts(bias)? })
    }
}

impl MemorySpan {
    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        bytes(&self.layers)
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl MemoryRows {
    /// Rows of each memory.
    pub fn count(&self) -> usize {
        self.bias.dims().last().copied().unwrap_or_default()
    }
}

/// Of rows that are there: their bias is more than `−∞`.
fn counts(bias: &Tensor) -> TensorResult<Tensor> {
    let (batch, _rows) = bias.dims2()?;
    let there = |row: &Vec<f64>| row.iter().filter(|bias| **bias > f64::NEG_INFINITY).count();
    let rows: Vec<Vec<f64>> = bias.detach().to_dtype(DType::F64)?.to_vec2()?;
    let counts: Vec<f64> = rows.iter().map(|row| (there(row).max(1) as f64).ln()).collect();
    Tensor::from_vec(counts, batch, bias.device())?.to_dtype(bias.dtype())
}

fn bytes(layers: &[(Tensor, Tensor)]) -> usize {
    let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
    layers.iter().map(|(keys, values)| bytes(keys) + bytes(values)).sum()
}
