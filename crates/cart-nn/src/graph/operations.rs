//! Operations on tensors, of pieces that carry gradients.
//!
//! candle's fused norms, softmax and rotation have no gradient and say nothing about it, and its
//! GELU has one to six digits. So these are put together from its plain operations; `tests/graph`
//! holds each to finite differences.
//!
//! On the CPU, `f32` goes through operations that are one pass each way (`graph/fused/`).
//!
//! What is summed or exponentiated is widened to `f32` first, unless it is `f64`.

#![allow(
    clippy::missing_errors_doc,
    reason = "all fail alike: where shapes, types or memory do not suit"
)]

use candle_core::{D, DType, Result, Tensor};
use cart_format::arch::{Activation, NormKind, RopePairing};

use super::fused;

/// The type that sums and exponentials are computed in.
pub(super) fn wide_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The same numbers in the type that sums are computed in.
pub(super) fn widened(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide_dtype(x.dtype()))
}

/// `x · weightᵀ + bias`.
///
/// * `x`: `[rows, inputs]`, `weight`: `[outputs, inputs]`, `bias`: `[outputs]`
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = if fused::suits(x) && fused::suits(weight) {
        fused::product(x, weight)?
    } else {
        x.matmul(&weight.to_dtype(x.dtype())?.t()?)?
    };
    match bias {
        Some(bias) => product.broadcast_add(&bias.to_dtype(product.dtype())?),
        None => Ok(product),
    }
}

/// A normalization over the last axis.
#[derive(Clone, Debug)]
pub struct NormWeights {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square (or variance) under the root.
    pub eps: f64,
    /// Whether `1 + weight` is applied.
    pub unit_offset: bool,
    /// `[width]`, or any shape that `x` can be multiplied with.
    pub weight: Tensor,
    /// As `weight`.
    pub bias: Option<Tensor>,
}

impl NormWeights {
    /// `x / √(mean(x²) + eps) · w`, or `(x − mean) / √(var + eps) · w + b`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if fused::suits(x)
            && let Some(normed) = fused::norm(x, self)?
        {
            return Ok(normed);
        }
        let (dtype, mut x) = (x.dtype(), widened(x)?);
        if self.kind == NormKind::Layer {
            x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        }
        let scale = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, self.eps)?.sqrt()?;
        let weight =
            if self.unit_offset { self.weight.affine(1.0, 1.0)? } else { self.weight.clone() };
        let scaled = x.broadcast_div(&scale)?.broadcast_mul(&weight)?;
        match &self.bias {
            Some(bias) => scaled.broadcast_add(bias)?.to_dtype(dtype),
            None => scaled.to_dtype(dtype),
        }
    }
}

/// Softmax over the last axis. `−∞` gives 0, unless all of a row are.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    // What is subtracted changes nothing, so no gradient goes through it.
    let largest = x.detach().max_keepdim(D::Minus1)?;
    let powers = x.broadcast_sub(&largest)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

/// Logarithm of the softmax over the last axis.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?;
    shifted.broadcast_sub(&total.log()?)
}

/// `c · tanh(x / c)`.
pub fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    x.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)
}

/// `ln(1 + eˣ)`, without an overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    let rest = x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?;
    x.relu()? + rest
}

/// `1 / (1 + e⁻ˣ)`.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.neg()?.exp()?.affine(1.0, 1.0)?.recip()
}

/// An activation function, element by element.
pub fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => {
            let erf = x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?;
            x.affine(0.5, 0.0)? * erf.affine(1.0, 1.0)?
        }
        Activation::GeluTanh => {
            let inner = (x + (x.sqr()? * x)?.affine(0.044_715, 0.0)?)?;
            let tanh = inner.affine((2.0 / std::f64::consts::PI).sqrt(), 0.0)?.tanh()?;
            x.affine(0.5, 0.0)? * tanh.affine(1.0, 1.0)?
        }
        Activation::Relu => x.relu(),
        Activation::ReluSquared => x.relu()?.sqr(),
    }
}

/// Cosines and sines of rotations.
#[derive(Clone, Debug)]
pub struct Turns {
    /// Which dimensions make a pair.
    pub pairing: RopePairing,
    /// `[rows, pairs]`.
    pub cosines: Tensor,
    /// `[rows, pairs]`.
    pub sines: Tensor,
}

impl Turns {
    /// Rotates the first `2 · pairs` numbers of each head; the others stay.
    ///
    /// * `x`: `[rows, heads, head_dim]`, to the same
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, heads, head_dim) = x.dims3()?;
        let (_rows, pairs) = self.cosines.dims2()?;
        let factor = |turns: &Tensor| turns.unsqueeze(1)?.to_dtype(x.dtype());
        let (cosines, sines) = (factor(&self.cosines)?, factor(&self.sines)?);
        let turned = x.narrow(2, 0, 2 * pairs)?;
        let (a, b) = match self.pairing {
            RopePairing::Halves => (turned.narrow(2, 0, pairs)?, turned.narrow(2, pairs, pairs)?),
            RopePairing::Interleaved => {
                let both = turned.contiguous()?.reshape((rows, heads, pairs, 2))?;
                (both.narrow(3, 0, 1)?.squeeze(3)?, both.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (a.broadcast_mul(&cosines)? - b.broadcast_mul(&sines)?)?;
        let second = (b.broadcast_mul(&cosines)? + a.broadcast_mul(&sines)?)?;
        let turned = match self.pairing {
            RopePairing::Halves => Tensor::cat(&[first, second], 2)?,
            RopePairing::Interleaved => {
                Tensor::stack(&[first, second], 3)?.reshape((rows, heads, 2 * pairs))?
            }
        };
        if 2 * pairs == head_dim {
            return Ok(turned);
        }
        Tensor::cat(&[turned, x.narrow(2, 2 * pairs, head_dim - 2 * pairs)?], 2)
    }
}
