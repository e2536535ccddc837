//! The mixers of Mamba and Mamba-2, without their input and output projections.

use std::ops::Range;

use crate::conv::Conv;
use crate::kernel::Kernels;
use crate::matrix::Linear;
use crate::norm::Norm;
use crate::parallel::{Rows, split};
use crate::recurrent::{LANES, RecurrentSegment, RecurrentShape};
use crate::scan::{
    Columns, Dual, Selective, dual_scan, gate, head_steps, selective_scan, softplus_all,
};

/// Multiplications that are worth a task of their own.
const TASK_WORK: usize = 1 << 14;

/// Selective state space: spec 21, `mamba`.
#[derive(Clone, Debug)]
pub(crate) struct Mamba {
    pub(crate) state_size: usize,
    pub(crate) time_step_rank: usize,
    pub(crate) conv: Conv,
    /// To the time step before its projection, B and C.
    pub(crate) parameters: Linear,
    pub(crate) time_step: Linear,
    /// A, `[blocks, state_size, LANES]`.
    pub(crate) decay: Vec<f32>,
    /// D, `[blocks, LANES]`.
    pub(crate) skip: Vec<f32>,
}

/// State space duality: spec 21, `mamba2`.
#[derive(Clone, Debug)]
pub(crate) struct Mamba2 {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) state_size: usize,
    pub(crate) conv: Conv,
    /// `[heads]`.
    pub(crate) time_step_bias: Vec<f32>,
    /// The least and the largest time step.
    pub(crate) time_step_limits: (f32, f32),
    /// A, `[heads]`.
    pub(crate) decay: Vec<f32>,
    /// D, `[heads]`.
    pub(crate) skip: Vec<f32>,
    /// For each group of heads, the norm of its part of the gated output.
    pub(crate) norms: Vec<Norm>,
}

impl Mamba {
    /// What it keeps.
    pub(crate) fn shape(&self) -> RecurrentShape {
        RecurrentShape {
            heads: 1,
            head_dim: self.conv.channels(),
            state_size: self.state_size,
            conv_width: self.conv.channels(),
            conv_past: self.conv.past(),
        }
    }

    /// Moves the states on and gives the gated outputs.
    ///
    /// * `input`: x and z, `[rows, 2 · inner_size]`
    /// * returns `[rows, inner_size]`
    pub(crate) fn apply(
        &self,
        kernels: Kernels,
        input: &[f32],
        segments: &mut [RecurrentSegment<'_>],
    ) -> Vec<f32> {
        let (inner, rank, size) = (self.conv.channels(), self.time_step_rank, self.state_size);
        let x = self.conv.apply(kernels, input, (2 * inner, 0), segments);
        let parameters = self.parameters.apply(kernels, &x);
        let width = rank + 2 * size;
        let ranks: Vec<f32> =
            parameters.chunks_exact(width).flat_map(|row| &row[..rank]).copied().collect();
        let mut steps = self.time_step.apply(kernels, &ranks);
        each_row(&mut steps, inner, &|_, steps| softplus_all(kernels, steps));
        let columns = |data, width, column| Columns { data, width, column };
        let mut out = vec![0.0; x.len()];
        let target = Rows::new(&mut out, inner);
        each_block(segments, self.shape(), &|block, rows, state| {
            let (_, channels) = self.shape().channels(block);
            let first = channels.start;
            let of = Selective {
                count: channels.len(),
                rows: (rows.start, rows.end),
                x: columns(&x, inner, first),
                step: columns(&steps, inner, first),
                b: columns(&parameters, width, rank),
                c: columns(&parameters, width, rank + size),
                decay: &self.decay[block * size * LANES..][..size * LANES],
                skip: self.skip.as_chunks().0[block],
            };
            selective_scan(kernels, of, state, &mut |row, out| {
                // SAFETY: a block's channels of a row belong to one task.
                unsafe { target.part(row, channels.clone()) }.copy_from_slice(out);
            });
        });
        each_row(&mut out, inner, &|row, out| {
            gate(kernels, out, &input[row * 2 * inner + inner..][..inner]);
        });
        out
    }
}

impl Mamba2 {
    /// What it keeps.
    pub(crate) fn shape(&self) -> RecurrentShape {
        RecurrentShape {
            heads: self.heads,
            head_dim: self.head_dim,
            state_size: self.state_size,
            conv_width: self.conv.channels(),
            conv_past: self.conv.past(),
        }
    }

