//! Tokens to learn from and to be measured on.

use crate::chance::Chance;
use crate::error::TrainError;

/// What chance in here is for.
const PURPOSE: u64 = 1;

/// A text as tokens, of which the end is held out.
#[derive(Clone, Debug)]
pub struct Corpus {
    tokens: Vec<u32>,
    /// Where the held-out part begins.
    held_out: usize,
    context: usize,
    batch: usize,
    seed: u64,
    /// Whether every epoch cuts the text in the same places.
    fixed: bool,
}

/// Sequences of equal length and what follows each of their tokens, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many.
    pub rows: usize,
    /// `[rows, context]`.
    pub tokens: Vec<u32>,
    /// `[rows, context]`.
    pub targets: Vec<u32>,
    /// Where each sequence begins among all tokens, `[rows]`.
    pub starts: Vec<usize>,
}

impl Batch {
    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.tokens.len() / self.rows.max(1)
    }

    /// Each sequence with the token that follows its last, `[context + 1]`.
    pub fn sequences(&self) -> impl Iterator<Item = Vec<u32>> {
        let context = self.context();
        let rows = self.tokens.chunks_exact(context.max(1));
        rows.zip(self.targets.chunks_exact(context.max(1))).map(|(tokens, targets)| {
            let last = targets.last().expect("a sequence has a token");
            [tokens, &[*last]].concat()
        })
    }
}

impl Corpus {
    /// * `share`: of the text that is held out, from its end
    /// * `context`: tokens of a sequence; `batch`: sequences of a step's part
    ///
    /// # Errors
    /// One of the parts does not fill a sequence.
    pub fn new(
        tokens: Vec<u32>,
        share: f64,
        context: usize,
        batch: usize,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let refused =
            |option, allowed| TrainError::Option { option, found: "0".to_owned(), allowed };
        if batch == 0 {
            return Err(refused("the batch", "1 or more"));
        }
        if context == 0 {
            return Err(refused("the context", "1 or more"));
        }
        if !(share > 0.0 && share < 1.0) {
            let found = share.to_string();
            let (option, allowed) = ("the held-out share", "between 0 and 1");
            return Err(TrainError::Option { option, found, allowed });
        }
        let needed = context + 1;
        let held_out = tokens.len() - (tokens.len() as f64 * share) as usize;
        for (what, found) in
            [("the text to learn from", held_out), ("the held-out text", tokens.len() - held_out)]
        {
            if found < needed {
                return Err(TrainError::ShortData { what, found, needed });
            }
        }
        Ok(Self { tokens, held_out, context, batch, seed, fixed: false })
    }

    /// The same, of which every epoch has the same sequences, so that what was computed of one is of
    /// use again.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    /// Tokens to learn from.
    pub fn learned(&self) -> usize {
        self.held_out
    }

    /// The held-out tokens.
    pub fn held_out(&self) -> &[u32] {
        &self.tokens[self.held_out..]
    }

    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Parts of steps in which every sequence is read once.
    pub fn parts_per_epoch(&self) -> u64 {
        (self.windows() as u64).div_ceil(self.batch as u64)
    }

    /// Sequences side by side in the text to learn from, wherever the first begins.
    fn windows(&self) -> usize {
        let all = (self.held_out - 1) / self.context;
        if self.fixed { all } else { all.saturating_sub(1).max(1) }
    }

    /// The sequences of a part, counted from the beginning of the run. In every epoch the text is cut
    /// elsewhere, unless that is [`Corpus::fixed`], and its sequences come in another order.
    pub fn part(&self, part: u64) -> Batch {
        let parts = self.parts_per_epoch();
        let epoch = part / parts;
        let mut chance = Chance::new(self.seed, &[PURPOSE, epoch]);
        let room = self.held_out - 1 - self.windows() * self.context;
        let start = if self.fixed { 0 } else { chance.below(room.min(self.context) + 1) };
        let order = chance.order(self.windows());
        let first = (part % parts) as usize * self.batch;
        let windows = (0..self.batch).map(|row| order[(first + row) % order.len()]);
        self.cut(windows.map(|window| start + window * self.context))
    }

