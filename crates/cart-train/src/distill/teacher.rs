//! What a teacher says of sequences.

use std::cell::Cell;
use std::time::{Duration, Instant};

use cart_format::BasisId;
use cart_nn::decoder::{Decoder, Run};
use cart_nn::graph::{GraphTaps, Products};
use cart_nn::{LogitsFor, Taps, logits};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::align::{Alignment, Compared};
use super::cache::{Cache, Sizes};
use super::hidden::TeacherStates;
use crate::error::TrainError;

/// A model that is learned from.
#[derive(Debug)]
pub struct Teacher<'a> {
    /// What it computes with.
    pub decoder: &'a Decoder,
    /// What its numbers depend on: weights, architecture and tokenizer, and not what it remembers.
    pub basis: BasisId,
    /// In what it computes, where that changes its numbers; part of what its answers are kept under.
    pub arithmetic: String,
    /// In what a teacher multiplies that is a graph in `f32` on the CPU, in steps and when it is
    /// measured.
    pub products: Products,
    /// Where its answers are kept.
    pub cache: Option<Cache>,
    /// How its tokens and the student's go together, where they are other ones.
    pub alignment: Option<Alignment>,
}

/// What a teacher says of the positions of a sequence: the best tokens one by one, all others
/// together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// The best tokens, or groups of them, best first, `[positions, best]`.
    pub(super) tokens: Vec<u32>,
    /// `ln p` of each at the temperature, then of all others together, `[positions, best + 1]`.
    pub(super) logs: Vec<f32>,
    /// `ln p` at temperature 1 of the token that follows, for each of its own positions.
    pub(super) labels: Vec<f32>,
}

/// How a teacher is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) best: usize,
    pub(super) temperature: f64,
}

/// What a teacher had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TeacherReport {
    /// Sequences that it read.
    pub read: u64,
    /// Sequences whose answers were kept from before.
    pub reused: u64,
    /// Kept answers that were damaged, so that it read their sequences again.
    pub damaged: u64,
    /// Tokens a second, of what it read; none where it read nothing.
    pub tokens_per_second: Option<f64>,
}

/// Counts of a teacher's work.
#[derive(Debug, Default)]
pub(super) struct Work {
    read: Cell<u64>,
    reused: Cell<u64>,
    damaged: Cell<u64>,
    tokens: Cell<u64>,
    took: Cell<Duration>,
}

impl Work {
    pub(super) fn report(&self) -> TeacherReport {
        let took = self.took.get().as_secs_f64();
        TeacherReport {
            read: self.read.get(),
            reused: self.reused.get(),
            damaged: self.damaged.get(),
            tokens_per_second: (took > 0.0).then(|| self.tokens.get() as f64 / took),
        }
    }
}

/// Positions that a teacher that is a graph reads together, where a sequence is not longer.
const TOGETHER: usize = 1024;

/// Positions of a sequence that is read alone, as so few are multiplied in `f32` whatever the precision, and
/// what is said of it must not depend on what is read beside it.
const FEW: usize = 32;

/// Positions whose logits are in memory together.
const CHUNK: usize = 512;

