//! Causal attention of sequences that nothing precedes, with its rotation.
//!
//! Scores are made block by block in both directions and never kept (Dao, 2023); what is kept of
//! them is the logarithm of each row's sum.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use cart_format::arch::RopePairing;
use rayon::prelude::*;

use super::floats::{Floats, each_block, numbers, storage, tensor};
use super::loss::{largest, sum};
use super::matrix::{By, Matrix, multiply};
use crate::graph::operations::Turns;
use crate::kernel::vector::{dot_lanes, exp, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::Rows;
use crate::threads::lock;

/// Queries whose scores are made together.
const QUERIES: usize = 64;

/// The geometry of an attention.
#[derive(Clone, Copy, Debug)]
pub(in crate::graph) struct AttentionShape {
    /// Sequences.
    pub(in crate::graph) batch: usize,
    /// Positions of each.
    pub(in crate::graph) count: usize,
    pub(in crate::graph) heads: usize,
    pub(in crate::graph) kv_heads: usize,
    pub(in crate::graph) head_dim: usize,
    /// Factor on the scores.
    pub(in crate::graph) scale: f32,
    /// How many positions a query sees, itself included.
    pub(in crate::graph) window: Option<usize>,
}

impl AttentionShape {
    /// Columns of queries, keys and values side by side.
    fn width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Keys that one query of a block sees.
    fn keys(self, queries: &Range<usize>) -> Range<usize> {
        self.first_key(queries.start)..queries.end
    }

    fn first_key(self, query: usize) -> usize {
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))
    }

    fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).step_by(QUERIES).map(move |at| at..self.count.min(at + QUERIES))
    }
}

/// Rotates queries and keys, and attends.
pub(in crate::graph) struct CausalAttention {
    shape: AttentionShape,
    rotation: Option<Rotation>,
    kept: Mutex<Option<Kept>>,
}

/// Turns of all rows.
struct Rotation {
    pairing: RopePairing,
    /// `[rows, pairs]`.
    cosines: Vec<f32>,
    /// `[rows, pairs]`.
    sines: Vec<f32>,
}

/// What the backward needs of the forward.
struct Kept {
    /// Queries, keys and values, rotated, `[rows, width]`.
    qkv: Vec<f32>,
    /// ln of the sum of each query's exponentials, `[rows, heads]`.
    logs: Vec<f32>,
}

impl CausalAttention {
    /// * `turns`: of all rows, `[batch · count, pairs]`
    pub(in crate::graph) fn new(shape: AttentionShape, turns: Option<&Turns>) -> Result<Self> {
        let rotation = |turns: &Turns| {
            let (cosines, sines) = (Floats::of(&turns.cosines)?, Floats::of(&turns.sines)?);
            let (cosines, sines) = (cosines.to_vec(), sines.to_vec());
            Ok::<_, candle_core::Error>(Rotation { pairing: turns.pairing, cosines, sines })
        };
        let rotation = turns.map(rotation).transpose()?;
        Ok(Self { shape, rotation, kept: Mutex::new(None) })
    }

    /// * `qkv`: `[batch · count, (heads + 2 · kv_heads) · head_dim]`, not rotated
    /// * returns `[batch · count, heads · head_dim]`
    pub(in crate::graph) fn apply(self, qkv: &Tensor) -> Result<Tensor> {
        qkv.contiguous()?.apply_op1(self)
    }

    /// Rotates the queries and keys of all rows, back where `back`.
    fn rotate(&self, qkv: &mut [f32], back: bool) {
        let Some(Rotation { pairing, cosines, sines }) = &self.rotation else { return };
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (width, turned) = (self.shape.width(), (heads + kv_heads) * head_dim);
        let pairs = cosines.len() * width / qkv.len();
        let kernels = Kernels::detect();
        each_block(qkv, width, |first, block| {
            for (index, row) in block.chunks_exact_mut(width).enumerate() {
                let turns = (first + index) * pairs..(first + index + 1) * pairs;
                let turns = [&cosines[turns.clone()], &sines[turns]];
                rotate_row(kernels, *pairing, &mut row[..turned], head_dim, turns, back);
            }
        });
    }

    /// Calls `work` with each sequence and key head.
    fn each(&self, work: impl Fn(usize, usize) + Sync + Send) {
        let tasks = self.shape.batch * self.shape.kv_heads;
        let kv_heads = self.shape.kv_heads;
        (0..tasks).into_par_iter().for_each(|task| work(task / kv_heads, task % kv_heads));
    }

    fn forward(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let AttentionShape { batch, count, heads, head_dim, .. } = self.shape;
        let mut out = vec![0.0; batch * count * heads * head_dim];
        let mut logs = vec![0.0; batch * count * heads];
        let (outs, log_rows) = (Rows::new(&mut out, heads * head_dim), Rows::new(&mut logs, heads));
        self.each(|sequence, kv_head| {
            let mut own = Vec::new();
            for head in self.group(kv_head) {
                for queries in self.shape.blocks() {
                    let view = View { of: self.shape, qkv, sequence, kv_head, head };
                    let row_logs = view.attend(&queries, &mut own);
                    for (index, (own, log)) in own.chunks_exact(head_dim).zip(row_logs).enumerate()
                    {
                        let row = sequence * count + queries.start + index;
                        // SAFETY: each head of each row is in one block of one task.
                        unsafe {
                            outs.write(row, head * head_dim, own);
                            log_rows.write(row, head, &[log]);
                        }
                    }
                }
            }
        });
        (out, logs)
    }

