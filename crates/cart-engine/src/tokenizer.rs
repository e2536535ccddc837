//! Text to token ids and back, by the cartridge's own `tokenizer.json`.

use std::error::Error;
use std::ops::Range;

use cart_format::SpecialTokens;
use thiserror::Error;

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
    parsing: tokenizers::Tokenizer,
    /// The same, but reads special tokens as ordinary text.
    literal: tokenizers::Tokenizer,
    special: SpecialTokens,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("special", &self.special).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` document.
    ///
    /// # Errors
    /// It is not one.
    pub fn new(document: &[u8], special: SpecialTokens) -> Result<Self, TokenizerError> {
        let mut parsing =
            tokenizers::Tokenizer::from_bytes(document).map_err(TokenizerError::Unreadable)?;
        // Cutting and filling are a batch's business, and would silently lose text here.
        parsing.with_truncation(None).map_err(TokenizerError::Unreadable)?;
        parsing.with_padding(None);
        let mut literal = parsing.clone();
        literal.set_encode_special_tokens(true);
        Ok(Self { parsing, literal, special })
    }

    /// Refuses a model that lacks embeddings for some of the tokens.
    ///
    /// # Errors
    /// A token id is not under `embeddings`.
    pub fn check_embeddings(&self, embeddings: u64) -> Result<(), TokenizerError> {
        let largest = self.parsing.get_vocab(true).into_values().max().unwrap_or(0);
        if u64::from(largest) >= embeddings {
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
        Ok(self.encoding(text, special)?.get_ids().to_vec())
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
        let encoding = self.encoding(text, special)?;
        let ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
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
        self.parsing
            .decode(ids, show == ShowSpecial::No)
            .map_err(|source| TokenizerError::Decode { tokens: ids.len(), source })
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

    fn encoding(
        &self,
        text: &str,
        special: ParseSpecial,
    ) -> Result<tokenizers::Encoding, TokenizerError> {
        let tokenizer = match special {
            ParseSpecial::Yes => &self.parsing,
            ParseSpecial::No => &self.literal,
        };
        tokenizer
            .encode(text, false)
            .map_err(|source| TokenizerError::Encode { bytes: text.len(), source })
    }
}
