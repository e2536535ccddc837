//! Norms over the last axis.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::floats::{
    Floats, each_block, each_block_and_sum, numbers, rows_and_width, rows_of, storage, tensor,
};
use crate::graph::operations::NormWeights;
use crate::kernel::vector::{dot_lanes, lane_sum, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use cart_format::arch::NormKind;

/// The norm of each row of `x`; none where its weights are not one for each column.
pub(in crate::graph) fn norm(x: &Tensor, of: &NormWeights) -> Result<Option<Tensor>> {
    let width = rows_and_width(x)?.1;
    if of.weight.dims() != [width] {
        return Ok(None);
    }
    let offset = if of.unit_offset { 1.0 } else { 0.0 };
    let op = Norm { centred: of.kind == NormKind::Layer, eps: of.eps as f32, offset };
    let (x, weight) = (x.contiguous()?, of.weight.contiguous()?);
    let normed = match &of.bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => x.apply_op2(&weight, op)?,
    };
    Ok(Some(normed))
}

#[derive(Clone, Copy)]
pub(crate) struct Norm {
    /// Whether the mean is taken off first.
    centred: bool,
    eps: f32,
    /// Added to the weights.
    offset: f32,
}

impl Norm {
    fn forward(self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (width, kernels) = (weight.len(), Kernels::detect());
        let mut out = x.to_vec();
        each_block(&mut out, width, |_, block| norm_rows(kernels, self, block, weight, bias));
        out
    }

    /// Gradients of x, of the weight and of the bias.
    fn slopes(self, x: &Tensor, weight: &Tensor, slope: &Tensor) -> Result<[Tensor; 3]> {
        let slope = slope.contiguous()?;
        let (x_values, weight, slope) = (Floats::of(x)?, Floats::of(weight)?, Floats::of(&slope)?);
        let (width, kernels) = (weight.len(), Kernels::detect());
        let mut of_x = slope.to_vec();
        let sums = each_block_and_sum(&mut of_x, width, 2 * width, |first, block, sums| {
            let x = &x_values[first * width..][..block.len()];
            norm_slopes(kernels, self, x, &weight, block, sums);
        });
        let (of_weight, of_bias) = sums.split_at(width);
        Ok([
            tensor(of_x, x.dims())?,
            tensor(of_weight.to_vec(), width)?,
            tensor(of_bias.to_vec(), width)?,
        ])
    }
}

/// Takes off the mean, if that is asked for, and returns one over the root of the mean square.
#[inline(always)]
fn centre<const FMA: bool>(of: Norm, row: &mut [f32]) -> f32 {
    let count = row.len() as f32;
    if of.centred {
        let mut lanes = [0.0_f32; 8];
        let (chunks, rest) = row.as_chunks::<8>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value;
            }
        }
        let mean = (lane_sum(lanes) + rest.iter().sum::<f32>()) / count;
        row.iter_mut().for_each(|value| *value -= mean);
    }
    1.0 / (dot_lanes::<FMA>(row, row) / count + of.eps).sqrt()
}

vectorized! {
    /// `rows`, `[n, width]`, in place.
    fn norm_rows(of: Norm, rows: &mut [f32], weight: &[f32], bias: Option<&[f32]>) {
        for row in rows.chunks_exact_mut(weight.len()) {
            let scale = centre::<FMA>(of, row);
            for (value, weight) in row.iter_mut().zip(weight) {
                *value *= scale * (weight + of.offset);
            }
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

vectorized! {
    /// With `n = (x − mean) · scale` and `q = slope · weight`:
    /// `scale · (q − mean(q) − n · mean(q · n))`, without `mean(q)` where nothing is centred.
    ///
    /// * `slopes`: `[n, width]`, in place
    /// * `sums`: of `slope · n` and of `slope`, `[2, width]`
    fn norm_slopes(of: Norm, x: &[f32], weight: &[f32], slopes: &mut [f32], sums: &mut [f32]) {
        let width = weight.len();
        let (of_weight, of_bias) = sums.split_at_mut(width);
        let mut normed = vec![0.0_f32; width];
        for (x, slope) in x.chunks_exact(width).zip(slopes.chunks_exact_mut(width)) {
            normed.copy_from_slice(x);
            let scale = centre::<FMA>(of, &mut normed);
            for column in 0..width {
                normed[column] *= scale;
                of_weight[column] += slope[column] * normed[column];
                of_bias[column] += slope[column];
                slope[column] *= weight[column] + of.offset;
            }
            let along = dot_lanes::<FMA>(slope, &normed) / width as f32;
            for (slope, normed) in slope.iter_mut().zip(&normed) {
                *slope = scale * (*slope - along * normed);
            }
            if of.centred {
                let mean = slope.iter().sum::<f32>() / width as f32;
                slope.iter_mut().for_each(|slope| *slope -= mean);
            }
        }
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        rows_of(x_layout.dims())?;
        let out = self.forward(numbers(x, x_layout)?, numbers(weight, weight_layout)?, None);
        Ok(storage(out, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [of_x, of_weight, _of_bias] = self.slopes(x, weight, slope)?;
        Ok((x.track_op().then_some(of_x), weight.track_op().then_some(of_weight)))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm"
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
        let (weight, bias) = (numbers(weight, weight_layout)?, numbers(bias, bias_layout)?);
        let out = self.forward(numbers(x, x_layout)?, weight, Some(bias));
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
        let [of_x, of_weight, of_bias] = self.slopes(x, weight, slope)?;
        Ok((
            x.track_op().then_some(of_x),
            weight.track_op().then_some(of_weight),
            bias.track_op().then_some(of_bias),
        ))
    }
}
