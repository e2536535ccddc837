//! Normalization over the last axis.

use cart_format::arch::NormKind;

use crate::kernel::vector::{dot_lanes, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};

/// A norm with its weights.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    /// `[width]`, the unit offset already added.
    pub(crate) weight: Vec<f32>,
    /// `[width]`, for layer norms.
    pub(crate) bias: Option<Vec<f32>>,
}

impl Norm {
    /// Norms of rows: `[rows, width]` to the same.
    pub(crate) fn apply(&self, kernels: Kernels, input: &[f32]) -> Vec<f32> {
        let mut out = input.to_vec();
        let width = self.weight.len();
        let rows = out.len() / width;
        let target = Rows::new(&mut out, width);
        split(rows, 4, &|range| {
            for row in range {
                // SAFETY: each row is in one range of the split.
                self.apply_row(kernels, unsafe { target.row(row) });
            }
        });
        out
    }

    /// Norm of one row, in place.
    pub(crate) fn apply_row(&self, kernels: Kernels, row: &mut [f32]) {
        match self.kind {
            NormKind::Rms => rms(kernels, row, &self.weight, self.eps),
            NormKind::Layer => layer(kernels, row, &self.weight, self.eps),
        }
        if let Some(bias) = &self.bias {
            crate::kernel::vector::add(kernels, row, bias);
        }
    }
}

vectorized! {
    /// `x / √(mean(x²) + eps) · w` (Zhang and Sennrich, 2019).
    fn rms(row: &mut [f32], weight: &[f32], eps: f32) {
        let mean = dot_lanes::<FMA>(row, row) / row.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value *= scale * weight;
        }
    }
}

vectorized! {
    /// `(x − mean) / √(var + eps) · w` (Ba et al., 2016).
    fn layer(row: &mut [f32], weight: &[f32], eps: f32) {
        let count = row.len() as f32;
        let mean = row.iter().sum::<f32>() / count;
        for value in row.iter_mut() {
            *value -= mean;
        }
        let variance = dot_lanes::<FMA>(row, row) / count;
        let scale = 1.0 / (variance + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value *= scale * weight;
        }
    }
}
