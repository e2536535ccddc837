//! The convolution over positions before a scan, and the activation after it.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::floats::{Floats, numbers, storage, tensor, total};
use crate::kernel::vector::{exp, vectorized};
use crate::kernel::{KernelLevel, Kernels};

/// `silu(bias + Σ weight[tap] · x[position + tap − taps + 1])`, zeros before the first position.
///
/// * `x`: `[batch, n, channels]`, `weight`: `[channels, taps]`, `bias`: `[channels]`
pub(in crate::graph) fn conv_silu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, ConvSilu)
}

struct ConvSilu;

/// A sequence and the filters.
#[derive(Clone, Copy)]
pub(crate) struct Filtered<'a> {
    /// `[n, channels]`.
    x: &'a [f32],
    /// `[taps, channels]`.
    weight: &'a [f32],
    /// `[channels]`.
    bias: &'a [f32],
}

impl<'a> Filtered<'a> {
    /// Position and filter of each tap that reaches `at`.
    #[inline(always)]
    fn taps(self, at: usize) -> impl Iterator<Item = (usize, usize, &'a [f32])> {
        let channels = self.bias.len();
        let taps = self.weight.len() / channels;
        (0..taps).filter_map(move |tap| {
            let from = (at + tap + 1).checked_sub(taps)?;
            Some((tap, from, &self.weight[tap * channels..][..channels]))
        })
    }

    /// What the activation gets at a position.
    #[inline(always)]
    fn sums(self, at: usize, sums: &mut [f32]) {
        let channels = self.bias.len();
        sums.copy_from_slice(self.bias);
        for (_tap, from, filter) in self.taps(at) {
            let x = &self.x[from * channels..][..channels];
            for ((sum, x), filter) in sums.iter_mut().zip(x).zip(filter) {
                *sum += x * filter;
            }
        }
    }
}

vectorized! {
    /// `out`: `[n, channels]`.
    fn forward(of: Filtered<'_>, out: &mut [f32]) {
        for (at, row) in out.chunks_exact_mut(of.bias.len()).enumerate() {
            of.sums(at, row);
            row.iter_mut().for_each(|x| *x /= 1.0 + exp::<FMA>(-*x));
        }
    }
}

vectorized! {
    /// Adds gradients of x, and of filters and bias, `[taps + 1, channels]`.
    fn backward(of: Filtered<'_>, slope: &[f32], of_x: &mut [f32], of_filters: &mut [f32]) {
        let channels = of.bias.len();
        let (of_weight, of_bias) = of_filters.split_at_mut(of.weight.len());
        let mut slopes = vec![0.0_f32; channels];
        for (at, slope) in slope.chunks_exact(channels).enumerate() {
            of.sums(at, &mut slopes);
            for ((sum, slope), of_bias) in slopes.iter_mut().zip(slope).zip(&mut *of_bias) {
                let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*sum));
                *sum = slope * sigmoid * (1.0 + *sum * (1.0 - sigmoid));
                *of_bias += *sum;
            }
            for (tap, from, filter) in of.taps(at) {
                let x = &of.x[from * channels..][..channels];
                let of_x = &mut of_x[from * channels..][..channels];
                let of_weight = &mut of_weight[tap * channels..][..channels];
                for channel in 0..channels {
                    of_x[channel] += slopes[channel] * filter[channel];
                    of_weight[channel] += slopes[channel] * x[channel];
                }
            }
        }
    }
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}

impl CustomOp3 for ConvSilu {
    fn name(&self) -> &'static str {
        "conv-silu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_batch, count, channels) = x_layout.shape().dims3()?;
        let (_channels, taps) = weight_layout.shape().dims2()?;
        let weight = transposed(numbers(weight, weight_layout)?, taps);
        let (x, bias) = (numbers(x, x_layout)?, numbers(bias, bias_layout)?);
        let mut out = vec![0.0; x.len()];
        let (kernels, size) = (Kernels::detect(), count * channels);
        out.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(out, x)| {
            forward(kernels, Filtered { x, weight: &weight, bias }, out);
        });
        Ok(storage(out, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (batch, count, channels) = x.dims3()?;
        let (_channels, taps) = weight.dims2()?;
        let slope = slope.contiguous()?;
        let (slope, values, bias_values) = (Floats::of(&slope)?, Floats::of(x)?, Floats::of(bias)?);
        let filters = transposed(&Floats::of(weight)?, taps);
        let (kernels, size, sums) = (Kernels::detect(), count * channels, (taps + 1) * channels);
        let mut of_x = vec![0.0; values.len()];
        let mut of_filters = vec![0.0; batch * sums];
        let parts = of_x.par_chunks_mut(size).zip(of_filters.par_chunks_mut(sums));
        parts.zip(values.par_chunks(size).zip(slope.par_chunks(size))).for_each(
            |((of_x, of_filters), (x, slope))| {
                let of = Filtered { x, weight: &filters, bias: &bias_values };
                backward(kernels, of, slope, of_x, of_filters);
            },
        );
        let of_filters = total(&of_filters, sums);
        let (of_weight, of_bias) = of_filters.split_at(taps * channels);
        Ok((
            x.track_op().then(|| tensor(of_x, x.dims())).transpose()?,
            weight
                .track_op()
                .then(|| tensor(transposed(of_weight, channels), weight.dims()))
                .transpose()?,
            bias.track_op().then(|| tensor(of_bias.to_vec(), channels)).transpose()?,
        ))
    }
}
