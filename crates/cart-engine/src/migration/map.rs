//! By map: an affine map, fitted on texts that both models read, moves the vectors that are there.

use cart_memory::affine::{AffineMap, Pairs, Regression};
use cart_memory::{GoalRelocated, Normalization, Relocated, Slot, SlotValue, UnifiedMemory};
use serde::Serialize;

use super::anchors::Anchors;
use super::recall::RecallReport;
use super::{MigrationError, unread};
use crate::agent::Agent;
use crate::memory_loop::{EncodeError, Reading};
use crate::tokenizer::{ParseSpecial, ShowSpecial, Tokenizer};

/// Strengths of the ridge that are tried.
const LAMBDAS: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];
/// How much the pairs of the memory's own texts weigh together, in shares of all the others: a map that knows
/// how texts differ in general, but not how these do, finds the kind of a text and not the text.
const OWN_WEIGHT: f64 = 10.0;

/// A map between two spaces.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapReport {
    /// Texts that it was fitted on.
    pub texts: usize,
    /// Pairs of hidden states that it was fitted on: at bytes where tokens of both models end, and the texts' keys.
    pub pairs: usize,
    /// How often a pair of the memory's own texts counts, where one of the others counts once.
    pub own_weight: f64,
    /// Texts of the memory that were held out.
    pub held_out_texts: usize,
    /// Pairs that were held out.
    pub held_out_pairs: usize,
    /// Strength of the ridge, in shares of the mean variance: the one with which each half of the memory's fitted
    /// texts explains most of the other half.
    pub lambda: f64,
    /// Share of the variance of held-out pairs that the map explains.
    pub r2: f64,
    /// Recall@10 under which the map is refused.
    pub threshold: f64,
    /// The same queries after a migration by text, to compare with.
    pub by_text: RecallReport,
}

/// A map from one memory's space to a model's, both centred and scaled.
pub(super) struct Map {
    affine: AffineMap,
    from: Normalization,
    to: Normalization,
}

impl Map {
    /// * `raw`: `[from]`; gives `[to]`, raw
    fn raw(&self, raw: &[f32]) -> Vec<f32> {
        self.back(&self.affine.apply(&centred(&self.from, raw)))
    }

    fn back(&self, values: &[f32]) -> Vec<f32> {
        let scaled = values.iter().zip(self.to.scale()).zip(self.to.centre());
        scaled.map(|((&value, &scale), &centre)| value * scale + centre).collect()
    }

    /// A remembered token's row.
    ///
    /// * `unit`: `[from]`, of length 1, `norm`: the length that it had
    fn token(&self, unit: &[f32], norm: f32) -> Vec<f32> {
        let row: Vec<f32> = unit.iter().map(|value| value * norm).collect();
        self.back(&self.affine.apply(&row))
    }
}

fn centred(normalization: &Normalization, raw: &[f32]) -> Vec<f32> {
    let values = raw.iter().zip(normalization.centre()).zip(normalization.scale());
    values.map(|((&raw, &centre), &scale)| (raw - centre) / scale).collect()
}

/// Reads the anchors with both models and fits a map.
pub(super) fn fit(
    from: &Agent,
    memory: &UnifiedMemory,
    to: &Agent,
    anchors: &Anchors<'_>,
) -> Result<(Map, MapReport), MigrationError> {
    let (old, new) = (memory.normalization(), to.normalization()?);
    let read = Read::of(anchors, (from, old), (to, &new))?;
    let sums = Sums {
        halves: read.halves.each_ref().map(Regression::of),
        others: Regression::of(&read.others),
    };
    let lambda = sums.best_lambda(&read.halves)?;
    let own = read.halves[0].len() + read.halves[1].len();
    let own_weight = own_weight(own, read.others.len());
    let affine = sums.whole(own_weight).ridge(lambda)?;
    let report = MapReport {
        texts: read.texts,
        pairs: own + read.others.len(),
        own_weight,
        held_out_texts: read.held_out_texts,
        held_out_pairs: read.held_out.len(),
        lambda,
        r2: affine.explained(&read.held_out),
        threshold: 0.0,
        by_text: RecallReport::default(),
    };
    Ok((Map { affine, from: old.clone(), to: new }, report))
}

/// Pairs of the anchors that both models have read.
struct Read {
    /// Every second of the memory's own texts that a map is fitted on, and the rest of them.
    halves: [Pairs; 2],
    others: Pairs,
    texts: usize,
    held_out: Pairs,
    held_out_texts: usize,
}

impl Read {
    fn of(
        anchors: &Anchors<'_>,
        from: (&Agent, &Normalization),
        to: (&Agent, &Normalization),
    ) -> Result<Self, MigrationError> {
        let none = Pairs::new(from.1.dim(), to.1.dim());
        let mut halves = [none.clone(), none.clone()];
        let (mut others, mut held_out) = (none.clone(), none);
        let (mut texts, mut held_out_texts) = (0, 0);
        for (index, text) in anchors.own_fitted().enumerate() {
            texts += usize::from(pair(from, to, text, &mut halves[index % 2])?);
        }
        for text in anchors.others() {
            texts += usize::from(pair(from, to, text, &mut others)?);
        }
        for text in anchors.own_held_out() {
            held_out_texts += usize::from(pair(from, to, text, &mut held_out)?);
        }
        Ok(Self { halves, others, texts, held_out, held_out_texts })
    }
}

