//! Late interaction (Khattab and Zaharia, 2020): a query of many tokens against the tokens of each
//! span, instead of one pooled vector against another.
//!
//! A pooled prompt is mostly its phrasing. Here every remembered token looks for its best match in
//! the prompt, so a question finds the statement that answers it, whatever stands around it.

use std::ops::Range;

use crate::fusion::Metric;
use crate::observation::MemoryError;
use crate::recall::{Hit, Recalled, best_of};
use crate::slot::Slot;
use crate::{Tick, UnifiedMemory, vector};

/// What one nat of a slot's bias is worth in cosine. It decides between spans that match about
/// equally well, and never makes a poor match a good one.
const BIAS_SHARE: f32 = 0.02;

/// Further places down to which corrections are looked for.
const CORRECTIONS: usize = 8;

/// Tokens of a query that are looked at together. What answers a question matches words that stand close
/// to each other; in a long text every word finds one that is like it somewhere.
const WINDOW: usize = 24;

impl UnifiedMemory {
    /// The `top_k` best memories for the tokens of a query, best first; they count as read at this
    /// tick.
    ///
    /// * `query`: `[tokens, dim]`, raw, flat
    ///
    /// # Errors
    /// The query can't be used, or time would run backwards. Nothing has changed then.
    pub fn recall_tokens(
        &mut self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        self.read_at(at, |memory| memory.peek_tokens(at, query, top_k))
    }

    /// As [`UnifiedMemory::recall_tokens`], but leaves no trace.
    ///
    /// A slot's `cosine` is the mean over its tokens of the largest cosine with a token of the query, in
    /// that window of at most 24 of the query's tokens where this is largest; its score is
    /// `cosine + 0.02 · ln(σ(A) · energy · decay + ε)`. The first token of either side is left out where
    /// there are others: at the start of a text, hidden states say where they are and not what was said.
    /// A slot without token keys is matched by its key. Slots that say the same are joined as in
    /// [`UnifiedMemory::peek`]. A text that begins as a better one does, ends differently, was said later
    /// and is at most 0.06 of cosine behind goes before it.
    ///
    /// # Errors
    /// The query is not whole rows, or a row can't be used.
    pub fn peek_tokens(
        &self,
        at: Tick,
        query: &[f32],
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        let mut found = best_of(self.token_hits(at, query)?, top_k.saturating_add(CORRECTIONS));
        self.newest_first(&mut found);
        found.truncate(top_k);
        Ok(found)
    }

    /// Every slot that holds, with what the tokens of a query make of it.
    pub(crate) fn token_hits(&self, at: Tick, query: &[f32]) -> Result<Vec<Hit<'_>>, MemoryError> {
        let query = self.units(query)?;
        Ok(self.hits(at, |store, slot, key| {
            let cosine =
                interaction(rows_of(slot, key), &query, self.dim(), self.normalization.metric());
            (cosine, cosine + BIAS_SHARE * slot.bias(store, at, &self.config))
        }))
    }

    /// Unit rows of a query, without the first where there are others.
    fn units(&self, query: &[f32]) -> Result<Vec<f32>, MemoryError> {
        let dim = self.dim();
        let whole = (query.len() / dim).max(1) * dim;
        vector::check("query", query, whole)?;
        let mut units = Vec::with_capacity(query.len());
        for row in without_first(query, dim).chunks_exact(dim) {
            units.extend(self.normalization.unit("query", row)?);
        }
        Ok(units)
    }
}

fn rows_of<'m>(slot: &'m Slot, key: &'m [f32]) -> &'m [f32] {
    if slot.token_keys.is_empty() { key } else { without_first(slot.token_keys.rows(), key.len()) }
}

fn without_first(rows: &[f32], dim: usize) -> &[f32] {
    if rows.len() > dim { &rows[dim..] } else { rows }
}

/// The largest, over the windows of the query, of the mean over the rows of the largest cosine with a row
/// in the window.
///
/// * `rows`: `[tokens, dim]`, `query`: `[query_tokens, dim]`, both of unit rows
fn interaction(rows: &[f32], query: &[f32], dim: usize, metric: &Metric) -> f32 {
    let count = query.len() / dim;
    let mut sums = vec![0.0; windows(count).count()];
    let mut cosines = vec![0.0; count];
    for row in rows.chunks_exact(dim) {
        metric.cosines(query, row, &mut cosines);
        for (sum, window) in sums.iter_mut().zip(windows(count)) {
            *sum += f64::from(cosines[window].iter().copied().fold(-1.0, f32::max));
        }
    }
    let best = sums.into_iter().fold(f64::NEG_INFINITY, f64::max);
    (best / (rows.len() / dim) as f64) as f32
}

/// Where a query of so many tokens is looked at: all of it where it is short, else pieces that overlap by
/// half.
fn windows(count: usize) -> impl Iterator<Item = Range<usize>> {
    let last = count.saturating_sub(WINDOW).div_ceil(WINDOW / 2);
    (0..=last).map(move |index| {
        let begin = (index * WINDOW / 2).min(count.saturating_sub(WINDOW));
        begin..(begin + WINDOW).min(count)
    })
}
