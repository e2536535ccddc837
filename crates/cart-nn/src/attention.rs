//! Causal self-attention with grouped keys and values, over a cache.

use std::ops::Range;

use crate::kernel::vector::{dot_lanes, exponentials, multiply_add, soft_cap, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::kv::KvCache;
use crate::norm::Norm;
use crate::parallel::{Rows, split};
use crate::rope::RopeTable;

/// Queries of a head that are worked on together.
const BLOCK: usize = 64;

/// From this many queries on, products go through `gemm`.
const MANY: usize = 8;

/// Multiplications that are worth a task of their own.
const TASK_WORK: usize = 1 << 16;

/// The attention of a layer, without its projections.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
    pub(crate) score_softcap: Option<f32>,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    /// Index of the layer's table among the model's.
    pub(crate) rope: Option<usize>,
}

/// Rows of one run in a batch.
pub(crate) struct Segment<'a> {
    /// The rows in the batch.
    pub(crate) rows: Range<usize>,
    /// Positions in the cache before them.
    pub(crate) past: usize,
    pub(crate) cache: &'a mut KvCache,
    /// For every position up to the last new one.
    pub(crate) bias: Option<&'a [f32]>,
}

impl Attention {
    /// Width of the queries of a position.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys, or of the values, of a position.
    pub(crate) fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Appends the new keys and values to the caches and attends.
    ///
    /// * `qkv`: `[rows, (heads + 2 · kv_heads) · head_dim]`
    /// * `table`: rotations of the rows
    /// * returns `[rows, heads · head_dim]`
    pub(crate) fn apply(
        &self,
        kernels: Kernels,
        qkv: &[f32],
        table: Option<&RopeTable>,
        segments: &mut [Segment<'_>],
    ) -> Vec<f32> {
        let (query_width, key_width) = (self.query_width(), self.key_width());
        let width = query_width + 2 * key_width;
        let rows = qkv.len() / width;
        let mut queries = vec![0.0; rows * query_width];
        self.prepare(kernels, qkv, table, segments, &mut queries);
        let mut out = vec![0.0; rows * query_width];
        let target = Rows::new(&mut out, query_width);
        for segment in segments.iter() {
            self.attend(kernels, &queries, segment, target);
        }
        out
    }

    /// Normalizes and rotates queries and keys, and appends keys and values.
    fn prepare(
        &self,
        kernels: Kernels,
        qkv: &[f32],
        table: Option<&RopeTable>,
        segments: &mut [Segment<'_>],
        queries: &mut [f32],
    ) {
        let (query_width, key_width) = (self.query_width(), self.key_width());
        let width = query_width + 2 * key_width;
        let queries = Rows::new(queries, query_width);
        for segment in segments {
            let (first, new) = (segment.rows.start, segment.rows.len());
            let start = segment.past * key_width;
            segment.cache.keys.resize(start + new * key_width, 0.0);
            segment.cache.values.resize(start + new * key_width, 0.0);
            if let Some(unrotated) = &mut segment.cache.unrotated {
                unrotated.resize(start + new * key_width, 0.0);
            }
            let keys = Rows::new(&mut segment.cache.keys[start..], key_width);
            let values = Rows::new(&mut segment.cache.values[start..], key_width);
            let unrotated = segment.cache.unrotated.as_mut();
            let unrotated = unrotated.map(|keys| Rows::new(&mut keys[start..], key_width));
            split(new, 16, &|range| {
                for index in range {
                    let row = first + index;
                    let (query, rest) = qkv[row * width..][..width].split_at(query_width);
                    let (key, value) = rest.split_at(key_width);
                    // SAFETY: each row is in one range of the split, and segments do not overlap.
                    let (new_query, new_key, new_value, raw_key) = unsafe {
                        let raw_key = unrotated.map(|keys| keys.row(index));
                        (queries.row(row), keys.row(index), values.row(index), raw_key)
                    };
                    new_value.copy_from_slice(value);
                    new_query.copy_from_slice(query);
                    new_key.copy_from_slice(key);
                    normalize_heads(kernels, self.query_norm.as_ref(), new_query, self.head_dim);
                    normalize_heads(kernels, self.key_norm.as_ref(), new_key, self.head_dim);
                    if let Some(raw_key) = raw_key {
                        raw_key.copy_from_slice(new_key);
                    }
                    if let Some(table) = table {
                        table.rotate(row, new_query, self.head_dim);
                        table.rotate(row, new_key, self.head_dim);
                    }
                }
            });
        }
    }

    fn attend(&self, kernels: Kernels, queries: &[f32], segment: &Segment<'_>, out: Rows<'_, f32>) {
        let blocks = segment.rows.len().div_ceil(BLOCK);
        let block_work =
            segment.rows.len().min(BLOCK) * (segment.past + segment.rows.len()) * self.head_dim * 2;
        split(blocks * self.heads, (TASK_WORK / block_work.max(1)).max(1), &|tasks| {
            let mut scores = Vec::new();
            for task in tasks {
                let (block, head) = (task / self.heads, task % self.heads);
                let start = segment.rows.start + block * BLOCK;
                let rows = start..segment.rows.end.min(start + BLOCK);
                let job = Job { attention: self, kernels, queries, segment, head, rows };
                if job.rows.len() >= MANY && kernels.level() != KernelLevel::Portable {
                    job.many(&mut scores, out);
                } else {
                    job.few(&mut scores, out);
                }
            }
        });
    }
}

fn normalize_heads(kernels: Kernels, norm: Option<&Norm>, heads: &mut [f32], head_dim: usize) {
    if let Some(norm) = norm {
        heads.chunks_exact_mut(head_dim).for_each(|head| norm.apply_row(kernels, head));
    }
}

/// One head over some rows of a segment.
struct Job<'a> {
    attention: &'a Attention,
    kernels: Kernels,
    queries: &'a [f32],
    segment: &'a Segment<'a>,
    head: usize,
    rows: Range<usize>,
}

impl Job<'_> {
    /// Positions that `row` sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let end = self.segment.past + (row - self.segment.rows.start) + 1;
        let start = self.attention.window.map_or(0, |window| end.saturating_sub(window));
        start..end
    }

    /// Column of this head in queries and output.
    fn columns(&self) -> Range<usize> {
        let dim = self.attention.head_dim;
        self.head * dim..(self.head + 1) * dim
    }

    /// Column of this head's key and value head in the cache.
    fn key_column(&self) -> usize {
        self.head / (self.attention.heads / self.attention.kv_heads) * self.attention.head_dim
    }

    /// Scales, caps, biases and exponentiates the products of `seen` and returns their sum.
    fn weights(&self, scores: &mut [f32], seen: Range<usize>) -> f32 {
        let scale = self.attention.scale;
        scores.iter_mut().for_each(|score| *score *= scale);
        if let Some(cap) = self.attention.score_softcap {
            soft_cap(self.kernels, scores, cap);
        }
        if let Some(bias) = self.segment.bias {
            scores.iter_mut().zip(&bias[seen]).for_each(|(score, bias)| *score += bias);
        }
        exponentials(self.kernels, scores)
    }

    fn few(&self, scores: &mut Vec<f32>, out: Rows<'_, f32>) {
        let width = self.attention.key_width();
        let dim = self.attention.head_dim;
        for row in self.rows.clone() {
            let seen = self.seen(row);
            let first = seen.start * width + self.key_column();
            let query = &self.queries[row * out.width()..][self.columns()];
            scores.resize(seen.len(), 0.0);
            products(self.kernels, query, &self.segment.cache.keys[first..], width, scores);
            let sum = self.weights(scores, seen);
            // SAFETY: a head's columns of a row belong to one task.
            let out = unsafe { out.part(row, self.columns()) };
            debug_assert_eq!(out.len(), dim);
            mix(self.kernels, scores, &self.segment.cache.values[first..], width, out, 1.0 / sum);
        }
    }

    fn many(&self, scores: &mut Vec<f32>, out: Rows<'_, f32>) {
        let width = self.attention.key_width();
        let dim = self.attention.head_dim;
        let rows = self.rows.len();
        let all = self.seen(self.rows.start).start..self.seen(self.rows.end - 1).end;
        let first = all.start * width + self.key_column();
        let (keys, values) =
            (&self.segment.cache.keys[first..], &self.segment.cache.values[first..]);
        assert!(keys.len() >= (all.len() - 1) * width + dim && keys.len() == values.len());
        scores.clear();
        scores.resize(rows * all.len(), 0.0);
        let query = &self.queries[self.rows.start * out.width()..][self.columns().start..];
        let (stride, count) = (out.width() as isize, all.len());
        assert!(query.len() >= (rows - 1) * out.width() + dim);
        let (row_step, key_step) = ((1, stride), (width as isize, 1));
        // SAFETY: `[rows, dim] · [dim, positions]`, inside the slices as asserted.
        unsafe {
            let to = (scores.as_mut_ptr(), count as isize);
            gemm_into(rows, count, dim, to, (query.as_ptr(), row_step), (keys.as_ptr(), key_step));
        }
        for (index, row) in self.rows.clone().enumerate() {
            let seen = self.seen(row);
            let row = &mut scores[index * count..][..count];
            let (start, end) = (seen.start - all.start, seen.end - all.start);
            let sum = self.weights(&mut row[start..end], seen);
            row[..start].fill(0.0);
            row[end..].fill(0.0);
            row[start..end].iter_mut().for_each(|weight| *weight /= sum);
        }
        // SAFETY: a head's columns of a row belong to one task; the last row checks the extent.
        let first = unsafe {
            let _ = out.part(self.rows.end - 1, self.columns());
            out.part(self.rows.start, self.columns()).as_mut_ptr()
        };
        // SAFETY: `[rows, positions] · [positions, dim]`, inside the slices as asserted.
        unsafe {
            let left = (scores.as_ptr(), (1, count as isize));
            let right = (values.as_ptr(), (1, width as isize));
            gemm_into(rows, dim, count, (first, stride), left, right);
        }
    }
}

