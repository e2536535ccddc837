//! Late interaction (Khattab and Zaharia, 2020): a query of many tokens against the tokens of each
//! span, instead of one pooled vector against another.
//!
//! A pooled prompt is mostly its phrasing. Here every remembered token looks for its best match in
//! the prompt, so a question finds the statement that answers it, whatever stands around it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::fusion::Metric;
use crate::observation::MemoryError;
use crate::recall::{Hit, Recalled, best_of};
use crate::slot::Slot;
use crate::vector::{self, VectorError};
use crate::{Tick, UnifiedMemory};

/// What one nat of a slot's bias is worth in cosine. It decides between spans that match about
/// equally well, and never makes a poor match a good one.
const BIAS_SHARE: f32 = 0.02;

/// Further places down to which corrections are looked for.
const CORRECTIONS: usize = 8;

/// Tokens of a query that are looked at together. What answers a question matches words that stand close
/// to each other; in a long text every word finds one that is like it somewhere.
const WINDOW: usize = 24;

/// What the rare words of a query are worth that a slot has too, beside the cosine. Hidden states of the same
/// words differ with what stood before them, and do not tell names apart well; the words themselves do.
const SHARED: f64 = 0.3;

/// What asks memory by tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenQuery<'q> {
    /// Hidden states, `[tokens, dim]`, raw, flat.
    pub rows: &'q [f32],
    /// The tokens, `[tokens]`; or none, and only the rows count.
    pub token_ids: &'q [u32],
}

impl<'q> TokenQuery<'q> {
    /// A query of hidden states alone.
    pub fn of_rows(rows: &'q [f32]) -> Self {
        Self { rows, token_ids: &[] }
    }
}

impl UnifiedMemory {
    /// The `top_k` best memories for the tokens of a query, best first; they count as read at this
    /// tick.
    ///
    /// # Errors
    /// The query can't be used, or time would run backwards. Nothing has changed then.
    pub fn recall_tokens(
        &mut self,
        at: Tick,
        query: TokenQuery<'_>,
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        self.read_at(at, |memory| memory.peek_tokens(at, query, top_k))
    }

    /// As [`UnifiedMemory::recall_tokens`], but leaves no trace.
    ///
    /// A slot's `cosine` is its match: the mean over its tokens of the largest cosine with a token of the query, plus 0.3 times the
    /// share of the query that the slot has too, in that window of at most 24 of the query's tokens where the sum is largest. In this share a token
    /// weighs `ln(1 + (n − df + ½) / (df + ½))` where `df` of `n` slots have it (Robertson and Spärck Jones, 1976), so that names count and not *the*.
    /// The score is `match + 0.02 · ln(σ(A) · energy · decay + ε)`. The first token of either side is left out where
    /// there are others: at the start of a text, hidden states say where they are and not what was said.
    /// A slot without token keys is matched by its key. Slots that say the same are joined as in
    /// [`UnifiedMemory::peek`]. A text that begins as a better one does, ends differently, was said later
    /// and whose match is at most 0.06 behind goes before it.
    ///
    /// # Errors
    /// The query is not whole rows, one for each token, or a row can't be used.
    pub fn peek_tokens(
        &self,
        at: Tick,
        query: TokenQuery<'_>,
        top_k: usize,
    ) -> Result<Vec<Recalled>, MemoryError> {
        let mut found = best_of(self.token_hits(at, query)?, top_k.saturating_add(CORRECTIONS));
        self.newest_first(&mut found);
        found.truncate(top_k);
        Ok(found)
    }

