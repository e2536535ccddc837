//! The mixers of Mamba and Mamba-2 (spec 21), without their output projections.

use candle_core::{D, Device, Result, Tensor};

use super::forward::{Pass, Segment};
use super::fused::{self, SelectiveInput};
use super::layer::{Mamba, Mamba2};
use super::operations::{activate, linear, softplus, wide_dtype, widened};
use super::scan::{DualInput, causal_conv, dual_scan, linear_scan};
use super::state::{GraphState, Kept, LayerState};
use crate::recurrent::RecurrentShape;
use crate::state::LayerShape;
use cart_format::arch::Activation;

impl Mamba {
    /// * `x`: `[rows, hidden_size]`, to `[rows, inner_size]`
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
        let input = self.input.apply(x)?;
        each_segment(&input, pass, index, states, |input, state| self.mix(input, state))
    }

    /// Whole sequences; none where the layer has what those operations have not.
    fn apply_fused(&self, x: &Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        let [Segment { batch, count, .. }] = pass.segments.as_slice() else { return Ok(None) };
        let ((weight, None), (filters, Some(bias))) = (self.input.parts(), self.conv.parts())
        else {
            return Ok(None);
        };
        if !(pass.whole && fused::suits(x)) {
            return Ok(None);
        }
        let (inner, size) = (self.spec.inner_size as usize, self.spec.state_size as usize);
        let rank = self.spec.time_step_rank as usize;
        let half = |from| linear(x, &weight.narrow(0, from, inner)?, None);
        let sequences = |x: &Tensor| x.contiguous()?.reshape((*batch, *count, ()));
        let filters = filters.reshape((inner, ()))?;
        let mixed = fused::conv_silu(&sequences(&half(0)?)?, &filters, bias)?;
        let parameters = self.parameters.apply(&mixed.reshape(((), inner))?)?;
        let part = |from, len| parameters.narrow(1, from, len);
        let scan = SelectiveInput {
            x: &mixed,
            steps: &sequences(&self.time_step.apply(&part(0, rank)?.contiguous()?)?)?,
            decay: &self.decay.value()?,
            skip: &self.skip,
            b: &sequences(&part(rank, size)?)?,
            c: &sequences(&part(rank + size, size)?)?,
        };
        let y = fused::selective(&scan)?.reshape(((), inner))?;
        fused::times_silu(&y, &half(inner)?).map(Some)
    }

    /// * `input`: x and z, `[batch, n, 2 · inner_size]`, to `[batch, n, inner_size]`
    fn mix(&self, input: &Tensor, state: &mut LayerState) -> Result<Tensor> {
        let (batch, count, _width) = input.dims3()?;
        let (inner, size) = (self.spec.inner_size as usize, self.spec.state_size as usize);
        let rank = self.spec.time_step_rank as usize;
        let (window, before) = state.recurrent(batch, input.device(), wide_dtype(input.dtype()))?;
        let gate = widened(&input.narrow(2, inner, inner)?)?;
        let (weight, bias) = self.conv.parts();
        let x = widened(&input.narrow(2, 0, inner)?)?;
        let (x, window) = causal_conv(&x, window.as_ref(), weight, bias)?;
        let x = activate(Activation::Silu, &x)?;
        let rows = x.reshape((batch * count, inner))?.to_dtype(input.dtype())?;
        let parameters = self.parameters.apply(&rows)?;
        let steps = self.time_step.apply(&parameters.narrow(1, 0, rank)?.contiguous()?)?;
        let steps = softplus(&widened(&steps)?)?.reshape((batch, count, inner))?;
        let part = |from| {
            let part = widened(&parameters.narrow(1, from, size)?.contiguous()?)?;
            part.reshape((batch, count, 1, size))
        };
        let (b, c) = (part(rank)?, part(rank + size)?);
        let decay = steps.unsqueeze(3)?.broadcast_mul(&self.decay.value()?)?.exp()?;
        let moved = (&steps * &x)?.unsqueeze(3)?.broadcast_mul(&b)?;
        let (states, last) = linear_scan(&decay, &moved, &before.squeeze(1)?)?;
        let y = states.broadcast_mul(&c)?.sum(D::Minus1)?;
        let y = (y + x.broadcast_mul(&self.skip)?)?;
        state.kept = Some(Kept::Recurrent { window, channels: last.unsqueeze(1)? });
        (y * activate(Activation::Silu, &gate)?)?.to_dtype(input.dtype())
    }
}