impl Teacher<'_> {
    /// What it says of sequences of the data: what was kept, or what it says now, which is kept.
    ///
    /// * `sequences`: tokens, and the one that follows the last; of one length
    pub(super) fn of_data(
        &self,
        sequences: &[Vec<u32>],
        asked: Asked,
        work: &Work,
    ) -> Result<Vec<Said>, TrainError> {
        let Some(cache) = &self.cache else { return self.of(sequences, asked, None, work) };
        let keys: Vec<Value> = sequences.iter().map(|one| self.key(one, asked)).collect();
        let sizes = |one: &Vec<u32>| Sizes {
            positions: one.len() - 1,
            best: asked.best,
            labels: one.len() - 1,
        };
        let mut said: Vec<Option<Said>> = vec![None; keys.len()];
        let mut missing: Vec<usize> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            if missing.iter().all(|&other| keys[other] != *key) {
                said[index] = kept(cache, key, sizes(&sequences[index]), work)?;
                missing.extend(said[index].is_none().then_some(index));
            }
        }
        let unsaid: Vec<Vec<u32>> = missing.iter().map(|&index| sequences[index].clone()).collect();
        for (index, new) in missing.into_iter().zip(self.of(&unsaid, asked, None, work)?) {
            cache.write(&keys[index], &new, sizes(&sequences[index]))?;
            said[index] = Some(new);
        }
        // A sequence that is there twice is read once.
        let first = |key: &Value| keys.iter().position(|other| other == key);
        let all = keys.iter().enumerate().map(|(index, key)| {
            let found = said[index].clone().or_else(|| {
                work.reused.set(work.reused.get() + 1);
                first(key).and_then(|first| said[first].clone())
            });
            found.expect("a first one was kept or read")
        });
        Ok(all.collect())
    }

    /// What it says of the rows of a sequence of a student with other tokens: what was kept, or what it
    /// says now, which is kept.
    pub(super) fn of_aligned(
        &self,
        (alignment, compared): (&Alignment, &Compared),
        asked: Asked,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let labels = compared.tokens.len().checked_sub(1).filter(|&count| count > 0);
        let (Some(labels), Some(cache)) = (labels, &self.cache) else {
            return self.aligned(alignment, compared, asked.best, work);
        };
        let mut key = self.key(&compared.tokens, asked);
        key["version"] = json!(2);
        key["compared"] = json!(alignment.basis(compared).hex());
        let sizes = Sizes { positions: compared.rows(), best: asked.best, labels };
        if let Some(said) = kept(cache, &key, sizes, work)? {
            return Ok(said);
        }
        let said = self.aligned(alignment, compared, asked.best, work)?;
        cache.write(&key, &said, sizes)?;
        Ok(said)
    }

    /// What it says of sequences, read now.
    ///
    /// * `sequences`: as for [`Teacher::of_data`]
    /// * `states`: gets their hidden states
    pub(super) fn of(
        &self,
        sequences: &[Vec<u32>],
        asked: Asked,
        mut states: Option<&mut TeacherStates>,
        work: &Work,
    ) -> Result<Vec<Said>, TrainError> {
        let Some(first) = sequences.first() else { return Ok(Vec::new()) };
        let count = first.len() - 1;
        let mut all = Vec::with_capacity(sequences.len());
        for some in sequences.chunks(self.together(count)) {
            let tokens: Vec<u32> = some.iter().flat_map(|one| &one[..count]).copied().collect();
            let states = states.as_deref_mut();
            let look = |row: usize, logits: &[f32]| {
                let next = some[row / count][1 + row % count];
                (Position::of(logits, asked), label(logits, next))
            };
            let mut rows = self.read((&tokens, some.len()), states, work, look)?.into_iter();
            all.extend(some.iter().map(|_| {
                let (said, labels): (Vec<_>, Vec<_>) = rows.by_ref().take(count).unzip();
                Said { labels, ..said.into_iter().collect() }
            }));
        }
        Ok(all)
    }

    /// What it says of the rows of a sequence of a student with other tokens, read now.
    fn aligned(
        &self,
        alignment: &Alignment,
        compared: &Compared,
        best: usize,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let [tokens @ .., _last] = &compared.tokens[..] else {
            return Ok(compared.whole([], best));
        };
        if tokens.is_empty() {
            return Ok(compared.whole([], best));
        }
        let rows = compared.by_teacher();
        let look = |row: usize, logits: &[f32]| {
            let said = alignment.said(compared, &rows[row], logits, best);
            (said, label(logits, compared.tokens[row + 1]))
        };
        let (said, labels): (Vec<_>, Vec<_>) =
            self.read((tokens, 1), None, work, look)?.into_iter().unzip();
        let said = rows.into_iter().zip(said).flat_map(|(rows, said)| rows.into_iter().zip(said));
        Ok(Said { labels, ..compared.whole(said, best) })
    }

    /// Sequences that it reads together.
    fn together(&self, count: usize) -> usize {
        match self.decoder {
            Decoder::Graph(_) if count >= FEW => (TOGETHER / count).max(1),
            Decoder::Graph(_) | Decoder::Kernels(_) => 1,
        }
    }

    /// Looks at the logits after each of these tokens, by all threads.
    ///
    /// * `tokens`: of `batch` sequences of one length, one after the other
    fn read<T: Send>(
        &self,
        (tokens, batch): (&[u32], usize),
        states: Option<&mut TeacherStates>,
        work: &Work,
        look: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<T>, TrainError> {
        let began = Instant::now();
        let found = match self.decoder {
            Decoder::Graph(graph) => self.products.during(|| {
                let sequences = graph.sequences(batch, tokens.len() / batch)?;
                let taps = states.map(|states| states as &mut dyn GraphTaps);
                let layers = 0..graph.spec().layers.len();
                let hidden = sequences.layers(layers, &sequences.embed(tokens)?, taps)?;
                sequences.each_logits(&hidden, CHUNK, look)
            })?,
            Decoder::Kernels(_) => {
                let mut state = self.decoder.new_state();
                let taps = states.map(|states| states as &mut dyn Taps);
                let run = Run { state: &mut state, tokens, logits: LogitsFor::All, taps };
                let found = self.decoder.forward(&mut [run])?.remove(0);
                let rows = (0..tokens.len()).into_par_iter();
                rows.map(|row| look(row, found.row(row))).collect()
            }
        };
        work.took.set(work.took.get() + began.elapsed());
        work.tokens.set(work.tokens.get() + tokens.len() as u64);
        work.read.set(work.read.get() + batch as u64);
        Ok(found)
    }

    /// Everything that its answer depends on.
    fn key(&self, sequence: &[u32], asked: Asked) -> Value {
        let bytes: Vec<u8> = sequence.iter().flat_map(|token| token.to_le_bytes()).collect();
        json!({
            "version": 1,
            "teacher": self.basis.hex(),
            "arithmetic": self.arithmetic,
            "best": asked.best,
            "temperature": asked.temperature,
            "tokens": cart_format::BlobId::of(&bytes).hex(),
        })
    }
}

