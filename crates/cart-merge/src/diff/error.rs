//! Why a comparison stopped.

use thiserror::Error;

use crate::weights::{Trouble, VocabularyError};

/// Why a comparison stopped.
#[derive(Debug, Error)]
pub enum DiffError {
    /// A tensor can't be read.
    #[error("tensor `{tensor}` of {side} can't be read: {source}")]
    Source {
        /// Which of the two: `A` or `B`.
        side: char,
        /// The tensor.
        tensor: String,
        /// What the source of tensors said.
        source: Trouble,
    },
    /// A tokenizer's document is none.
    #[error("the tokenizer of {side} {source}")]
    Tokenizer {
        /// Which of the two: `A` or `B`.
        side: char,
        /// What is wrong with it.
        source: VocabularyError,
    },
    /// The watch said so.
    #[error("cancelled; nothing was changed")]
    Cancelled,
}
