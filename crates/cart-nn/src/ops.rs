//! The decoder's operations on tensors, each with its forward. Their gradients belong here, as
//! `bwd`.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use cart_format::arch::Activation;

use crate::activation::gate;
use crate::attention::{Attention, Segment};
use crate::experts::Experts;
use crate::kernel::{Kernels, vector};
use crate::mamba::{Mamba, Mamba2};
use crate::matrix::{Linear, Matrix};
use crate::norm::Norm;
use crate::parallel::{Rows, split};
use crate::recurrent::RecurrentSegment;
use crate::rope::RopeTable;

/// Rows of the embedding: `[n]` token ids to `[n, hidden]`. Ids are in range.
pub(crate) struct Embed<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) embedding: &'a Matrix,
    pub(crate) scale: Option<f32>,
}

impl CustomOp1 for Embed<'_> {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ids = storage.as_slice::<u32>()?;
        let ids = contiguous(ids, layout)?;
        let hidden = self.embedding.inputs;
        let mut out = vec![0.0; ids.len() * hidden];
        for (&id, row) in ids.iter().zip(out.chunks_exact_mut(hidden)) {
            self.embedding.read_row(self.kernels, id as usize, row);
            if let Some(scale) = self.scale {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok((CpuStorage::F32(out), (ids.len(), hidden).into()))
    }
}

/// `norm(x)`: `[n, hidden]` to the same.
pub(crate) struct Normalize<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) norm: &'a Norm,
}

impl CustomOp1 for Normalize<'_> {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, hidden) = layout.shape().dims2()?;
        let out = self.norm.apply(self.kernels, floats(storage, layout)?);
        Ok((CpuStorage::F32(out), (rows, hidden).into()))
    }
}

/// `linear(norm(x))`: `[n, inputs]` to `[n, outputs]`.
pub(crate) struct NormLinear<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) norm: &'a Norm,
    pub(crate) linear: &'a Linear,
}

impl CustomOp1 for NormLinear<'_> {
    fn name(&self) -> &'static str {
        "norm-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _inputs) = layout.shape().dims2()?;
        let normed = self.norm.apply(self.kernels, floats(storage, layout)?);
        let out = self.linear.apply(self.kernels, &normed);
        Ok((CpuStorage::F32(out), (rows, self.linear.outputs).into()))
    }
}

/// `activation(gate(norm(x))) · up(norm(x))`, or `activation(up(norm(x)))`: `[n, hidden]` to
/// `[n, intermediate]`.
pub(crate) struct NormMlp<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) norm: &'a Norm,
    /// Gate and up side by side, or up alone.
    pub(crate) linear: &'a Linear,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
}

impl CustomOp1 for NormMlp<'_> {
    fn name(&self) -> &'static str {
        "norm-mlp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _hidden) = layout.shape().dims2()?;
        let normed = self.norm.apply(self.kernels, floats(storage, layout)?);
        let both = self.linear.apply(self.kernels, &normed);
        let out = gate(self.kernels, self.activation, self.gated, &both, rows);
        let intermediate = out.len() / rows;
        Ok((CpuStorage::F32(out), (rows, intermediate).into()))
    }
}

/// `residual + experts(norm(x))`, or `residual + after(experts(norm(x)))`: `[n, hidden]` and
/// `[n, hidden]` to the same.
pub(crate) struct ExpertsAdd<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) norm: &'a Norm,
    pub(crate) experts: &'a Experts,
    pub(crate) after: Option<&'a Norm>,
}

impl CustomOp2 for ExpertsAdd<'_> {
    fn name(&self) -> &'static str {
        "experts-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, hidden) = x_layout.shape().dims2()?;
        let normed = self.norm.apply(self.kernels, floats(x, x_layout)?);
        let mut out = self.experts.apply(self.kernels, &normed);
        if let Some(norm) = self.after {
            out = norm.apply(self.kernels, &out);
        }
        vector::add(self.kernels, &mut out, floats(residual, residual_layout)?);
        Ok((CpuStorage::F32(out), (rows, hidden).into()))
    }
}

/// `residual + linear(x)`, or `residual + norm(linear(x))`: `[n, inputs]` and `[n, hidden]` to
/// `[n, hidden]`.
pub(crate) struct LinearAdd<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) linear: &'a Linear,
    pub(crate) norm: Option<&'a Norm>,
}

impl CustomOp2 for LinearAdd<'_> {
    fn name(&self) -> &'static str {
        "linear-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _inputs) = x_layout.shape().dims2()?;
        let mut out = self.linear.apply(self.kernels, floats(x, x_layout)?);
        if let Some(norm) = self.norm {
            out = norm.apply(self.kernels, &out);
        }
        let residual = floats(residual, residual_layout)?;
        let width = self.linear.outputs;
        let target = Rows::new(&mut out, width);
        split(rows, 4, &|range| {
            for row in range {
                // SAFETY: each row is in one range of the split.
                let out = unsafe { target.row(row) };
                vector::add(self.kernels, out, &residual[row * width..][..width]);
            }
        });
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }
}

/// Rotates, appends to the caches and attends: `[n, (heads + 2 · kv_heads) · head_dim]` to
/// `[n, heads · head_dim]`.
pub(crate) struct Attend<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) attention: &'a Attention,
    pub(crate) table: Option<&'a RopeTable>,
    pub(crate) segments: RefCell<Vec<Segment<'a>>>,
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _width) = layout.shape().dims2()?;
        let qkv = floats(storage, layout)?;
        let mut segments = self.segments.borrow_mut();
        let out = self.attention.apply(self.kernels, qkv, self.table, &mut segments);
        Ok((CpuStorage::F32(out), (rows, self.attention.query_width()).into()))
    }
}

/// Moves the states on and gives the gated outputs: `[n, input width]` to `[n, inner_size]`.
pub(crate) struct Recur<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) mixer: Recurrence<'a>,
    pub(crate) segments: RefCell<Vec<RecurrentSegment<'a>>>,
}

/// A recurrent mixer.
pub(crate) enum Recurrence<'a> {
    Mamba(&'a Mamba),
    Mamba2(&'a Mamba2),
}

impl CustomOp1 for Recur<'_> {
    fn name(&self) -> &'static str {
        "recur"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _width) = layout.shape().dims2()?;
        let input = floats(storage, layout)?;
        let mut segments = self.segments.borrow_mut();
        let out = match self.mixer {
            Recurrence::Mamba(mixer) => mixer.apply(self.kernels, input, &mut segments),
            Recurrence::Mamba2(mixer) => mixer.apply(self.kernels, input, &mut segments),
        };
        let width = out.len() / rows;
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }
}

/// Shows the numbers of a contiguous `f32` tensor on the CPU.
pub(crate) fn with_floats<R>(tensor: &Tensor, see: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(see(floats(storage, layout)?)),
        _ => bail!("the decoder's tensors are on the CPU"),
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    contiguous(storage.as_slice::<f32>()?, layout)
}

fn contiguous<'a, T>(values: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("the decoder's operations take contiguous tensors"),
    }
}
