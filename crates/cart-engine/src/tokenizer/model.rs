//! The part of a tokenizer that cuts words into tokens.

use tokenizers::{Model as _, ModelWrapper, Token};

use super::bpe::Bpe;
use super::unigram::Unigram;

/// The ways of doing it.
#[derive(Debug)]
pub(super) enum Model {
    /// Byte pair encoding.
    Bpe(Bpe),
    /// The likeliest pieces.
    Unigram(Unigram),
    /// Some other way of the `tokenizers` library.
    Other(Box<ModelWrapper>),
}

impl Model {
    /// The tokens of one word, with ranges in its bytes.
    pub(super) fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Bpe(model) => Ok(model.tokenize(word)),
            Self::Unigram(model) => Ok(model.tokenize(word)),
            Self::Other(model) => model.tokenize(word),
        }
    }

    /// The text of a token.
    pub(super) fn text(&self, id: u32) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Bpe(model) => model.pieces.text(id).map(Into::into),
            Self::Unigram(model) => model.pieces().text(id).map(Into::into),
            Self::Other(model) => model.id_to_token(id).map(Into::into),
        }
    }

    /// One more than the largest id, 0 without tokens.
    pub(super) fn end(&self) -> usize {
        match self {
            Self::Bpe(model) => model.pieces.end(),
            Self::Unigram(model) => model.pieces().end(),
            Self::Other(model) => {
                let largest = model.get_vocab().into_values().max();
                largest.map_or(0, |largest| largest as usize + 1)
            }
        }
    }
}
