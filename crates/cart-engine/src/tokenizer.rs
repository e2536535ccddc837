//! Text to token ids and back, by the cartridge's own `tokenizer.json`.
//!
//! Normalizers, pre-tokenizers and the rarer models are those of the `tokenizers` library;
//! vocabulary, BPE, Unigram, added tokens and the usual decoders are here, for how fast they load
//! and so that special tokens can be recognized in one part of a text and not in another.

mod added;
mod bpe;
mod decoding;
mod document;
mod lists;
mod model;
mod pieces;
mod unigram;

use std::borrow::Cow;
use std::error::Error;
use std::ops::Range;
use std::sync::OnceLock;

use cart_format::SpecialTokens;
use thiserror::Error;
use tokenizers::{
    Decoder as _, Normalizer as _, OffsetType, PreTokenizedString, PreTokenizer as _,
};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use self::added::{Added, Recognize};
use self::decoding::Decoding;
use self::document::Document;
use self::model::Model;
use crate::chat::SpecialTexts;

/// What the tokenizer library says about its own failure.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a tokenizer can't be used, or a text can't be tokenized.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The document is not a tokenizer.
    #[error("the tokenizer document can't be read; pack the model again with its own tokenizer")]
    Unreadable(#[source] Cause),
    /// The tokenizer has tokens that the model has no embedding for.
    #[error(
        "the tokenizer has token ids up to {largest}, but the model has embeddings for {embeddings}; they do not belong together"
    )]
    TooLarge {
        /// The largest id.
        largest: u32,
        /// Rows of the model's embedding.
        embeddings: u64,
    },
    /// A token with a role that the model has no embedding for.
    #[error("the {role} token is {token}, but the model has embeddings for {embeddings}")]
    SpecialOutOfRange {
        /// Its role.
        role: &'static str,
        /// Its id.
        token: u32,
        /// Rows of the model's embedding.
        embeddings: u64,
    },
    /// A text can't be tokenized.
    #[error("a text of {bytes} bytes can't be tokenized")]
    Encode {
        /// Its length.
        bytes: usize,
        /// What the library said.
        #[source]
        source: Cause,
    },
    /// Tokens can't be turned into text.
    #[error("{tokens} tokens can't be turned into text")]
    Decode {
        /// How many.
        tokens: usize,
        /// What the library said.
        #[source]
        source: Cause,
    },
}

/// Whether special tokens that are spelled out in a text are recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseSpecial {
    /// `<|im_end|>` is one token.
    Yes,
    /// `<|im_end|>` is ordinary text.
    No,
}

/// Whether special tokens are shown when tokens are turned into text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowSpecial {
    /// They are spelled out.
    Yes,
    /// They are left out.
    No,
}

