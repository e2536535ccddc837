//! Products with an activation between them.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use cart_format::arch::Activation;

use super::floats::{
    BLOCK, Floats, copied, each_block, numbers, rows_and_width, rows_of, storage, tensor,
};
use super::gathering::gathered;
use super::matrix::Matrix;
use super::mixed::Products;
use crate::kernel::vector::{exp, tanh, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::threads::lock;

/// `activation(x · gateᵀ) · (x · upᵀ)`; none for an activation that has no operation here.
///
/// * `x`: `[rows, inputs]`, `gate`, `up`: `[inner, inputs]`, to `[rows, inner]`
pub(in crate::graph) fn gated(
    activation: Activation,
    x: &Tensor,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Option<Tensor>> {
    let smooth = match activation {
        Activation::Silu => Smooth::Silu,
        Activation::GeluTanh => Smooth::GeluTanh,
        _ => return Ok(None),
    };
    let goes_backward = [x, gate, up].iter().any(|side| side.track_op());
    let products = Products::current();
    let op = Gated { smooth, products, goes_backward, kept: Mutex::new(None) };
    Ok(Some(x.contiguous()?.apply_op3(&gate.contiguous()?, &up.contiguous()?, op)?))
}

/// `x · silu(gate)`, element by element.
pub(in crate::graph) fn times_silu(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&gate.contiguous()?, TimesSilu)
}

/// Activations that are compiled into vectors.
#[derive(Clone, Copy)]
pub(crate) enum Smooth {
    Silu,
    GeluTanh,
}

impl Smooth {
    /// Its value and its slope.
    #[inline(always)]
    fn at<const FMA: bool>(self, x: f32) -> (f32, f32) {
        match self {
            Self::Silu => silu::<FMA>(x),
            Self::GeluTanh => gelu_tanh::<FMA>(x),
        }
    }
}

/// `x · σ(x)` and `σ(x) · (1 + x · (1 − σ(x)))`.
#[inline(always)]
fn silu<const FMA: bool>(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp::<FMA>(-x));
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// `x/2 · (1 + t)` with `t = tanh(√(2/π) · (x + 0.044715 x³))`, and its slope.
#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6;
    let t = tanh::<FMA>(ROOT * (x + 0.044_715 * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

vectorized! {
    /// `gate ← activation(gate) · up`.
    fn gate_rows(smooth: Smooth, gate: &mut [f32], up: &[f32]) {
        match smooth {
            Smooth::Silu => for (gate, up) in gate.iter_mut().zip(up) {
                *gate = silu::<FMA>(*gate).0 * up;
            },
            Smooth::GeluTanh => for (gate, up) in gate.iter_mut().zip(up) {
                *gate = gelu_tanh::<FMA>(*gate).0 * up;
            },
        }
    }
}

vectorized! {
    /// Gradients of gate and up, over gate and up, from that of `activation(gate) · up`.
    fn gate_slopes(smooth: Smooth, gate: &mut [f32], up: &mut [f32], slope: &[f32]) {
        for ((gate, up), slope) in gate.iter_mut().zip(up).zip(slope) {
            let (value, rise) = smooth.at::<FMA>(*gate);
            (*gate, *up) = (slope * *up * rise, slope * value);
        }
    }
}

struct Gated {
    smooth: Smooth,
    products: Products,
    goes_backward: bool,
    /// `x · gateᵀ` and `x · upᵀ`, of the forward for the backward.
    kept: Mutex<Option<[Vec<f32>; 2]>>,
}

impl CustomOp3 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = rows_of(x_layout.dims())?;
        let (inner, _inputs) = gate_layout.shape().dims2()?;
        let x = Matrix::new(numbers(x, x_layout)?, rows, inputs);
        let times = |weight| self.products.of(x, Matrix::new(weight, inner, inputs).t());
        let (gate, up) = (times(numbers(gate, gate_layout)?), times(numbers(up, up_layout)?));
        let kept = self.goes_backward.then(|| copied(&gate));
        let mut out = gate;
        let kernels = Kernels::detect();
        each_block(&mut out, inner, |first, block| {
            gate_rows(kernels, self.smooth, block, &up[first * inner..][..block.len()]);
        });
        *lock(&self.kept) = kept.map(|gate| [gate, up]);
        Ok(storage(out, (rows, inner)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        up: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some([mut of_gate, mut of_up]) = lock(&self.kept).take() else {
            bail!("a gated product goes backward once")
        };
        let (rows, inputs) = rows_and_width(x)?;
        let inner = gate.dim(0)?;
        let slope = slope.contiguous()?;
        let slope = Floats::of(&slope)?;
        let (smooth, kernels) = (self.smooth, Kernels::detect());
        both_blocks(&mut of_gate, &mut of_up, inner, |first, gate, up| {
            gate_slopes(kernels, smooth, gate, up, &slope[first * inner..][..gate.len()]);
        });
        let slopes = [&of_gate, &of_up].map(|of| Matrix::new(of, rows, inner));
        let of_weight = |weight: &Tensor, slope: Matrix<'_>| {
            if !weight.track_op() {
                return Ok(None);
            }
            let x = Floats::of(x)?;
            let x = Matrix::new(&x, rows, inputs);
            gathered(weight, |sum| self.products.multiply(slope.t(), x, sum, true))
        };
        let of_x = || {
            let (gate, up) = (Floats::of(gate)?, Floats::of(up)?);
            let mut of_x = self.products.of(slopes[0], Matrix::new(&gate, inner, inputs));
            let up = Matrix::new(&up, inner, inputs);
            self.products.multiply(slopes[1], up, &mut of_x, true);
            tensor(of_x, x.dims())
        };
        Ok((
            x.track_op().then(of_x).transpose()?,
            of_weight(gate, slopes[0])?,
            of_weight(up, slopes[1])?,
        ))
    }
}

struct TimesSilu;

impl CustomOp2 for TimesSilu {
    fn name(&self) -> &'static str {
        "times-silu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_rows, width) = rows_of(x_layout.dims())?;
        let (x, mut out) = (numbers(x, x_layout)?, numbers(gate, gate_layout)?.to_vec());
        let kernels = Kernels::detect();
        each_block(&mut out, width, |first, block| {
            gate_rows(kernels, Smooth::Silu, block, &x[first * width..][..block.len()]);
        });
        Ok(storage(out, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_rows, width) = rows_and_width(x)?;
        let slope = slope.contiguous()?;
        let slope = Floats::of(&slope)?;
        let (mut of_gate, mut of_x) = (Floats::of(gate)?.to_vec(), Floats::of(x)?.to_vec());
        let kernels = Kernels::detect();
        both_blocks(&mut of_gate, &mut of_x, width, |first, gate, x| {
            let slope = &slope[first * width..][..gate.len()];
            gate_slopes(kernels, Smooth::Silu, gate, x, slope);
        });
        Ok((
            x.track_op().then(|| tensor(of_x, x.dims())).transpose()?,
            gate.track_op().then(|| tensor(of_gate, gate.dims())).transpose()?,
        ))
    }
}

/// As [`each_block`], over two at once.
fn both_blocks(
    a: &mut [f32],
    b: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) {
    use rayon::prelude::*;
    let size = BLOCK * width;
    let both = a.par_chunks_mut(size).zip(b.par_chunks_mut(size)).enumerate();
    both.for_each(|(index, (a, b))| work(index * BLOCK, a, b));
}
