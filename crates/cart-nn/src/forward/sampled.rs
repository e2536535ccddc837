//! ln p of tokens by a part of the vocabulary.
//!
//! Where every token of a long text is scored, the product with the output matrix and the sum over its rows are a
//! fifth of all that is computed. The sum is dominated by few terms, and a vocabulary made by merging the most frequent
//! pair first (Sennrich et al., 2016) has its frequent tokens first, their frequency falling with their rank (Zipf, 1935):
//! so the [`COMMON`] first tokens are counted one by one, of those up to twice as many every [`EVERY`]th sixteen, and
//! of each next doubling half as large a share, each stratum's standing for all of it (an estimate of the partition
//! function by sampling, as Bengio and Senécal, 2003, and Jean et al., 2015, train with); the token that came with its
//! neighbours always. Nothing is drawn: the same row has the same estimate, bit for bit, whatever is computed beside it.

use std::ops::Range;

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
const COMMON: usize = 2048;

/// Of the tokens after them, up to twice as many, one sixteen of so many is counted for all; of each next doubling one of
/// twice as many.
const EVERY: usize = 8;

/// Which tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Their tiles.
    tiles: Vec<usize>,
    /// In order, without a gap: the whole vocabulary.
    strata: Vec<Stratum>,
}

/// Tokens of which some are counted for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stratum {
    tokens: Range<usize>,
    /// Which of the sample's tiles are of them.
    counted: Range<usize>,
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
        if vocab < 8 * COMMON {
            return None;
        }
        // Those that are whole.
        let all = vocab / OUTPUTS;
        let (mut tiles, mut strata) = (Vec::new(), Vec::<Stratum>::new());
        let (mut first, mut end, mut every) = (0, COMMON / OUTPUTS, 1);
        while first < all {
            let begun = tiles.len();
            tiles.extend((first..end).skip(every / 2).step_by(every));
            let tokens = first * OUTPUTS..if end == all { vocab } else { end * OUTPUTS };
            strata.push(Stratum { tokens, counted: begun..tiles.len() });
            every = if first == 0 { EVERY } else { 2 * every };
            // What is not a doubling any more is the last one's.
            (first, end) = (end, if 4 * end <= all { 2 * end } else { all });
        }
        Some(Self { tiles, strata })
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
        let token = token as usize;
        let most = largest(sample).max(largest(own));
        let sum = |logits: &[f32]| sum_exp(logits, most, 1.0);
        let of_stratum = |stratum: &Stratum| {
            let Range { start, end } = stratum.counted;
            let counted = &sample[start * OUTPUTS..end * OUTPUTS];
            if !stratum.tokens.contains(&token) {
                return sum(counted) * stratum.tokens.len() as f64 / counted.len() as f64;
            }
            // Its own sixteen stand for themselves, and are counted once.
            let (before, after) = match self.tiles[start..end].binary_search(&(token / OUTPUTS)) {
                Ok(at) => (&counted[..at * OUTPUTS], &counted[(at + 1) * OUTPUTS..]),
                Err(_) => (counted, &counted[..0]),
            };
            let (seen, left) = (before.len() + after.len(), stratum.tokens.len() - own.len());
            sum(own) + (sum(before) + sum(after)) * left as f64 / seen as f64
        };
        let total: f64 = self.strata.iter().map(of_stratum).sum();
        f64::from(own[token % OUTPUTS]) - f64::from(most) - total.ln()
    }
}
