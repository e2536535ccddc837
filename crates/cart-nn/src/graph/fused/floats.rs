//! Reading and making tensors of `f32` on the CPU, and sharing out their rows.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Rows that a task works on. Part of what an operation computes: sums over rows are sums of such
/// blocks.
pub(super) const BLOCK: usize = 32;

/// The numbers of a contiguous tensor.
pub(in crate::graph) struct Floats<'a> {
    storage: Box<dyn Deref<Target = Storage> + Sync + 'a>,
    range: Range<usize>,
}

impl<'a> Floats<'a> {
    /// * `tensor`: contiguous, `f32`, on the CPU
    pub(in crate::graph) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("fused operations take contiguous tensors")
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => {
                Ok(Self { storage: Box::new(storage), range: start..end })
            }
            _ => bail!("fused operations take f32 on the CPU"),
        }
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("looked at when this was made"),
        }
    }
}

/// The numbers of an operation's argument.
pub(super) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("fused operations take contiguous tensors"),
    }
}

/// The same numbers once more, by all threads.
pub(super) fn copied(values: &[f32]) -> Vec<f32> {
    values.par_iter().with_min_len(1 << 14).copied().collect()
}

/// What an operation's forward gives.
pub(super) fn storage(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// A tensor of these numbers.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// The last axis and how often it is there.
pub(super) fn rows_and_width(x: &Tensor) -> Result<(usize, usize)> {
    rows_of(x.dims())
}

/// As [`rows_and_width`].
pub(super) fn rows_of(dims: &[usize]) -> Result<(usize, usize)> {
    match dims.split_last() {
        Some((&width, outer)) => Ok((outer.iter().product(), width)),
        None => bail!("a single number has no rows"),
    }
}

/// Calls `work` with blocks of rows of `out`, `[rows, width]`, and the number of their first row.
pub(super) fn each_block(
    out: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let blocks = out.par_chunks_mut(BLOCK * width.max(1)).enumerate();
    blocks.for_each(|(index, block)| work(index * BLOCK, block));
}

/// As [`each_block`], with sums over all rows: `work` adds to those of its block, `[sums]`, which
/// are added up in order.
pub(super) fn each_block_and_sum(
    out: &mut [f32],
    width: usize,
    sums: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let blocks = out.len().div_ceil(BLOCK * width);
    let mut parts = vec![0.0; blocks * sums];
    let outs = out.par_chunks_mut(BLOCK * width).enumerate();
    let work = |((index, block), part): ((usize, &mut [f32]), &mut [f32])| {
        work(index * BLOCK, block, part);
    };
    outs.zip(parts.par_chunks_mut(sums)).for_each(work);
    total(&parts, sums)
}

/// The sum of rows of `width`, one after the other.
pub(super) fn total(parts: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for part in parts.chunks_exact(width) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}