/// `to[m, n] = left[m, k] · right[k, n]`; steps are from column to column and from row to row.
///
/// # Safety
/// The matrices lie inside their buffers, and nobody else has those of `to`.
unsafe fn gemm_into(
    m: usize,
    n: usize,
    k: usize,
    (to, to_stride): (*mut f32, isize),
    (left, left_steps): (*const f32, (isize, isize)),
    (right, right_steps): (*const f32, (isize, isize)),
) {
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            to_stride,
            false,
            left,
            left_steps.0,
            left_steps.1,
            right,
            right_steps.0,
            right_steps.1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

vectorized! {
    /// Products of `query` with keys `stride` apart.
    fn products(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
        for (index, score) in scores.iter_mut().enumerate() {
            *score = dot_lanes::<FMA>(query, &keys[index * stride..][..query.len()]);
        }
    }
}

vectorized! {
    /// `out = scale · Σ weight · value`, values `stride` apart.
    fn mix(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32], scale: f32) {
        let whole = out.len() / 32 * 32;
        for (part, out) in out.chunks_mut(32).enumerate() {
            let column = part * 32;
            if column < whole {
                let mut sums = [0.0_f32; 32];
                for (index, weight) in weights.iter().enumerate() {
                    let value = &values[index * stride + column..][..32];
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = multiply_add::<FMA>(*weight, *value, *sum);
                    }
                }
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
                continue;
            }
            out.fill(0.0);
            for (index, weight) in weights.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(&values[index * stride + column..]) {
                    *out += weight * value;
                }
            }
            out.iter_mut().for_each(|out| *out *= scale);
        }
    }
}