    /// Moves the states on and gives the gated and normalized outputs.
    ///
    /// * `input`: z, then x, B and C, then time steps, `[rows, inner + conv_width + heads]`
    /// * returns `[rows, inner]`
    pub(crate) fn apply(
        &self,
        kernels: Kernels,
        input: &[f32],
        segments: &mut [RecurrentSegment<'_>],
    ) -> Vec<f32> {
        let (inner, conv_width) = (self.heads * self.head_dim, self.conv.channels());
        let width = inner + conv_width + self.heads;
        let rows = input.len() / width;
        let x = self.conv.apply(kernels, input, (width, inner), segments);
        let steps = self.steps(kernels, input, width);
        let columns = |data, width, column| Columns { data, width, column };
        let mut out = vec![0.0; rows * inner];
        let target = Rows::new(&mut out, inner);
        let (size, groups) = (self.state_size, self.norms.len());
        each_block(segments, self.shape(), &|block, rows, state| {
            let (head, channels) = self.shape().channels(block);
            let group = head / (self.heads / groups);
            let of = Dual {
                count: channels.len(),
                rows: (rows.start, rows.end),
                x: columns(&x, conv_width, channels.start),
                step: columns(&steps, 2 * self.heads, 2 * head),
                b: columns(&x, conv_width, inner + group * size),
                c: columns(&x, conv_width, inner + (groups + group) * size),
                skip: self.skip[head],
            };
            dual_scan(kernels, of, state, &mut |row, out| {
                // SAFETY: a block's channels of a row belong to one task.
                unsafe { target.part(row, channels.clone()) }.copy_from_slice(out);
            });
        });
        each_row(&mut out, inner, &|row, out| {
            gate(kernels, out, &input[row * width..][..inner]);
            for (part, norm) in out.chunks_exact_mut(inner / groups).zip(&self.norms) {
                norm.apply_row(kernels, part);
            }
        });
        out
    }

    /// Δ and `e^(Δ·A)` of every row and head, `[rows, heads, 2]`.
    fn steps(&self, kernels: Kernels, input: &[f32], width: usize) -> Vec<f32> {
        let mut steps = vec![0.0; input.len() / width * 2 * self.heads];
        for (row, out) in input.chunks_exact(width).zip(steps.chunks_exact_mut(2 * self.heads)) {
            let row = &row[width - self.heads..];
            let (bias, limits) = (&self.time_step_bias, self.time_step_limits);
            head_steps(kernels, row, bias, &self.decay, limits, out);
        }
        steps
    }
}

/// Calls `work` with every row of `width` numbers.
fn each_row(values: &mut [f32], width: usize, work: &(impl Fn(usize, &mut [f32]) + Sync)) {
    let rows = values.len() / width;
    let target = Rows::new(values, width);
    split(rows, 8, &|range| {
        for row in range {
            // SAFETY: each row is in one range of the split.
            work(row, unsafe { target.row(row) });
        }
    });
}

/// Calls `work` with every block of channels of every segment: the block, its rows and its state.
/// One thread does a block from the first row to the last, so nothing depends on their number.
fn each_block(
    segments: &mut [RecurrentSegment<'_>],
    shape: RecurrentShape,
    work: &(impl Fn(usize, Range<usize>, &mut [f32]) + Sync),
) {
    let blocks = shape.blocks();
    let longest = segments.iter().map(|segment| segment.rows.len()).max().unwrap_or(0);
    let block_work = (longest * shape.state_size * LANES).max(1);
    let segments: Vec<_> =
        segments.iter_mut().map(|segment| (segment.rows.clone(), segment.blocks())).collect();
    split(segments.len() * blocks, TASK_WORK / block_work, &|tasks| {
        for task in tasks {
            let (rows, states) = &segments[task / blocks];
            let block = task % blocks;
            // SAFETY: each block of a segment is in one range of the split.
            work(block, rows.clone(), unsafe { states.row(block) });
        }
    });
}
