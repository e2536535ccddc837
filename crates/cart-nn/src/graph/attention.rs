//! Attention over the keys and values of a state.

#![allow(
    clippy::missing_errors_doc,
    reason = "all fail alike: where shapes, types or memory do not suit"
)]

use candle_core::{Device, Result, Tensor};
use cart_format::arch::QkvLayout;

use super::forward::{Pass, Segment};
use super::fused::{self, AttentionShape, CausalAttention};
use super::layer::{Attention, Linear};
use super::operations::{linear, soft_cap, softmax, widened};
use super::state::GraphState;

/// Queries, and the keys and values that they attend to.
#[derive(Clone, Debug)]
pub struct AttentionInput {
    /// `[batch, heads, new, head_dim]`.
    pub query: Tensor,
    /// `[batch, kv_heads, total, head_dim]`.
    pub keys: Tensor,
    /// As `keys`.
    pub values: Tensor,
    /// Factor on the scores.
    pub scale: f64,
    /// `c · tanh(score / c)` on the scores.
    pub soft_cap: Option<f64>,
    /// Added to the scores after that: anything that fits `[new, total]`. `−∞` hides a key.
    pub bias: Option<Tensor>,
}

impl AttentionInput {
    /// `softmax(cap(query · keysᵀ · scale) + bias) · values`, `[batch, heads, new, head_dim]`.
    pub fn attend(&self) -> Result<Tensor> {
        let (batch, heads, new, head_dim) = self.query.dims4()?;
        let (_batch, kv_heads, total, _head_dim) = self.keys.dims4()?;
        let group = heads / kv_heads;
        // The queries of a key's group as further rows, so that no key is copied.
        let query = self.query.contiguous()?.reshape((batch, kv_heads, group * new, head_dim))?;
        let mut scores = widened(&query.matmul(&self.keys.t()?)?)?.affine(self.scale, 0.0)?;
        if let Some(cap) = self.soft_cap {
            scores = soft_cap(&scores, cap)?;
        }
        if let Some(bias) = &self.bias {
            let bias = bias.to_dtype(scores.dtype())?;
            scores = scores.reshape((batch, kv_heads, group, new, total))?.broadcast_add(&bias)?;
            scores = scores.reshape((batch, kv_heads, group * new, total))?;
        }
        let weights = softmax(&scores)?.to_dtype(self.values.dtype())?;
        weights.matmul(&self.values)?.reshape((batch, heads, new, head_dim))
    }
}

impl Attention {
    /// * `index`: of the layer; `x`: `[rows, hidden_size]`
    /// * returns `[rows, heads · head_dim]`
    pub(super) fn apply(
        &self,
        index: usize,
        x: &Tensor,
        pass: &Pass,
        states: &mut [GraphState],
    ) -> Result<Tensor> {
        if let Some(out) = self.apply_fused(x, pass)? {
            return Ok(out);
        }
        let [mut query, mut keys, values] = self.project(x)?;
        if let (Some(query_norm), Some(key_norm)) = (&self.query_norm, &self.key_norm) {
            (query, keys) = (query_norm.apply(&query)?, key_norm.apply(&keys)?);
        }
        let raw = keys.clone();
        if let Some(rope) = self.rope {
            let turns = &pass.turns[rope];
            (query, keys) = (turns.rotate(&query)?, turns.rotate(&keys)?);
        }
        let mut outs = Vec::with_capacity(states.len());
        for (segment, state) in pass.segments.iter().zip(states) {
            let raw = state.recording.then(|| segment.heads_first(&raw)).transpose()?;
            let (new_keys, new_values) =
                (segment.heads_first(&keys)?, segment.heads_first(&values)?);
            let (keys, values) = state.layers[index].append(new_keys, new_values, raw)?;
            let input = AttentionInput {
                query: segment.heads_first(&query)?,
                keys,
                values,
                scale: self.scale(),
                soft_cap: self.spec.score_softcap,
                bias: segment.bias(self.spec.window.map(|window| window as usize))?,
            };
            let rows = (segment.rows.len(), ());
            outs.push(input.attend()?.transpose(1, 2)?.contiguous()?.reshape(rows)?);
        }
        if outs.len() == 1 { Ok(outs.remove(0)) } else { Tensor::cat(&outs, 0) }
    }

