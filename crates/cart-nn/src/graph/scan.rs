//! Recurrences over positions, without a step for each position.

#![allow(
    clippy::missing_errors_doc,
    reason = "all fail alike: where shapes, types or memory do not suit"
)]

use candle_core::{D, Result, Tensor};

use super::operations::widened;

/// Positions whose states are computed together.
const CHUNK: usize = 64;

/// `h ← decay · h + input`, for every position, element by element.
///
/// Positions are combined in pairs, pairs of pairs and so on (Hillis and Steele, 1986), so `n`
/// positions take `log₂ n` passes.
///
/// * `decay`, `input`: `[batch, n, …]`, `before`: `[batch, …]`
/// * returns the states at every position, `[batch, n, …]`, and the last, `[batch, …]`
pub fn linear_scan(decay: &Tensor, input: &Tensor, before: &Tensor) -> Result<(Tensor, Tensor)> {
    let total = input.dim(1)?;
    let mut state = before.unsqueeze(1)?;
    let mut parts = Vec::with_capacity(total.div_ceil(CHUNK));
    for start in (0..total).step_by(CHUNK) {
        let count = CHUNK.min(total - start);
        let part = |x: &Tensor| x.narrow(1, start, count);
        let states = doubling(part(decay)?, part(input)?, &state)?;
        state = states.narrow(1, count - 1, 1)?;
        parts.push(states);
    }
    let states = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1)? };
    Ok((states, state.squeeze(1)?))
}

fn doubling(mut decay: Tensor, input: Tensor, before: &Tensor) -> Result<Tensor> {
    let count = input.dim(1)?;
    let first = (input.narrow(1, 0, 1)? + (decay.narrow(1, 0, 1)? * before)?)?;
    let mut states =
        if count == 1 { first } else { Tensor::cat(&[first, input.narrow(1, 1, count - 1)?], 1)? };
    let mut step = 1;
    while step < count {
        let rest = count - step;
        let later = decay.narrow(1, step, rest)?;
        let moved = (states.narrow(1, step, rest)? + (&later * states.narrow(1, 0, rest)?)?)?;
        states = Tensor::cat(&[states.narrow(1, 0, step)?, moved], 1)?;
        let earlier = decay.narrow(1, 0, rest)?;
        decay = Tensor::cat(&[decay.narrow(1, 0, step)?, (later * earlier)?], 1)?;
        step *= 2;
    }
    Ok(states)
}

/// What moves the states of Mamba-2.
#[derive(Clone, Debug)]
pub struct DualInput {
    /// `[batch, n, heads, head_dim]`.
    pub x: Tensor,
    /// Δ, `[batch, n, heads]`.
    pub steps: Tensor,
    /// A, `[heads]`.
    pub decay: Tensor,
    /// B, `[batch, n, groups, state_size]`.
    pub b: Tensor,
    /// C, as B.
    pub c: Tensor,
}

/// `h ← e^(Δ·A) · h + Δ · x ⊗ B`, `y = h · C`, with B and C of each head's group.
///
/// Within a chunk as products of matrices (Dao and Gu, 2024, §6), between chunks as states.
///
/// * `before`: `[batch, heads, head_dim, state_size]`
/// * returns y, `[batch, n, heads, head_dim]`, and the last state
pub fn dual_scan(input: &DualInput, before: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_batch, total, _heads, _head_dim) = input.x.dims4()?;
    let mut state = before.clone();
    let mut parts = Vec::with_capacity(total.div_ceil(CHUNK));
    for start in (0..total).step_by(CHUNK) {
        let count = CHUNK.min(total - start);
        let (y, after) = input.part(start, count)?.chunk(&state)?;
        state = after;
        parts.push(y);
    }
    let y = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1)? };
    Ok((y, state))
}

impl DualInput {
    fn part(&self, start: usize, count: usize) -> Result<Self> {
        let part = |x: &Tensor| x.narrow(1, start, count);
        Ok(Self {
            x: part(&self.x)?,
            steps: part(&self.steps)?,
            decay: self.decay.clone(),
            b: part(&self.b)?,
            c: part(&self.c)?,
        })
    }

