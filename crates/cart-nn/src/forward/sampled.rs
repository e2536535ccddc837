//! ln p of tokens by a part of the vocabulary.
//!
//! Where every token of a long text is scored, the product with the output matrix and the sum over its rows are a
//! fifth of all that is computed. The sum is dominated by few terms, and a vocabulary made by merging the most frequent
//! pair first (Sennrich et al., 2016) has its frequent tokens first: so the [`COMMON`] first tokens are
//! counted one by one, of the others every [`EVERY`]th sixteen, for all that were left out (an estimate of the
//! partition function by sampling, as Bengio and Senécal, 2003, and Jean et al., 2015, train with), and the token that came
//! with its neighbours always. Nothing is drawn: the same row has the same estimate, bit for bit, whatever is computed beside it.

use candle_core::Tensor;

use super::piece::Piece;
use super::{Counted, ForwardError, HEAD_ROWS, Logits, LogitsFor, Run};
use crate::kernel::Kernels;
use crate::kernel::packed::OUTPUTS;
use crate::kernel::vector::soft_cap;
use crate::logits::{largest, sum_exp};
use crate::matrix::Linear;
use crate::model::Model;
use crate::ops::with_floats;
use crate::parallel::{Rows, split};
use crate::profile::{Part, timed};

/// First tokens of the vocabulary, which are all counted.
const COMMON: usize = 4096;

/// Of so many sixteens of the other tokens one is counted for all.
const EVERY: usize = 16;

/// Which tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    vocab: usize,
    /// Their tiles: first the common ones, then those of the others.
    tiles: Vec<usize>,
}

/// A row's logits that are counted.
#[derive(Clone, Copy)]
struct Seen<'a> {
    /// Of the tiles of the sample, `[tiles · 16]`.
    sample: &'a [f32],
    /// Of the tile of the token that came.
    own: &'a [f32],
    token: u32,
}

impl Model {
    /// How many of a run's rows, the last ones, go through the whole output matrix.
    pub(super) fn whole_rows(&self, run: &Run<'_>) -> usize {
        let total = run.tokens.len();
        if self.sample.is_some() { run.logits.whole(total) } else { run.logits.rows(total) }
    }

    /// Appends ln p of the tokens after the rows for which a sample is enough.
    pub(super) fn follow_by_sample(
        &self,
        hidden: &Tensor,
        runs: &[Run<'_>],
        pieces: &[Piece],
        logits: &mut [Logits],
    ) -> Result<(), ForwardError> {
        let Some(sample) = &self.sample else { return Ok(()) };
        let cap = self.spec.logit_softcap.map(|cap| cap as f32);
        for piece in pieces {
            let run = &runs[piece.run];
            let LogitsFor::Following { counted: Counted::Sample, from } = run.logits else {
                continue;
            };
            let tokens = piece.tokens.start.max(from)..piece.tokens.end.min(run.tokens.len() - 1);
            for start in tokens.clone().step_by(HEAD_ROWS) {
                let part = start..tokens.end.min(start + HEAD_ROWS);
                let first = piece.rows.start + start - piece.tokens.start;
                let rows = hidden.narrow(0, first, part.len())?;
                let next = &run.tokens[part.start + 1..=part.end];
                let found = timed(Part::Head, None, || {
                    with_floats(&rows, |rows| {
                        let normed = self.final_norm.apply(self.kernels, rows);
                        sample.logprobs(self.kernels, &self.head, &normed, next, cap)
                    })
                })?;
                logits[piece.run].following.extend(found);
            }
        }
        Ok(())
    }
}

impl Sample {
    /// The sample of a vocabulary; none where it is too small for one to pay.
    pub(crate) fn of(vocab: usize) -> Option<Self> {
        let common = COMMON / OUTPUTS;
        let whole = vocab / OUTPUTS;
        let tiles = (0..common).chain((common..whole).skip(EVERY / 2).step_by(EVERY)).collect();
        (vocab >= 4 * COMMON).then_some(Self { vocab, tiles })
    }

    /// ln p of `next[row]` after each row, in nats.
    ///
    /// * `normed`: hidden states after the last norm, `[next.len(), inputs]`
    /// * `cap`: the soft cap of logits
    pub(crate) fn logprobs(
        &self,
        kernels: Kernels,
        head: &Linear,
        normed: &[f32],
        next: &[u32],
        cap: Option<f32>,
    ) -> Vec<f64> {
        let width = self.tiles.len() * OUTPUTS;
        let capped = |mut logits: Vec<f32>| {
            cap.into_iter().for_each(|cap| soft_cap(kernels, &mut logits, cap));
            logits
        };
        let counted = capped(head.tiles(kernels, normed, &self.tiles));
        let mut found = vec![0.0; next.len()];
        let places = Rows::new(&mut found, 1);
        split(next.len(), 1, &|part| {
            for row in part {
                let token = next[row];
                let input = &normed[row * head.inputs..][..head.inputs];
                let own = capped(head.tiles(kernels, input, &[token as usize / OUTPUTS]));
                let sample = &counted[row * width..][..width];
                let logprob = self.logprob(Seen { sample, own: &own, token });
                // SAFETY: each row has one place, and one part has it.
                unsafe { places.write(row, 0, &[logprob]) };
            }
        });
        found
    }

    fn logprob(&self, seen: Seen<'_>) -> f64 {
        let Seen { sample, own, token } = seen;
        let (common, others) = sample.split_at(COMMON);
        let token = token as usize;
        let most = largest(sample).max(largest(own));
        let sum = |logits: &[f32]| sum_exp(logits, most, 1.0);
        let tile = token / OUTPUTS;
        let (before, after, left) = match self.tiles[COMMON / OUTPUTS..].binary_search(&tile) {
            // Each is counted once.
            Ok(at) => (&others[..at * OUTPUTS], &others[(at + 1) * OUTPUTS..], own.len()),
            Err(_) if token < COMMON => (others, &others[..0], 0),
            Err(_) => (others, &others[..0], own.len()),
        };
        let stand_for = (self.vocab - COMMON - left) as f64 / (before.len() + after.len()) as f64;
        let own_sum = if left > 0 { sum(own) } else { 0.0 };
        let total = sum(common) + own_sum + stand_for * (sum(before) + sum(after));
        f64::from(own[token % OUTPUTS]) - f64::from(most) - total.ln()
    }
}