    /// Every slot that holds, with what the tokens of a query make of it.
    pub(crate) fn token_hits(
        &self,
        at: Tick,
        query: TokenQuery<'_>,
    ) -> Result<Vec<Hit<'_>>, MemoryError> {
        let rows = self.units(query.rows)?;
        let count = rows.len() / self.dim();
        let words = self.words(at, query, count)?;
        let metric = self.normalization.metric();
        Ok(self.hits(at, |store, slot, key| {
            let shared = words.shared(&slot.value.token_ids, count);
            let found = interaction(rows_of(slot, key), &rows, self.dim(), metric, &shared);
            (found, found + BIAS_SHARE * slot.bias(store, at, &self.config))
        }))
    }

    /// The tokens of a query that have unit rows, with their weights.
    ///
    /// * `count`: unit rows of the query
    fn words<'q>(
        &self,
        at: Tick,
        query: TokenQuery<'q>,
        count: usize,
    ) -> Result<Words<'q>, MemoryError> {
        let (found, expected) = (query.token_ids.len(), query.rows.len() / self.dim());
        if found == 0 {
            return Ok(Words { token_ids: &[], weights: Vec::new() });
        }
        if found != expected {
            return Err(VectorError::Dimension { what: "token ids", found, expected }.into());
        }
        let token_ids = &query.token_ids[found - count..];
        let mut having: BTreeMap<u32, u64> = token_ids.iter().map(|&id| (id, 0)).collect();
        let mut slots = 0_u64;
        for (_, slot) in self.slots().filter(|(_, slot)| slot.validity.holds(at)) {
            slots += 1;
            let mut ids = slot.value.token_ids.clone();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                if let Some(count) = having.get_mut(&id) {
                    *count += 1;
                }
            }
        }
        let weight = |id: &u32| {
            let having = having[id] as f64;
            libm::log(1.0 + (slots as f64 - having + 0.5) / (having + 0.5))
        };
        Ok(Words { token_ids, weights: token_ids.iter().map(weight).collect() })
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

/// The tokens of a query, and how rare each is in the memory.
struct Words<'q> {
    token_ids: &'q [u32],
    weights: Vec<f64>,
}

impl Words<'_> {
    /// For each window of the query, the share of its weight that a slot's tokens have; 0 where the query has no
    /// tokens.
    ///
    /// * `count`: rows of the query
    fn shared(&self, slot: &[u32], count: usize) -> Vec<f64> {
        let share = |window: Range<usize>| {
            let words = self.token_ids.get(window.clone()).unwrap_or_default();
            let weights = self.weights.get(window).unwrap_or_default();
            let pairs = words.iter().zip(weights);
            let (mut both, mut all) = (0.0, 0.0);
            for (id, weight) in pairs {
                all += weight;
                if slot.contains(id) {
                    both += weight;
                }
            }
            if all > 0.0 { both / all } else { 0.0 }
        };
        windows(count).map(share).collect()
    }
}

fn rows_of<'m>(slot: &'m Slot, key: &'m [f32]) -> &'m [f32] {
    if slot.token_keys.is_empty() { key } else { without_first(slot.token_keys.rows(), key.len()) }
}

fn without_first(rows: &[f32], dim: usize) -> &[f32] {
    if rows.len() > dim { &rows[dim..] } else { rows }
}

/// The largest, over the windows of the query, of the mean over the rows of the largest cosine with a row
/// in the window, and of what words they share.
///
/// * `rows`: `[tokens, dim]`, `query`: `[query_tokens, dim]`, both of unit rows
/// * `shared`: a share for each window
fn interaction(rows: &[f32], query: &[f32], dim: usize, metric: &Metric, shared: &[f64]) -> f32 {
    let count = query.len() / dim;
    let mut sums = vec![0.0; windows(count).count()];
    let mut cosines = vec![0.0; count];
    for row in rows.chunks_exact(dim) {
        metric.cosines(query, row, &mut cosines);
        for (sum, window) in sums.iter_mut().zip(windows(count)) {
            *sum += f64::from(cosines[window].iter().copied().fold(-1.0, f32::max));
        }
    }
    let tokens = (rows.len() / dim) as f64;
    let found = sums.into_iter().zip(shared).map(|(sum, shared)| sum / tokens + SHARED * shared);
    found.fold(f64::NEG_INFINITY, f64::max) as f32
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