/// A tokenizer, with the tokens that have a role.
pub struct Tokenizer {
    added: Added,
    normalizer: Option<NormalizerWrapper>,
    /// Cuts a text into words.
    words: Option<PreTokenizerWrapper>,
    model: Model,
    decoding: Decoding,
    special: SpecialTokens,
    /// Made when the first conversation asks for it.
    special_texts: OnceLock<SpecialTexts>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("special", &self.special).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` document. Its truncation, padding and post-processor are passed
    /// over: they are a batch's business, or a prompt's (see [`Tokenizer::encode_prompt`]).
    ///
    /// # Errors
    /// It is not one.
    pub fn new(document: &[u8], special: SpecialTokens) -> Result<Self, TokenizerError> {
        let unreadable = |error: serde_json::Error| TokenizerError::Unreadable(error.into());
        let (parts, model) = Document::parse(document).map_err(unreadable)?.take_model();
        let model = Document::model(model, &parts.added_tokens, document)
            .map_err(TokenizerError::Unreadable)?;
        let added = Added::new(parts.added_tokens, parts.normalizer.as_ref())
            .map_err(TokenizerError::Unreadable)?;
        let decoding = Decoding::new(parts.decoder).map_err(unreadable)?;
        let (normalizer, words) = (parts.normalizer, parts.pre_tokenizer);
        let special_texts = OnceLock::new();
        Ok(Self { added, normalizer, words, model, decoding, special, special_texts })
    }

    /// Refuses a model that lacks embeddings for some of the tokens.
    ///
    /// # Errors
    /// A token id is not under `embeddings`.
    pub fn check_embeddings(&self, embeddings: u64) -> Result<(), TokenizerError> {
        let added = self.added.iter().map(|token| token.id);
        let largest = added.chain((self.model.end() as u32).checked_sub(1)).max();
        if let Some(largest) = largest.filter(|&largest| u64::from(largest) >= embeddings) {
            return Err(TokenizerError::TooLarge { largest, embeddings });
        }
        let roles = [
            ("begin-of-text", self.special.bos),
            ("padding", self.special.pad),
            ("unknown", self.special.unk),
        ];
        let eos = self.special.eos.iter().map(|&token| ("end-of-text", token));
        let roles = roles.into_iter().filter_map(|(role, token)| Some((role, token?))).chain(eos);
        for (role, token) in roles {
            if u64::from(token) >= embeddings {
                return Err(TokenizerError::SpecialOutOfRange { role, token, embeddings });
            }
        }
        Ok(())
    }

    /// The tokens of a text. Nothing is put before or after it.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub fn encode(&self, text: &str, special: ParseSpecial) -> Result<Vec<u32>, TokenizerError> {
        let tokens = self.encode_with_ranges(text, special)?;
        Ok(tokens.into_iter().map(|(token, _)| token).collect())
    }

    /// The tokens of a text, each with the bytes that it stands for.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub fn encode_with_ranges(
        &self,
        text: &str,
        special: ParseSpecial,
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        self.recognizing(
            text,
            match special {
                ParseSpecial::Yes => Recognize::Outside(&[]),
                ParseSpecial::No => Recognize::None,
            },
        )
    }

    /// The tokens of a text, each with the bytes that it stands for. Special tokens that are
    /// spelled out are recognized, but where they touch one of the `literal` bytes they are
    /// ordinary text.
    ///
    /// * `literal`: sorted, apart from each other
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub fn encode_except(
        &self,
        text: &str,
        literal: &[Range<usize>],
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        self.recognizing(text, Recognize::Outside(literal))
    }

    /// The tokens of a prompt: as [`Tokenizer::encode`] with special tokens recognized, after the
    /// begin-of-text token where the cartridge asks for one and the text does not begin with it.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text, ParseSpecial::Yes)?;
        if let Some(bos) = self.special.bos.filter(|_| self.special.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of tokens. Bytes that are no text become `�`.
    ///
    /// # Errors
    /// The tokenizer fails on them.
    pub fn decode(&self, ids: &[u32], show: ShowSpecial) -> Result<String, TokenizerError> {
        let fail = |source| TokenizerError::Decode { tokens: ids.len(), source };
        let (mut bytes, mut text) = (Vec::new(), String::new());
        match &self.decoding {
            Decoding::Other(decoder) => decoder.decode(self.texts(ids, show)).map_err(fail),
            Decoding::Spaced => Ok(self.texts(ids, show).join(" ")),
            decoding => {
                for &id in ids {
                    self.push_bytes(id, show, &mut bytes);
                }
                if decoding.strips() && bytes.first() == Some(&b' ') {
                    bytes.remove(0);
                }
                decoding.drain(&mut bytes, true, &mut text);
                Ok(text)
            }
        }
    }

    /// The special tokens as they are spelled.
    pub(crate) fn special_texts(&self) -> &SpecialTexts {
        self.special_texts.get_or_init(|| {
            let special = self.added.iter().filter(|token| token.special);
            SpecialTexts::new(special.map(|token| token.content.as_str()))
        })
    }

    /// How tokens become text.
    pub(crate) fn decoding(&self) -> &Decoding {
        &self.decoding
    }

    /// Adds a token's bytes. False where tokens have no bytes of their own.
    pub(crate) fn push_bytes(&self, id: u32, show: ShowSpecial, bytes: &mut Vec<u8>) -> bool {
        match self.text_of(id, show) {
            Some(text) => self.decoding.bytes(&text, bytes),
            None => !matches!(self.decoding, Decoding::Other(_) | Decoding::Spaced),
        }
    }

    /// Whether a token is no part of a text: a special one, or one that ends it.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.is_eos(id) || self.added.token(id).is_some_and(|token| token.special)
    }

    /// Adds the bytes of a token as it is spelled, none for an id that is no token. None where tokens have no
    /// bytes of their own.
    pub(crate) fn bytes_of(&self, id: u32, bytes: &mut Vec<u8>) -> Option<()> {
        self.push_bytes(id, ShowSpecial::Yes, bytes).then_some(())
    }

    /// The bytes that a token adds to a text: none for one that is no part of a text, and for an id that
    /// is no token. Absent where the decoder needs other tokens to know.
    pub fn token_bytes(&self, token: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let known = self.push_bytes(token, ShowSpecial::No, &mut bytes);
        (known || self.is_special(token))
            .then(|| if self.is_special(token) { Vec::new() } else { bytes })
    }

    fn texts(&self, ids: &[u32], show: ShowSpecial) -> Vec<String> {
        ids.iter().filter_map(|&id| self.text_of(id, show)).map(Cow::into_owned).collect()
    }

    /// A token as it is spelled; none if it is not shown or there is no such token.
    fn text_of(&self, id: u32, show: ShowSpecial) -> Option<Cow<'_, str>> {
        match self.added.token(id) {
            Some(token) if token.special && show == ShowSpecial::No => None,
            Some(token) => Some(Cow::Borrowed(&token.content)),
            None => self.model.text(id),
        }
    }

    /// The text of one token, special tokens spelled out, for showing alternatives.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub fn token_text(&self, token: u32) -> Result<String, TokenizerError> {
        self.decode(&[token], ShowSpecial::Yes)
    }

    /// Tokens with a role.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether this token ends a text.
    pub fn is_eos(&self, token: u32) -> bool {
        self.special.eos.contains(&token)
    }

    fn recognizing(
        &self,
        text: &str,
        recognize: Recognize<'_>,
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let encoding = self
            .encoding(text, recognize)
            .map_err(|source| TokenizerError::Encode { bytes: text.len(), source })?;
        let ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    fn encoding(
        &self,
        text: &str,
        recognize: Recognize<'_>,
    ) -> tokenizers::Result<tokenizers::Encoding> {
        let mut parts = PreTokenizedString::from(text);
        parts.split(|_, part| Ok(self.added.split_raw(&part, recognize)))?;
        parts.split(|_, mut part| {
            if let Some(normalizer) = &self.normalizer {
                normalizer.normalize(&mut part)?;
            }
            Ok(self.added.split_normalized(&part, recognize))
        })?;
        if let Some(words) = &self.words {
            words.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| self.model.tokenize(part.get()))?;
        parts.into_encoding(None, 0, OffsetType::Byte)
    }
}