/// What was kept under a key, or none; what is damaged is noted.
fn kept(cache: &Cache, key: &Value, sizes: Sizes, work: &Work) -> Result<Option<Said>, TrainError> {
    match cache.read(key, sizes)? {
        Ok(Some(said)) => {
            work.reused.set(work.reused.get() + 1);
            Ok(Some(said))
        }
        Ok(None) => Ok(None),
        Err(damage) => {
            work.damaged.set(work.damaged.get() + 1);
            cache.note(damage);
            Ok(None)
        }
    }
}

/// What a teacher says of one position.
#[derive(Debug)]
pub(super) struct Position {
    /// The best tokens, or groups of them, `[best]`.
    pub(super) tokens: Vec<u32>,
    /// `[best + 1]`, as in [`Said`].
    pub(super) logs: Vec<f32>,
}

impl Position {
    /// * `of`: its logits, `[vocab]`
    fn of(of: &[f32], asked: Asked) -> Self {
        let Asked { best, temperature } = asked;
        let most = logits::largest(of);
        let tokens = best_tokens(of, best);
        let log = |token: &u32| f64::from(of[*token as usize] - most) / temperature;
        let known: f64 = tokens.iter().map(|token| log(token).exp()).sum();
        let mut others = of.to_vec();
        tokens.iter().for_each(|&token| others[token as usize] = f32::NEG_INFINITY);
        // Not the difference of two sums near 1: the others may have a millionth together.
        let others = logits::sum_exp(&others, most, temperature as f32);
        let all = (known + others).ln();
        let mut logs: Vec<f32> = tokens.iter().map(|token| (log(token) - all) as f32).collect();
        logs.push(((others.ln() - all) as f32).max(f32::MIN));
        Self { tokens, logs }
    }
}

/// Without labels.
impl FromIterator<Position> for Said {
    fn from_iter<I: IntoIterator<Item = Position>>(positions: I) -> Self {
        let mut said = Self::default();
        for Position { tokens, logs } in positions {
            said.tokens.extend(tokens);
            said.logs.extend(logs);
        }
        said
    }
}

/// `ln p` of a token.
fn label(of: &[f32], token: u32) -> f32 {
    let most = logits::largest(of);
    (f64::from(of[token as usize] - most) - logits::sum_exp(of, most, 1.0).ln()) as f32
}

/// The tokens with the largest logits, the largest first; of equal ones those with smaller ids.
///
/// * `count`: 1 or more
fn best_tokens(of: &[f32], count: usize) -> Vec<u32> {
    let before =
        |a: &u32, b: &u32| of[*b as usize].total_cmp(&of[*a as usize]).then_with(|| a.cmp(b));
    // As many parts as tokens are wanted have one that is this large, so few are looked at twice.
    let mut largest: Vec<f32> =
        of.chunks((of.len() / (4 * count)).max(1)).map(logits::largest).collect();
    let floor = if largest.len() > count {
        *largest.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    } else {
        f32::NEG_INFINITY
    };
    let mut order = logits::at_least(of, floor);
    order.sort_unstable_by(before);
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_tokens_come_first_and_the_others_are_one_number() {
        let of = [1.0_f32, 3.0, -2.0, 3.0, 0.5, 2.0];
        let said = Position::of(&of, Asked { best: 3, temperature: 2.0 });
        assert_eq!(said.tokens, [1, 3, 5]);
        let total = |temperature: f64| -> f64 {
            of.iter().map(|&x| (f64::from(x) / temperature).exp()).sum()
        };
        let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-6;
        assert!(near(said.logs[0], 1.5 - total(2.0).ln()));
        let others = (0.5_f64).exp() + (-1.0_f64).exp() + (0.25_f64).exp();
        assert!(near(said.logs[3], others.ln() - total(2.0).ln()), "{said:?}");
        assert!(near(label(&of, 4), 0.5 - total(1.0).ln()));
        // The largest ones are where they are, in one part or in many.
        let many: Vec<f32> = (0..997_u32).map(|at| (at * at % 331) as f32).collect();
        let mut all: Vec<u32> = (0..997).collect();
        all.sort_by(|a, b| many[*b as usize].total_cmp(&many[*a as usize]));
        for count in [1, 2, 30, 900, 997] {
            assert_eq!(best_tokens(&many, count), all[..count], "{count}");
        }
        // All of them: nothing is left for the others.
        let said = Position::of(&of, Asked { best: 6, temperature: 1.0 });
        assert_eq!((said.tokens.len(), said.logs[6]), (6, f32::MIN));
    }
}