    /// Whole sequences in one operation; none where the layer has what that operation has not.
    fn apply_fused(&self, x: &Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        let [Segment { batch, count, slot_bias: None, .. }] = pass.segments.as_slice() else {
            return Ok(None);
        };
        let spec = &self.spec;
        let plain = spec.score_softcap.is_none() && self.query_norm.is_none();
        let side_by_side = spec.qkv != QkvLayout::Grouped;
        if !(pass.whole && plain && side_by_side && fused::suits(x)) {
            return Ok(None);
        }
        let shape = AttentionShape {
            batch: *batch,
            count: *count,
            heads: spec.heads as usize,
            kv_heads: spec.kv_heads as usize,
            head_dim: spec.head_dim as usize,
            scale: self.scale() as f32,
            window: spec.window.map(|window| window as usize),
        };
        let attention = CausalAttention::new(shape, self.rope.map(|rope| &pass.turns[rope]))?;
        attention.apply(&self.side_by_side(x)?).map(Some)
    }

    /// Queries, keys and values of each row, side by side.
    fn side_by_side(&self, x: &Tensor) -> Result<Tensor> {
        if let [one] = self.inputs.as_slice() {
            return one.apply(x);
        }
        let parts = || self.inputs.iter().map(Linear::parts);
        let weights: Vec<&Tensor> = parts().map(|(weight, _)| weight).collect();
        let biases: Option<Vec<&Tensor>> = parts().map(|(_, bias)| bias).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        linear(x, &Tensor::cat(&weights, 0)?, bias.as_ref())
    }

    pub(super) fn scale(&self) -> f64 {
        self.spec.scale.unwrap_or_else(|| (self.spec.head_dim as f64).powf(-0.5))
    }

    /// Queries, keys and values, each `[rows, heads, head_dim]` with its own number of heads.
    fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let rows = x.dim(0)?;
        let head_dim = self.spec.head_dim as usize;
        let (heads, kv_heads) = (self.spec.heads as usize, self.spec.kv_heads as usize);
        let split = |x: &Tensor| x.contiguous()?.reshape((rows, (), head_dim));
        if self.spec.qkv == QkvLayout::Separate {
            let part = |index: usize| split(&self.inputs[index].apply(x)?);
            return Ok([part(0)?, part(1)?, part(2)?]);
        }
        let all = self.inputs[0].apply(x)?;
        if self.spec.qkv == QkvLayout::Fused {
            let all = split(&all)?;
            let part = |from: usize, count: usize| all.narrow(1, from, count);
            let keys = part(heads, kv_heads)?;
            return Ok([part(0, heads)?, keys, part(heads + kv_heads, kv_heads)?]);
        }
        let group = heads / kv_heads;
        let all = all.reshape((rows, kv_heads, group + 2, head_dim))?;
        let query = all.narrow(2, 0, group)?.contiguous()?.reshape((rows, heads, head_dim))?;
        Ok([query, all.narrow(2, group, 1)?.squeeze(2)?, all.narrow(2, group + 1, 1)?.squeeze(2)?])
    }
}

impl Segment {
    /// `[all rows, heads, head_dim]` to `[batch, heads, count, head_dim]` of this segment.
    fn heads_first(&self, x: &Tensor) -> Result<Tensor> {
        let (_rows, heads, head_dim) = x.dims3()?;
        let own = x.narrow(0, self.rows.start, self.rows.len())?.contiguous()?;
        let own = own.reshape((self.batch, self.count, heads, head_dim))?;
        own.transpose(1, 2)?.contiguous()
    }

    /// What is added to the scores of the new positions: `−∞` for what they don't see, and the
    /// state's bias.
    fn bias(&self, window: Option<usize>) -> Result<Option<Tensor>> {
        let mask = self.masks.iter().find(|(of, _)| *of == window).map(|(_, mask)| mask);
        match (mask.cloned().flatten(), &self.slot_bias) {
            (Some(mask), Some(bias)) => Ok(Some(mask.to_dtype(bias.dtype())?.broadcast_add(bias)?)),
            (mask, bias) => Ok(mask.or_else(|| bias.clone())),
        }
    }

    /// The mask for a window, none where every new position sees all before it. `[count, total]`.
    pub(super) fn mask(&self, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
        let total = self.past + self.count;
        if self.count == 1 && window.is_none_or(|window| total <= window) {
            return Ok(None);
        }
        let sees = |at: usize| {
            let (query, key) = (self.past + at / total, at % total);
            key <= query && window.is_none_or(|window| query - key < window)
        };
        let values: Vec<f32> = (0..self.count * total)
            .map(|at| if sees(at) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        Tensor::from_vec(values, (self.count, total), device).map(Some)
    }
}