    /// Up to `count` sequences of the held-out text, evenly over it, in batches.
    pub fn measured(&self, count: usize) -> Vec<Batch> {
        let windows = (self.held_out().len() - 1) / self.context;
        let count = count.clamp(1, windows);
        let start = |index| self.held_out + index * windows / count * self.context;
        let starts: Vec<usize> = (0..count).map(start).collect();
        starts.chunks(self.batch).map(|starts| self.cut(starts.iter().copied())).collect()
    }

    fn cut(&self, starts: impl Iterator<Item = usize>) -> Batch {
        let mut batch =
            Batch { rows: 0, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() };
        for start in starts {
            batch.rows += 1;
            batch.starts.push(start);
            batch.tokens.extend_from_slice(&self.tokens[start..start + self.context]);
            batch.targets.extend_from_slice(&self.tokens[start + 1..=start + self.context]);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(count: u32) -> Result<Corpus, TrainError> {
        Corpus::new((0..count).collect(), 0.1, 8, 3, 5)
    }

    #[test]
    fn an_epoch_reads_every_sequence_once_and_none_that_is_held_out() {
        let corpus = corpus(1000).unwrap();
        let parts = corpus.parts_per_epoch();
        let mut epochs = Vec::new();
        for epoch in 0..3 {
            let mut firsts = Vec::new();
            for part in epoch * parts..(epoch + 1) * parts {
                let batch = corpus.part(part);
                assert_eq!((batch.rows, batch.tokens.len()), (3, 24));
                for (tokens, targets) in batch.tokens.chunks(8).zip(batch.targets.chunks(8)) {
                    assert!(tokens.iter().zip(targets).all(|(token, next)| token + 1 == *next));
                    assert!(targets[7] < 900);
                    firsts.push(tokens[0]);
                }
                assert_eq!(corpus.part(part), batch);
            }
            let order = firsts.clone();
            firsts.sort_unstable();
            firsts.dedup();
            assert_eq!(firsts.len(), corpus.windows());
            epochs.push(order);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    }

    #[test]
    fn a_fixed_text_has_the_same_sequences_in_every_epoch() {
        let corpus = corpus(1000).unwrap().fixed();
        let parts = corpus.parts_per_epoch();
        let mut epochs = Vec::new();
        for epoch in 0..2 {
            let of_part = |part| corpus.part(part).tokens;
            let tokens = (epoch * parts..(epoch + 1) * parts).flat_map(of_part);
            epochs.push(tokens.step_by(8).collect::<Vec<u32>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        epochs.iter_mut().for_each(|firsts| {
            firsts.sort_unstable();
            firsts.dedup();
        });
        assert_eq!(epochs[0], (0..112).map(|window| window * 8).collect::<Vec<_>>());
        assert_eq!(epochs[0], epochs[1]);
    }

    #[test]
    fn what_is_measured_is_held_out() {
        let corpus = corpus(1000).unwrap();
        for (asked, got) in [(1, 1), (5, 5), (1000, 12)] {
            let batches = corpus.measured(asked);
            assert_eq!(batches.iter().map(|batch| batch.rows).sum::<usize>(), got);
            assert!(batches.iter().flat_map(|batch| &batch.tokens).all(|token| *token >= 900));
            let firsts = batches.iter().flat_map(|batch| batch.tokens.iter().step_by(8));
            let starts = batches.iter().flat_map(|batch| &batch.starts);
            assert!(starts.zip(firsts).all(|(&start, &first)| start == first as usize));
        }
    }

    #[test]
    fn a_text_shorter_than_a_sequence_is_refused() {
        let refused = corpus(60).unwrap_err().to_string();
        assert!(refused.contains("the held-out text has 6 tokens"), "{refused}");
        assert!(refused.contains("a sequence takes 9"), "{refused}");
        assert!(corpus(95).is_ok());
        let refused = Corpus::new((0..99).collect(), 0.0, 8, 3, 5).unwrap_err().to_string();
        assert!(refused.contains("the held-out share is 0"), "{refused}");
        assert!(Corpus::new((0..99).collect(), 0.2, 8, 0, 5).is_err());
        assert!(Corpus::new((0..99).collect(), 0.2, 0, 3, 5).is_err());
    }
}
