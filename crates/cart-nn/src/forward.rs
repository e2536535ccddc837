//! A batch of runs through the decoder.

use thiserror::Error;

use crate::model::Model;
use crate::state::State;
use crate::taps::Taps;

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
}

/// Tokens for one session.
pub struct Run<'a> {
    /// What the session has read; the tokens are appended.
    pub state: &'a mut State,
    /// One or more token ids, under the vocabulary's size.
    pub tokens: &'a [u32],
    /// Rows that need logits.
    pub logits: LogitsFor,
    /// Listener on the hidden states of this run.
    pub taps: Option<&'a mut dyn Taps>,
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
}

/// Why a forward pass was refused. Every state is as it was before.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// A run without tokens.
    #[error("run {run} has no tokens; give at least one")]
    Empty {
        /// Index of the run in the batch.
        run: usize,
    },
    /// A token that the model does not have.
    #[error("run {run}: token {token} at index {index}; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Index of the run in the batch.
        run: usize,
        /// Index of the token in the run.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More positions than the model was made for.
    #[error(
        "run {run}: {past} positions and {new} more exceed the context of {context}; \
         shorten the prompt or truncate the state"
    )]
    ContextFull {
        /// Index of the run in the batch.
        run: usize,
        /// Positions in the state.
        past: usize,
        /// Positions asked for.
        new: usize,
        /// Positions allowed.
        context: usize,
    },
    /// A state or a span that was made by a model of another geometry.
    #[error(
        "run {run}: the state or span has {found} layers × key width, but this model has \
         {expected}; make it with this model"
    )]
    OtherModel {
        /// Index of the run in the batch.
        run: usize,
        /// Layers and key width found.
        found: String,
        /// Layers and key width of the model.
        expected: String,
    },
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

impl Model {
    /// Runs the tokens of all `runs` through the decoder and appends them to their states.
    ///
    /// Linear layers work on the rows of all runs together; attention works run by run. A run's
    /// result does not depend on the rest of the batch beyond rounding. Long runs are cut into
    /// chunks, so that working memory does not grow with them. Uses the current rayon pool.
    ///
    /// Returns one [`Logits`] for each run, in order.
    ///
    /// # Errors
    /// See [`ForwardError`]. Everything is checked before any state changes.
    pub fn forward(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        let _ = runs;
        unimplemented!()
    }
}