    /// Gradients of the rotated queries, keys and values, `[rows, width]`.
    fn slopes(&self, kept: &Kept, out: &[f32], slope: &[f32]) -> Vec<f32> {
        let AttentionShape { batch, count, head_dim, kv_heads, heads, .. } = self.shape;
        let mut all = vec![0.0; batch * count * self.shape.width()];
        let rows = Rows::new(&mut all, self.shape.width());
        let put = |sequence: usize, head: usize, values: &[f32]| {
            for (index, values) in values.chunks_exact(head_dim).enumerate() {
                // SAFETY: each head of each row is one task's.
                unsafe { rows.write(sequence * count + index, head * head_dim, values) };
            }
        };
        self.each(|sequence, kv_head| {
            let mut of_keys = vec![0.0; count * head_dim];
            let mut of_values = vec![0.0; count * head_dim];
            let mut of_queries = vec![0.0; count * head_dim];
            for head in self.group(kv_head) {
                let view = View { of: self.shape, qkv: &kept.qkv, sequence, kv_head, head };
                let outcome = Outcome { logs: &kept.logs, out, slope };
                for queries in self.shape.blocks() {
                    let part = queries.start * head_dim..queries.end * head_dim;
                    let of_queries = &mut of_queries[part];
                    view.slopes(&queries, outcome, of_queries, &mut of_keys, &mut of_values);
                }
                put(sequence, head, &of_queries);
            }
            put(sequence, heads + kv_head, &of_keys);
            put(sequence, heads + kv_heads + kv_head, &of_values);
        });
        all
    }

    /// The query heads of a key head.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        kv_head * group..(kv_head + 1) * group
    }
}

/// A head of a sequence.
#[derive(Clone, Copy)]
struct View<'a> {
    of: AttentionShape,
    qkv: &'a [f32],
    sequence: usize,
    kv_head: usize,
    head: usize,
}

/// What the forward gave, and its gradient, `[rows, heads · head_dim]`.
#[derive(Clone, Copy)]
struct Outcome<'a> {
    logs: &'a [f32],
    out: &'a [f32],
    slope: &'a [f32],
}

impl<'a> View<'a> {
    /// Some positions of a head of rows of `heads` heads.
    fn head(&self, of: &'a [f32], heads: usize, head: usize, part: &Range<usize>) -> Matrix<'a> {
        let AttentionShape { count, head_dim, .. } = self.of;
        let start = (self.sequence * count + part.start) * heads * head_dim + head * head_dim;
        Matrix::strided(&of[start..], part.len(), head_dim, heads * head_dim)
    }

    fn all_heads(&self) -> usize {
        self.of.heads + 2 * self.of.kv_heads
    }

    fn queries(&self, part: &Range<usize>) -> Matrix<'a> {
        self.head(self.qkv, self.all_heads(), self.head, part)
    }