impl Mamba2 {
    /// * `x`: `[rows, hidden_size]`, to `[rows, inner_size]`
    pub(super) fn apply(
        &self,
        index: usize,
        x: &Tensor,
        pass: &Pass,
        states: &mut [GraphState],
    ) -> Result<Tensor> {
        let input = self.input.apply(x)?;
        each_segment(&input, pass, index, states, |input, state| self.mix(input, state))
    }

    /// * `input`: z, then x, B and C, then time steps, to `[batch, n, inner_size]`
    fn mix(&self, input: &Tensor, state: &mut LayerState) -> Result<Tensor> {
        let (batch, count, _width) = input.dims3()?;
        let spec = &self.spec;
        let (heads, head_dim) = (spec.heads as usize, spec.head_dim as usize);
        let (groups, size) = (spec.groups as usize, spec.state_size as usize);
        let (inner, conv_width) = (heads * head_dim, spec.conv_width() as usize);
        let (window, before) = state.recurrent(batch, input.device(), wide_dtype(input.dtype()))?;
        let wide = widened(input)?;
        let (weight, bias) = self.conv.parts();
        let x = wide.narrow(2, inner, conv_width)?;
        let (x, window) = causal_conv(&x, window.as_ref(), weight, bias)?;
        let x = activate(Activation::Silu, &x)?;
        let part = |from: usize, shape: (usize, usize)| {
            let part = x.narrow(2, from, shape.0 * shape.1)?.contiguous()?;
            part.reshape((batch, count, shape.0, shape.1))
        };
        let channels = part(0, (heads, head_dim))?;
        let input_of_scan = DualInput {
            x: channels.clone(),
            steps: self.steps(&wide.narrow(2, inner + conv_width, heads)?)?,
            decay: self.decay.value()?,
            b: part(inner, (groups, size))?,
            c: part(inner + groups * size, (groups, size))?,
        };
        let (y, last) = dual_scan(&input_of_scan, &before)?;
        state.kept = Some(Kept::Recurrent { window, channels: last });
        let y = (y + channels.broadcast_mul(&self.skip.unsqueeze(1)?)?)?;
        let gate = activate(Activation::Silu, &wide.narrow(2, 0, inner)?)?;
        let y = (y.reshape((batch, count, inner))? * gate)?;
        let y = self.norm.apply(&y.reshape((batch, count, groups, inner / groups))?)?;
        y.reshape((batch, count, inner))?.to_dtype(input.dtype())
    }

    /// Δ within its limits, `[batch, n, heads]`.
    fn steps(&self, x: &Tensor) -> Result<Tensor> {
        let mut steps = softplus(&x.broadcast_add(&self.time_step_bias)?)?;
        if let Some(least) = self.spec.time_step_min.filter(|least| *least > 0.0) {
            steps = steps.maximum(least)?;
        }
        match self.spec.time_step_max {
            Some(most) => steps.minimum(most),
            None => Ok(steps),
        }
    }
}

impl LayerState {
    /// Window and channels so far; zeros before the first position.
    fn recurrent(
        &self,
        batch: usize,
        device: &Device,
        dtype: candle_core::DType,
    ) -> Result<(Option<Tensor>, Tensor)> {
        if let Some(Kept::Recurrent { window, channels }) = &self.kept {
            return Ok((window.clone(), channels.clone()));
        }
        let LayerShape::Recurrent(shape) = self.shape else {
            unreachable!("a state's layers are checked against the model's")
        };
        let RecurrentShape { heads, head_dim, state_size, conv_width, conv_past } = shape;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, device);
        let window = (conv_past > 0).then(|| zeros(&[batch, conv_past, conv_width]));
        Ok((window.transpose()?, zeros(&[batch, heads, head_dim, state_size])?))
    }
}

/// Works on each segment as `[batch, count, width]`, and puts the rows together again.
fn each_segment(
    input: &Tensor,
    pass: &Pass,
    index: usize,
    states: &mut [GraphState],
    work: impl Fn(&Tensor, &mut LayerState) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut outs = Vec::with_capacity(states.len());
    for (segment, state) in pass.segments.iter().zip(states) {
        let Segment { rows, batch, count, .. } = segment;
        let own = input.narrow(0, rows.start, rows.len())?.contiguous()?;
        let out = work(&own.reshape((*batch, *count, ()))?, &mut state.layers[index])?;
        outs.push(out.reshape((rows.len(), ()))?);
    }
    if outs.len() == 1 { Ok(outs.remove(0)) } else { Tensor::cat(&outs, 0) }
}