    fn chunk(&self, before: &Tensor) -> Result<(Tensor, Tensor)> {
        let (_batch, count, heads, _head_dim) = self.x.dims4()?;
        // ln of the decay from the chunk's start up to and with each position, [batch, heads, n].
        let log = self.steps.broadcast_mul(&self.decay)?.transpose(1, 2)?.contiguous()?;
        let log = log.broadcast_matmul(&upper(count, &log)?)?;
        let between = log.unsqueeze(3)?.broadcast_sub(&log.unsqueeze(2)?)?;
        let between = between.broadcast_add(&future(count, &log)?)?.exp()?;
        let (b, c) = (by_head(&self.b, heads)?, by_head(&self.c, heads)?);
        let moved = self.x.broadcast_mul(&self.steps.unsqueeze(3)?)?;
        let moved = moved.transpose(1, 2)?.contiguous()?;
        let within = (c.matmul(&b.t()?)? * between)?.matmul(&moved)?;
        let carried = c.matmul(&before.t()?)?.broadcast_mul(&log.exp()?.unsqueeze(3)?)?;
        let y = (within + carried)?.transpose(1, 2)?.contiguous()?;
        let whole = log.narrow(2, count - 1, 1)?;
        let left = whole.broadcast_sub(&log)?.exp()?.unsqueeze(3)?;
        let added = moved.broadcast_mul(&left)?.t()?.contiguous()?.matmul(&b)?;
        let after = (before.broadcast_mul(&whole.exp()?.unsqueeze(3)?)? + added)?;
        Ok((y, after))
    }
}

/// `[batch, n, groups, size]` to `[batch, heads, n, size]`.
fn by_head(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, count, groups, size) = x.dims4()?;
    let x = x.transpose(1, 2)?.unsqueeze(2)?;
    let x = x.broadcast_as((batch, groups, heads / groups, count, size))?;
    x.contiguous()?.reshape((batch, heads, count, size))
}

/// Ones where the row is not after the column, so that a product with it adds up what came before.
fn upper(count: usize, like: &Tensor) -> Result<Tensor> {
    table(count, like, |row, column| if row <= column { 1.0 } else { 0.0 })
}

/// 0 where the row is not before the column, else −∞.
fn future(count: usize, like: &Tensor) -> Result<Tensor> {
    table(count, like, |row, column| if row >= column { 0.0 } else { f32::NEG_INFINITY })
}

fn table(count: usize, like: &Tensor, value: impl Fn(usize, usize) -> f32) -> Result<Tensor> {
    let values = (0..count * count).map(|at| value(at / count, at % count)).collect();
    Tensor::from_vec(values, (count, count), like.device())?.to_dtype(like.dtype())
}

/// A convolution over positions, one filter for each channel.
///
/// * `x`: `[batch, n, channels]`, `before`: the inputs before, `[batch, kernel − 1, channels]`,
///   none for a kernel of 1
/// * `weight`: `[channels, kernel]` or `[channels, 1, kernel]`, `bias`: `[channels]`
/// * returns `[batch, n, channels]`, and the last `kernel − 1` inputs
pub fn causal_conv(
    x: &Tensor,
    before: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (_batch, count, channels) = x.dims3()?;
    let weight = widened(weight)?.reshape((channels, ()))?;
    let all = match before {
        Some(before) => Tensor::cat(&[before, x], 1)?,
        None => x.clone(),
    };
    let mut sum: Option<Tensor> = None;
    for tap in 0..weight.dim(D::Minus1)? {
        let filter = weight.narrow(1, tap, 1)?.squeeze(1)?;
        let term = all.narrow(1, tap, count)?.broadcast_mul(&filter)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let sum = sum.expect("a kernel has one position or more");
    let sum = match bias {
        Some(bias) => sum.broadcast_add(bias)?,
        None => sum,
    };
    let after = before.map(|before| all.narrow(1, count, before.dim(1)?)).transpose()?;
    Ok((sum, after))
}
