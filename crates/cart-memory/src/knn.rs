//! Nearest neighbours among the tokens of all spans, for interpolation at the sampler
//! (Khandelwal et al., 2020): the key is the hidden state at a token, the value is the next token.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::observation::MemoryError;
use crate::slot::{Slot, SlotId, SlotRef, StoreKind};
use crate::{Tick, UnifiedMemory};

/// Most tokens before a place that are compared with what was read.
const MOST_MATCHED: usize = 16;
/// What each of them is worth beside a cosine.
const MATCHED_WORTH: f32 = 0.024;

/// Spans that one thread takes at a time: fewer are not worth waking another one.
const SPANS_AT_ONCE: usize = 256;

/// What asks for neighbours: the state that the model is in, and how it came there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextTokenQuery<'q> {
    /// Hidden state at the last token that was read, `[dim]`, raw.
    pub hidden: &'q [f32],
    /// The tokens that were read, or the last of them, oldest first. With none, states alone are compared.
    pub read: &'q [u32],
}

impl<'q> NextTokenQuery<'q> {
    /// Asks with the state alone.
    pub fn of_state(hidden: &'q [f32]) -> Self {
        Self { hidden, read: &[] }
    }

    /// How many tokens up to the one at `offset` are those that were read last, at most [`MOST_MATCHED`].
    fn matched(&self, span: &[u32], offset: usize) -> u32 {
        let here = span[..=offset].iter().rev().take(MOST_MATCHED);
        here.zip(self.read.iter().rev()).take_while(|(a, b)| a == b).count() as u32
    }
}

/// A place in a remembered span where the model was in a similar state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The span's slot.
    pub slot: SlotRef,
    /// The token in the span whose hidden state was compared.
    pub offset: u32,
    /// The token that came next.
    pub token: u32,
    /// Cosine of query and hidden state, both normalized.
    pub cosine: f32,
    /// Tokens up to and with this one, in the same span, that are those that were read last; 16 at most.
    pub matched: u32,
    /// The slot's bias, `ln(σ(A) · energy · decay + ε)`.
    pub bias: f32,
}

impl Neighbour {
    /// What it is ranked by: its cosine, and 0.024 for each token that is matched. The same words are in another state
    /// when other text came before them, and still go on alike.
    pub fn score(&self) -> f32 {
        score(self.cosine, self.matched)
    }
}

fn score(cosine: f32, matched: u32) -> f32 {
    cosine + MATCHED_WORTH * matched as f32
}

impl UnifiedMemory {
    /// The `k` token positions with the best [`Neighbour::score`], best first; an exact scan.
    ///
    /// A span that is in both stores is scanned once, in its short-term slot. At equal scores,
    /// short-term slots come first, then lower positions. Slots whose validity has ended are left
    /// out. The biases are those of tick [`UnifiedMemory::now`].
    ///
    /// # Errors
    /// The query can't be used.
    pub fn knn(&self, query: NextTokenQuery<'_>, k: usize) -> Result<Vec<Neighbour>, MemoryError> {
        self.nearest_in(self.spans(), query, k)
    }

    /// As [`UnifiedMemory::knn`], but only among these slots. Slots that are not there are passed
    /// over.
    ///
    /// # Errors
    /// The query can't be used.
    pub fn knn_among(
        &self,
        slots: &[SlotRef],
        query: NextTokenQuery<'_>,
        k: usize,
    ) -> Result<Vec<Neighbour>, MemoryError> {
        let spans = slots
            .iter()
            .filter_map(|&at| Some((at.store, self.slot(at)?)))
            .filter(|(_, slot)| slot.validity.holds(self.now));
        self.nearest_in(spans, query, k)
    }

    fn nearest_in<'m>(
        &self,
        spans: impl Iterator<Item = (StoreKind, &'m Slot)>,
        query: NextTokenQuery<'_>,
        k: usize,
    ) -> Result<Vec<Neighbour>, MemoryError> {
        let unit = self.normalization.unit("query", query.hidden)?;
        let spans: Vec<(StoreKind, &Slot)> = spans.collect();
        let scan = |spans: &[(StoreKind, &'m Slot)]| {
            let mut nearest = Nearest::new(k);
            let mut cosines = Vec::new();
            for &(store, slot) in spans {
                self.scan_span((store, slot), (&unit, &query), &mut cosines, &mut nearest);
            }
            nearest
        };
        if spans.len() <= SPANS_AT_ONCE {
            return Ok(scan(&spans).found);
        }
        let parts: Vec<Nearest> = spans.par_chunks(SPANS_AT_ONCE).map(scan).collect();
        let mut nearest = Nearest::new(k);
        for near in parts.into_iter().flat_map(|part| part.found) {
            nearest.offer(near.score(), || near);
        }
        Ok(nearest.found)
    }

    fn scan_span(
        &self,
        (store, slot): (StoreKind, &Slot),
        (unit, query): (&[f32], &NextTokenQuery<'_>),
        cosines: &mut Vec<f32>,
        nearest: &mut Nearest,
    ) {
        let with_next = slot.token_keys.len().saturating_sub(1);
        cosines.resize(with_next, 0.0);
        let rows = &slot.token_keys.rows()[..with_next * unit.len()];
        self.normalization.metric().cosines(rows, unit, cosines);
        for (offset, &cosine) in cosines.iter().enumerate() {
            let matched = query.matched(&slot.value.token_ids, offset);
            nearest.offer(score(cosine, matched), || Neighbour {
                slot: SlotRef { store, id: slot.id },
                offset: offset as u32,
                token: slot.value.token_ids[offset + 1],
                cosine,
                matched,
                bias: slot.bias(store, self.now, &self.config),
            });
        }
    }

    /// Rows that [`UnifiedMemory::knn`] scans.
    pub fn knn_rows(&self) -> usize {
        self.spans().map(|(_, slot)| slot.token_keys.len().saturating_sub(1)).sum()
    }

    fn spans(&self) -> impl Iterator<Item = (StoreKind, &Slot)> {
        let twins = self.long_term_twins(self.now);
        self.stores()
            .flat_map(|(store, bank)| bank.iter().map(move |(_, slot)| (store, slot)))
            .filter(move |(store, slot)| {
                let twin = *store == StoreKind::Ltm && twins.binary_search(&slot.id).is_ok();
                !twin && slot.validity.holds(self.now)
            })
    }

    /// Long-term slots whose span a short-term slot holds as well, sorted.
    fn long_term_twins(&self, at: Tick) -> Vec<SlotId> {
        let mut twins: Vec<SlotId> = self
            .stm
            .iter()
            .filter(|(_, slot)| !slot.token_keys.is_empty() && slot.validity.holds(at))
            .filter_map(|(_, slot)| slot.consolidation.and_then(|done| done.into))
            .collect();
        twins.sort_unstable();
        twins
    }
}

/// The best of what was offered, in order.
struct Nearest {
    k: usize,
    found: Vec<Neighbour>,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k.min(1024) + 1) }
    }

    fn offer(&mut self, score: f32, neighbour: impl FnOnce() -> Neighbour) {
        let full = self.found.len() >= self.k;
        if full && self.found.last().is_none_or(|worst| score <= worst.score()) {
            return;
        }
        let place = self.found.partition_point(|better| better.score() >= score);
        self.found.insert(place, neighbour());
        self.found.truncate(self.k);
    }
}