/// What a map is fitted on.
struct Sums {
    /// Of the memory's own texts.
    halves: [Regression; 2],
    others: Regression,
}

impl Sums {
    fn whole(&self, own_weight: f64) -> Regression {
        let [first, second] = &self.halves;
        self.others.plus(first, own_weight).plus(second, own_weight)
    }

    /// The strength with which a map fitted on either half, and the others, explains most of the other half.
    fn best_lambda(&self, halves: &[Pairs; 2]) -> Result<f64, MigrationError> {
        let mut best = (f64::NEG_INFINITY, LAMBDAS[0]);
        for lambda in LAMBDAS {
            let mut explained = 0.0;
            for (fitted, asked) in [(0, 1), (1, 0)] {
                let weight = own_weight(halves[fitted].len(), self.others.pairs());
                let map = self.others.plus(&self.halves[fitted], weight).ridge(lambda)?;
                explained += map.explained(&halves[asked]);
            }
            if explained > best.0 {
                best = (explained, lambda);
            }
        }
        Ok(best.1)
    }
}

/// How often each of the memory's own pairs counts.
fn own_weight(own: usize, others: usize) -> f64 {
    if own == 0 || others == 0 { 1.0 } else { OWN_WEIGHT * others as f64 / own as f64 }
}

/// The pairs of a text: its key, and its hidden states where tokens of both models end at the same byte. The
/// first ones say where they stand and not what was said, and are left out. A text that is too long for a
/// model gives none, and the answer is no.
fn pair(
    (from, old): (&Agent, &Normalization),
    (to, new): (&Agent, &Normalization),
    text: &str,
    pairs: &mut Pairs,
) -> Result<bool, MigrationError> {
    let read = |agent: &Agent| match agent.read_alone(text) {
        Ok(reading) => Ok(Some(reading)),
        Err(EncodeError::TooLong { .. } | EncodeError::Empty) => Ok(None),
        Err(error) => Err(unread(text)(error)),
    };
    let (Some(first), Some(second)) = (read(from)?, read(to)?) else { return Ok(false) };
    pairs.push(&centred(old, &first.key), &centred(new, &second.key));
    let (ours, theirs) = (ends(&first), ends(&second));
    let mut next = 0;
    for (end, row) in ours {
        while theirs.get(next).is_some_and(|&(other, _)| other < end) {
            next += 1;
        }
        if let Some(&(_, other)) = theirs.get(next).filter(|&&(other, _)| other == end) {
            let row = &first.rows[row * old.dim()..][..old.dim()];
            let other = &second.rows[other * new.dim()..][..new.dim()];
            pairs.push(&centred(old, row), &centred(new, other));
        }
    }
    Ok(true)
}

/// Where tokens end, with their rows.
fn ends(reading: &Reading) -> Vec<(usize, usize)> {
    let skipped = usize::from(reading.at_start && reading.tokens.len() > 1);
    reading.tokens.iter().enumerate().skip(skipped).map(|(row, (_, at))| (at.end, row)).collect()
}

/// The memory, moved by a map.
pub(super) fn relocated(
    from: &Agent,
    memory: &UnifiedMemory,
    to: &Agent,
    map: &Map,
) -> Result<(UnifiedMemory, GoalRelocated), MigrationError> {
    let missing = |slot| MigrationError::Slot { slot, source: EncodeError::NoTokenizer };
    memory.relocated(to.space(), map.to.clone(), |at, slot| {
        let old = from.tokenizer().ok_or_else(|| missing(at))?;
        let new = to.tokenizer().ok_or_else(|| missing(at))?;
        moved(map, old, new, slot)
    })
}

fn moved(
    map: &Map,
    old: &Tokenizer,
    new: &Tokenizer,
    slot: &Slot,
) -> Result<Relocated, MigrationError> {
    let tokens = new.encode_with_ranges(&slot.value.text, ParseSpecial::No)?;
    let dim = map.from.dim();
    let mut token_keys = Vec::new();
    if !slot.token_keys.is_empty() {
        let ends = ends_of(old, &slot.value)?;
        for (_, range) in &tokens {
            // The old token in which the new one ends has read as much of the text.
            let row = ends.partition_point(|&end| end < range.end).min(ends.len() - 1);
            let unit = &slot.token_keys.rows()[row * dim..][..dim];
            token_keys.extend(map.token(unit, slot.token_keys.norms()[row]));
        }
    }
    let sums = &slot.statistics;
    let mean: Vec<f32> = if sums.weight > 0.0 {
        sums.weighted_sum.iter().map(|sum| (sum / sums.weight) as f32).collect()
    } else {
        slot.key.clone()
    };
    let token_ids = tokens.into_iter().map(|(token, _)| token).collect();
    Ok(Relocated {
        key: map.raw(&slot.key),
        mean: map.raw(&mean),
        value: SlotValue { token_ids, text: slot.value.text.clone() },
        token_keys,
    })
}

/// The byte of the text at which each of a slot's tokens ends. What was trimmed off the text's beginning is not
/// counted.
fn ends_of(tokenizer: &Tokenizer, value: &SlotValue) -> Result<Vec<usize>, MigrationError> {
    let decoded = |ids: &[u32]| tokenizer.decode(ids, ShowSpecial::No);
    let whole = decoded(&value.token_ids)?;
    let trimmed = whole.len() - whole.trim_start().len();
    let end = |count| Ok(decoded(&value.token_ids[..count])?.len().saturating_sub(trimmed));
    (1..=value.token_ids.len()).map(end).collect()
}
