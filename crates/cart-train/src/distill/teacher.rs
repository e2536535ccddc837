//! What a teacher says of sequences.

use std::cell::Cell;
use std::time::{Duration, Instant};

use cart_format::BasisId;
use cart_nn::decoder::{Decoder, Run};
use cart_nn::graph::Products;
use cart_nn::{Logits, LogitsFor, Taps, logits};
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

impl Teacher<'_> {
    /// What it says of a sequence of the data: what was kept, or what it says now, which is kept.
    ///
    /// * `sequence`: tokens, and the one that follows the last
    pub(super) fn of_data(
        &self,
        sequence: &[u32],
        asked: Asked,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let positions = sequence.len() - 1;
        let sizes = Sizes { positions, best: asked.best, labels: positions };
        let read = || self.of(sequence, asked, None, work);
        self.kept(&self.key(sequence, asked), sizes, work, read)
    }

    /// What it says of the rows of a sequence of a student with other tokens: what was kept, or what it
    /// says now, which is kept.
    pub(super) fn of_aligned(
        &self,
        (alignment, compared): (&Alignment, &Compared),
        asked: Asked,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let read = || self.aligned(alignment, compared, asked.best, work);
        let Some(labels) = compared.tokens.len().checked_sub(1).filter(|&count| count > 0) else {
            return read();
        };
        let mut key = self.key(&compared.tokens, asked);
        key["version"] = json!(2);
        key["compared"] = json!(alignment.basis(compared).hex());
        let sizes = Sizes { positions: compared.rows(), best: asked.best, labels };
        self.kept(&key, sizes, work, read)
    }

    /// What is kept under a key; or what is read now, which is kept.
    fn kept(
        &self,
        key: &Value,
        sizes: Sizes,
        work: &Work,
        read: impl Fn() -> Result<Said, TrainError>,
    ) -> Result<Said, TrainError> {
        let Some(cache) = &self.cache else { return read() };
        match cache.read(key, sizes)? {
            Ok(Some(said)) => {
                work.reused.set(work.reused.get() + 1);
                return Ok(said);
            }
            Ok(None) => {}
            Err(damage) => {
                work.damaged.set(work.damaged.get() + 1);
                cache.note(damage);
            }
        }
        let said = read()?;
        cache.write(key, &said, sizes)?;
        Ok(said)
    }

    /// What it says of a sequence, read now.
    ///
    /// * `states`: gets its hidden states
    pub(super) fn of(
        &self,
        sequence: &[u32],
        asked: Asked,
        states: Option<&mut TeacherStates>,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let taps = states.map(|states| states as &mut dyn Taps);
        let found = self.read(&sequence[..sequence.len() - 1], taps, work)?;
        let mut said = Said::default();
        for (row, &next) in sequence[1..].iter().enumerate() {
            said.add(found.row(row), next, asked);
        }
        Ok(said)
    }

    /// What it says of the rows of a sequence of a student with other tokens, read now.
    fn aligned(
        &self,
        alignment: &Alignment,
        compared: &Compared,
        best: usize,
        work: &Work,
    ) -> Result<Said, TrainError> {
        let [tokens @ .., _last] = &compared.tokens[..] else { return Ok(compared.nothing(best)) };
        if tokens.is_empty() {
            return Ok(compared.nothing(best));
        }
        let found = self.read(tokens, None, work)?;
        let mut said = alignment.said(compared, |row| found.row(row), best);
        let labels = compared.tokens[1..].iter().enumerate();
        said.labels = labels.map(|(row, &next)| label(found.row(row), next)).collect();
        Ok(said)
    }

    /// Logits after each of these tokens.
    fn read(
        &self,
        tokens: &[u32],
        taps: Option<&mut dyn Taps>,
        work: &Work,
    ) -> Result<Logits, TrainError> {
        let began = Instant::now();
        let mut state = self.decoder.new_state();
        let taps = taps.map(|taps| taps as &mut dyn Taps);
        let run = Run { state: &mut state, tokens, logits: LogitsFor::All, taps };
        let found = self.products.during(|| self.decoder.forward(&mut [run]))?.remove(0);
        work.took.set(work.took.get() + began.elapsed());
        work.tokens.set(work.tokens.get() + tokens.len() as u64);
        work.read.set(work.read.get() + 1);
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

impl Said {
    /// Adds a position.
    ///
    /// * `of`: its logits, `[vocab]`; `next`: what follows
    fn add(&mut self, of: &[f32], next: u32, asked: Asked) {
        let Asked { best, temperature } = asked;
        let most = logits::largest(of);
        let order = best_tokens(of, best);
        let log = |token: &u32| f64::from(of[*token as usize] - most) / temperature;
        let known: f64 = order.iter().map(|token| log(token).exp()).sum();
        let mut others = of.to_vec();
        order.iter().for_each(|&token| others[token as usize] = f32::NEG_INFINITY);
        // Not the difference of two sums near 1: the others may have a millionth together.
        let others = logits::sum_exp(&others, most, temperature as f32);
        let all = (known + others).ln();
        self.logs.extend(order.iter().map(|token| (log(token) - all) as f32));
        self.logs.push(((others.ln() - all) as f32).max(f32::MIN));
        self.tokens.extend(order);
        self.labels.push(label(of, next));
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
        let mut said = Said::default();
        said.add(&of, 4, Asked { best: 3, temperature: 2.0 });
        assert_eq!(said.tokens, [1, 3, 5]);
        let total = |temperature: f64| -> f64 {
            of.iter().map(|&x| (f64::from(x) / temperature).exp()).sum()
        };
        let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-6;
        assert!(near(said.logs[0], 1.5 - total(2.0).ln()));
        let others = (0.5_f64).exp() + (-1.0_f64).exp() + (0.25_f64).exp();
        assert!(near(said.logs[3], others.ln() - total(2.0).ln()), "{said:?}");
        assert!(near(said.labels[0], 0.5 - total(1.0).ln()), "{said:?}");
        // The largest ones are where they are, in one part or in many.
        let many: Vec<f32> = (0..997_u32).map(|at| (at * at % 331) as f32).collect();
        let mut all: Vec<u32> = (0..997).collect();
        all.sort_by(|a, b| many[*b as usize].total_cmp(&many[*a as usize]));
        for count in [1, 2, 30, 900, 997] {
            assert_eq!(best_tokens(&many, count), all[..count], "{count}");
        }
        // All of them: nothing is left for the others.
        let mut said = Said::default();
        said.add(&of, 4, Asked { best: 6, temperature: 1.0 });
        assert_eq!((said.tokens.len(), said.logs[6]), (6, f32::MIN));
    }
}