    fn keys(&self, part: &Range<usize>) -> Matrix<'a> {
        self.head(self.qkv, self.all_heads(), self.of.heads + self.kv_head, part)
    }

    fn values(&self, part: &Range<usize>) -> Matrix<'a> {
        let head = self.of.heads + self.of.kv_heads + self.kv_head;
        self.head(self.qkv, self.all_heads(), head, part)
    }

    /// Scores of `queries` with all `keys` of the block, `[queries, keys]`.
    fn scores(&self, queries: &Range<usize>, keys: &Range<usize>) -> Vec<f32> {
        let mut scores = vec![0.0; queries.len() * keys.len()];
        let (q, k) = (self.queries(queries), self.keys(keys));
        multiply(q, k.t(), &mut scores, self.of.scale, false, By::One);
        scores
    }

    /// Columns of a block that its row `index` sees.
    fn seen(&self, queries: &Range<usize>, keys: &Range<usize>, index: usize) -> Range<usize> {
        let query = queries.start + index;
        self.of.first_key(query).max(keys.start) - keys.start..query + 1 - keys.start
    }

    /// Writes `softmax(scores) · values` of a block to `out`, and returns ln of the sums.
    fn attend(&self, queries: &Range<usize>, out: &mut Vec<f32>) -> Vec<f32> {
        let (kernels, keys) = (Kernels::detect(), self.of.keys(queries));
        let mut scores = self.scores(queries, &keys);
        let rows = scores.chunks_exact_mut(keys.len()).enumerate();
        let logs = rows.map(|(index, row)| {
            let seen = self.seen(queries, &keys, index);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            softmax_row(kernels, &mut row[seen])
        });
        let logs = logs.collect();
        out.resize(queries.len() * self.of.head_dim, 0.0);
        let weights = Matrix::new(&scores, queries.len(), keys.len());
        multiply(weights, self.values(&keys), out, 1.0, false, By::One);
        logs
    }

    /// Gradients of a block: writes that of its queries, adds to those of keys and values,
    /// `[count, head_dim]`.
    ///
    /// With the weights `p` and the slope `g` of the output `o`: `g·vᵀ` is the slope of `p`, and
    /// `p · (g·vᵀ − g·o)` that of the scores.
    fn slopes(
        &self,
        queries: &Range<usize>,
        outcome: Outcome<'_>,
        of_queries: &mut [f32],
        of_keys: &mut [f32],
        of_values: &mut [f32],
    ) {
        let Outcome { logs, out, slope } = outcome;
        let AttentionShape { count, heads, head_dim, scale, .. } = self.of;
        let (kernels, keys) = (Kernels::detect(), self.of.keys(queries));
        let mut weights = self.scores(queries, &keys);
        let of_out = View { qkv: slope, ..*self }.head(slope, heads, self.head, queries);
        let mut of_scores = vec![0.0; weights.len()];
        multiply(of_out, self.values(&keys).t(), &mut of_scores, 1.0, false, By::One);
        let rows = weights.chunks_exact_mut(keys.len()).zip(of_scores.chunks_exact_mut(keys.len()));
        for (index, (weights, of_scores)) in rows.enumerate() {
            let seen = self.seen(queries, &keys, index);
            for row in [&mut *weights, &mut *of_scores] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            let row = self.sequence * count + queries.start + index;
            let own =
                (row * heads + self.head) * head_dim..(row * heads + self.head + 1) * head_dim;
            let (log, own) = (logs[row * heads + self.head], (&out[own.clone()], &slope[own]));
            score_slopes(kernels, &mut weights[seen.clone()], &mut of_scores[seen], log, own);
        }
        let shape = |values| Matrix::new(values, queries.len(), keys.len());
        let (weights, of_scores) = (shape(&weights), shape(&of_scores));
        let part = keys.start * head_dim..keys.end * head_dim;
        multiply(weights.t(), of_out, &mut of_values[part.clone()], 1.0, true, By::One);
        multiply(of_scores, self.keys(&keys), of_queries, scale, false, By::One);
        multiply(of_scores.t(), self.queries(queries), &mut of_keys[part], scale, true, By::One);
    }
}

vectorized! {
    /// Softmax in place; returns ln of the sum of exponentials.
    fn softmax_row(row: &mut [f32]) -> f32 {
        let largest = largest(row);
        row.iter_mut().for_each(|x| *x = exp::<FMA>(*x - largest));
        let sum = sum(row);
        let factor = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= factor);
        largest + sum.ln()
    }
}

vectorized! {
    /// Makes weights of scores, and slopes of the scores of those of the weights.
    ///
    /// * `log`: ln of the sum of exponentials; `own`: the output and its slope, `[head_dim]`
    fn score_slopes(scores: &mut [f32], slopes: &mut [f32], log: f32, own: (&[f32], &[f32])) {
        let along = dot_lanes::<FMA>(own.0, own.1);
        for (score, slope) in scores.iter_mut().zip(slopes) {
            *score = exp::<FMA>(*score - log);
            *slope = *score * (*slope - along);
        }
    }
}

vectorized! {
    /// Rotates the heads of a row, back where `back`.
    ///
    /// * `turns`: cosines and sines, `[pairs]`
    fn rotate_row(
        pairing: RopePairing,
        heads: &mut [f32],
        head_dim: usize,
        turns: [&[f32]; 2],
        back: bool,
    ) {
        let [cosines, sines] = turns;
        let pairs = cosines.len();
        let sign = if back { -1.0 } else { 1.0 };
        for head in heads.chunks_exact_mut(head_dim) {
            let turns = cosines.iter().zip(sines);
            match pairing {
                RopePairing::Halves => {
                    let (low, high) = head[..2 * pairs].split_at_mut(pairs);
                    for ((a, b), (cosine, sine)) in low.iter_mut().zip(high).zip(turns) {
                        let sine = sign * sine;
                        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
                    }
                }
                RopePairing::Interleaved => {
                    for ([a, b], (cosine, sine)) in head.as_chunks_mut().0.iter_mut().zip(turns) {
                        let sine = sign * sine;
                        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
                    }
                }
            }
        }
    }
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let AttentionShape { batch, count, heads, head_dim, .. } = self.shape;
        let (rows, width) = layout.shape().dims2()?;
        if (rows, width) != (batch * count, self.shape.width()) {
            bail!("{rows} rows of {width} for {:?}", self.shape);
        }
        let mut qkv = numbers(qkv, layout)?.to_vec();
        self.rotate(&mut qkv, false);
        let (out, logs) = self.forward(&qkv);
        *lock(&self.kept) = Some(Kept { qkv, logs });
        Ok(storage(out, (rows, heads * head_dim)))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = lock(&self.kept).take() else { bail!("an attention goes backward once") };
        let slope = slope.contiguous()?;
        let mut slopes = self.slopes(&kept, &Floats::of(out)?, &Floats::of(&slope)?);
        self.rotate(&mut slopes, true);
        tensor(slopes, qkv.dims()).map(Some)
    }
}
