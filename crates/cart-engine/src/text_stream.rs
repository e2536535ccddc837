//! Tokens to text, as they come.

use crate::tokenizer::{ShowSpecial, Tokenizer, TokenizerError};

/// What half a character looks like until the rest of it comes.
const REPLACEMENT: char = '\u{fffd}';

/// Turns tokens into text one at a time and never gives out half a character.
///
/// What it gives, joined, is what [`Tokenizer::decode`] makes of all tokens at once. Only the last
/// few tokens are decoded again at each step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextStream {
    show: ShowSpecial,
    /// Tokens whose text is not all out, after those before them that their text may depend on
    /// (some tokenizers drop the space that a text begins with).
    window: Vec<u32>,
    /// How many of the window's tokens are all out.
    context: usize,
    /// Bytes of the window's text that are out.
    out: usize,
}

impl TextStream {
    /// A stream that has seen nothing.
    pub fn new(show: ShowSpecial) -> Self {
        Self { show, window: Vec::new(), context: 0, out: 0 }
    }

    /// A stream that has given out the text of these tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn after(
        tokenizer: &Tokenizer,
        show: ShowSpecial,
        tokens: &[u32],
    ) -> Result<Self, TokenizerError> {
        // A few tokens are enough to put the next one inside a text and not at its start.
        let window = tokens[tokens.len().saturating_sub(4)..].to_vec();
        let out = tokenizer.decode(&window, show)?.len();
        Ok(Self { show, context: window.len(), window, out })
    }

    /// Takes the next token and gives the text that is certain now.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, TokenizerError> {
        self.window.push(token);
        let text = tokenizer.decode(&self.window, self.show)?;
        let certain = text.trim_end_matches(REPLACEMENT);
        let delta = certain.get(self.out..).unwrap_or_default().to_owned();
        self.out += delta.len();
        if certain.len() == text.len() && self.out == text.len() {
            self.slide(tokenizer)?;
        }
        Ok(delta)
    }

    /// Gives what was held back.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn flush(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = tokenizer.decode(&self.window, self.show)?;
        let delta = text.get(self.out..).unwrap_or_default().to_owned();
        *self = Self::new(self.show);
        Ok(delta)
    }

    /// Whether nothing is held back.
    pub fn is_whole(&self) -> bool {
        self.context == self.window.len()
    }

    /// Makes the tokens that have just been given out the context of the next ones.
    fn slide(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.out = tokenizer.decode(&self.window, self.show)?.len();
        Ok(())
    }
}
