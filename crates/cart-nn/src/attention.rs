//! Causal self-attention with grouped keys and values, over a cache.

mod panel;
mod plan;
mod sweep;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::kernel::Kernels;
use crate::kernel::floats::at_level;
use crate::kv::KvCache;
use crate::norm::Norm;
use crate::parallel::{Rows, split};
use crate::rope::RopeTable;
use plan::{Pass, plan};
use sweep::{Scratch, Sums, Sweep};

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
        let rows = qkv.len() / (query_width + 2 * key_width);
        let mut rotated = vec![0.0; rows * (query_width + 2 * key_width)];
        let (queries, rest) = rotated.split_at_mut(rows * query_width);
        let (keys, values) = rest.split_at_mut(rows * key_width);
        self.prepare(kernels, qkv, table, [&mut *queries, &mut *keys, &mut *values]);
        let (keys, values) = (&*keys, &*values);
        let count = segments.len();
        let each = Rows::new(&mut *segments, 1);
        split(count, 2, &|range| {
            for index in range {
                // SAFETY: each segment is in one range of the split.
                let segment = unsafe { &mut each.row(index)[0] };
                let part = segment.rows.start * key_width..segment.rows.end * key_width;
                self.record(kernels, qkv, segment);
                segment.cache.append(&keys[part.clone()], &values[part]);
            }
        });
        let mut out = vec![0.0; rows * query_width];
        self.attend(kernels, queries, segments, &mut out);
        out
    }

    /// Cuts `qkv` into queries, keys and values, normalizes and rotates.
    fn prepare(
        &self,
        kernels: Kernels,
        qkv: &[f32],
        table: Option<&RopeTable>,
        [queries, keys, values]: [&mut [f32]; 3],
    ) {
        let (query_width, key_width) = (self.query_width(), self.key_width());
        let width = query_width + 2 * key_width;
        let queries = Rows::new(queries, query_width);
        let [keys, values] = [keys, values].map(|rows| Rows::new(rows, key_width));
        split(qkv.len() / width, 4, &|range| {
            for row in range {
                // SAFETY: each row is in one range of the split.
                let (query, key, value) =
                    unsafe { (queries.row(row), keys.row(row), values.row(row)) };
                let (new_query, rest) = qkv[row * width..][..width].split_at(query_width);
                let (new_key, new_value) = rest.split_at(key_width);
                query.copy_from_slice(new_query);
                key.copy_from_slice(new_key);
                value.copy_from_slice(new_value);
                normalize_heads(kernels, self.query_norm.as_ref(), query, self.head_dim);
                normalize_heads(kernels, self.key_norm.as_ref(), key, self.head_dim);
                if let Some(table) = table {
                    table.rotate(row, query, self.head_dim);
                    table.rotate(row, key, self.head_dim);
                }
            }
        });
    }

    /// Keeps keys before rotation, and values, where a span is being made.
    fn record(&self, kernels: Kernels, qkv: &[f32], segment: &mut Segment<'_>) {
        let Some(recording) = &mut segment.cache.recording else { return };
        let (query_width, key_width) = (self.query_width(), self.key_width());
        let width = query_width + 2 * key_width;
        for row in qkv.chunks_exact(width).take(segment.rows.end).skip(segment.rows.start) {
            let (key, value) = row[query_width..].split_at(key_width);
            let start = recording.keys.len();
            recording.keys.extend_from_slice(key);
            let key = &mut recording.keys[start..];
            normalize_heads(kernels, self.key_norm.as_ref(), key, self.head_dim);
            recording.values.extend_from_slice(value);
        }
    }

    fn attend(&self, kernels: Kernels, queries: &[f32], segments: &[Segment<'_>], out: &mut [f32]) {
        let passes = plan(self, segments);
        let work: usize = passes.iter().map(|pass| pass.work(self)).sum();
        let grain = (TASK_WORK * passes.len()).div_ceil(work.max(1));
        let places = passes.iter().filter_map(|pass| pass.place).max().map_or(0, |last| last + 1);
        let mut parts = vec![Sums::default(); places];
        let target = Rows::new(out, self.query_width());
        let shared = Rows::new(&mut parts, 1);
        split(passes.len(), grain, &|tasks| {
            let (mut scratch, mut own) = (Scratch::default(), Sums::default());
            for pass in &passes[tasks] {
                let segment = &segments[pass.segment];
                // SAFETY: each place is that of one pass.
                let part = pass.place.map(|place| unsafe { &mut shared.row(place)[0] });
                let sums = part.unwrap_or(&mut own);
                self.sweep(kernels, queries, segment, pass, &mut scratch, sums);
                if pass.place.is_none() {
                    self.finish(sums, segment, pass, target);
                }
            }
        });
        for ranges in passes.chunk_by(Pass::goes_on) {
            let place = |pass: &Pass| pass.place;
            if let (Some(first), Some(last)) = (place(&ranges[0]), ranges.last().and_then(place)) {
                let segment = &segments[ranges[0].segment];
                self.finish(Sums::merge(&mut parts[first..=last]), segment, &ranges[0], target);
            }
        }
    }

    /// Sums up the values that a pass's rows see.
    fn sweep(
        &self,
        kernels: Kernels,
        queries: &[f32],
        segment: &Segment<'_>,
        pass: &Pass,
        scratch: &mut Scratch,
        sums: &mut Sums,
    ) {
        let group = self.heads / self.kv_heads;
        let columns =
            pass.kv_head * group * self.head_dim..(pass.kv_head + 1) * group * self.head_dim;
        scratch.queries.clear();
        for row in segment.rows.clone().skip(pass.rows.start).take(pass.rows.len()) {
            let query = &queries[row * self.query_width()..][columns.clone()];
            scratch.queries.extend(query.iter().map(|number| number * self.scale));
        }
        let rows = pass.rows.len() * group;
        sums.reset(rows, segment.cache.shape().padded());
        at_level(
            kernels,
            Sweep {
                kernels,
                cache: segment.cache,
                kv_head: pass.kv_head,
                positions: pass.positions.clone(),
                first: segment.past + pass.rows.start,
                group,
                rows,
                window: self.window,
                score_softcap: self.score_softcap,
                bias: segment.bias,
                scratch,
                sums,
            },
        );
    }

    /// Writes the mean of the values.
    fn finish(&self, sums: &Sums, segment: &Segment<'_>, pass: &Pass, out: Rows<'_, f32>) {
        let group = self.heads / self.kv_heads;
        let padded = segment.cache.shape().padded();
        let rows = sums.mixed.chunks_exact(padded).zip(&sums.total).enumerate();
        for (index, (mixed, total)) in rows {
            let row = segment.rows.start + pass.rows.start + index / group;
            let head = pass.kv_head * group + index % group;
            let columns = head * self.head_dim..(head + 1) * self.head_dim;
            // SAFETY: a row's columns of a head belong to one pass, or to the passes that were
            // merged.
            let out = unsafe { out.part(row, columns) };
            let inverse = 1.0 / total;
            out.iter_mut().zip(mixed).for_each(|(out, mixed)| *out = mixed * inverse);
        }
    }
}

fn normalize_heads(kernels: Kernels, norm: Option<&Norm>, heads: &mut [f32], head_dim: usize) {
    if let Some(norm) = norm {
        heads.chunks_exact_mut(head_dim).for_each(|head| norm.apply_row(kernels, head));
    }
}
