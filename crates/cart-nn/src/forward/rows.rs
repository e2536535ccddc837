//! Which rows of a run need logits, and what is kept of them.

use serde::{Deserialize, Serialize};

use crate::kernel::Kernels;
use crate::kernel::vector::soft_cap;
use crate::logits::logprob;
use crate::parallel::{Rows, split};

/// Which rows of a run need logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitsFor {
    /// No row: the run only fills the state.
    None,
    /// The last row.
    #[default]
    Last,
    /// Every row.
    All,
    /// The last row; and of each row before it, from the given one on, only ln p of the token that follows.
    Following {
        /// The first row.
        from: usize,
        /// What of the vocabulary is counted.
        counted: Counted,
    },
}

/// What of the vocabulary ln p of a token is normalized over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// All of it.
    #[default]
    All,
    /// Its first 2,048 tokens, the sixteen around the one that came, and of the others a share that stands for all of them:
    /// an eighth of those up to 4,096, and of each next doubling half as large a share. By SmolLM2-135M the mean surprise of
    /// 15 tokens is within 0.11 to 0.17 nats of the exact one (root mean square; English, German, source code and JSON, where
    /// such means vary by 1.0 to 1.5), 0.01 to 0.14 too low in the mean; it costs a fifteenth. A vocabulary of fewer than 16,384
    /// tokens is counted whole, and so is any by the decoder of tensor operations.
    Sample,
}

impl Counted {
    /// Whether it is the default.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// Logits of a run's rows, before softmax.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// Number of rows.
    pub rows: usize,
    /// Numbers in a row: the vocabulary's size.
    pub vocab: usize,
    /// `[rows, vocab]`, row after row.
    pub data: Vec<f32>,
    /// ln p of the tokens after the rows of [`LogitsFor::Following`], in nats.
    pub following: Vec<f64>,
}

impl Logits {
    /// Logits of row `index`, `[vocab]`. Panics where there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.vocab..(index + 1) * self.vocab]
    }

    /// Logits of the last row, if any.
    pub fn last(&self) -> Option<&[f32]> {
        self.rows.checked_sub(1).map(|index| self.row(index))
    }

    /// Takes in the next rows that a run asks for.
    ///
    /// * `asked`: what the run asks for, and its tokens
    /// * `cap`: a soft cap that is put on them first
    pub(crate) fn take(
        &mut self,
        (asked, tokens): (LogitsFor, &[u32]),
        rows: &[&[f32]],
        cap: Option<(Kernels, f32)>,
    ) {
        let total = tokens.len();
        let first = total - asked.rows(total) + self.following.len() + self.rows;
        let following = match asked {
            LogitsFor::Following { .. } => rows.len().min(total - 1 - first),
            _ => 0,
        };
        let next = &tokens[first + 1..];
        let place = self.following.len();
        self.following.resize(place + following, 0.0);
        let found = Rows::new(&mut self.following[place..], 1);
        split(following, 1, &|part| {
            for row in part {
                let capped = cap.map(|(kernels, cap)| {
                    let mut logits = rows[row].to_vec();
                    soft_cap(kernels, &mut logits, cap);
                    logits
                });
                let logprob = logprob(capped.as_deref().unwrap_or(rows[row]), next[row]);
                // SAFETY: each row has one place, and one part has it.
                unsafe { found.write(row, 0, &[logprob]) };
            }
        });
        for row in &rows[following..] {
            let start = self.data.len();
            self.data.extend_from_slice(row);
            if let Some((kernels, cap)) = cap {
                soft_cap(kernels, &mut self.data[start..], cap);
            }
            self.rows += 1;
        }
    }
}

impl LogitsFor {
    /// How many of `total` rows, counted from the last.
    pub(crate) fn rows(self, total: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => total.min(1),
            Self::All => total,
            Self::Following { from, .. } => total - from.min(total.saturating_sub(1)),
        }
    }

    /// Of how many of these, the last ones, the whole vocabulary is counted.
    pub(super) fn whole(self, total: usize) -> usize {
        match self {
            Self::Following { counted: Counted::Sample, .. } => self.kept(total),
            _ => self.rows(total),
        }
    }

    /// Of how many of these the logits are kept.
    pub(super) fn kept(self, total: usize) -> usize {
        match self {
            Self::Following { .. } => total.min(1),
            _ => self.rows(total),
        }
    }
}
