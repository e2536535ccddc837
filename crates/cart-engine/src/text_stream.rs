//! Tokens to text, as they come.

use crate::tokenizer::{ShowSpecial, Tokenizer, TokenizerError};

/// What half a character looks like until the rest of it comes.
const REPLACEMENT: char = '\u{fffd}';

/// Turns tokens into text one at a time and never gives out half a character.
///
/// What it gives, joined, is what [`Tokenizer::decode`] makes of all tokens at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextStream {
    show: ShowSpecial,
    /// Whether any byte has come: the first may be a space that a text does not begin with.
    begun: bool,
    /// Bytes that are half a character.
    half: Vec<u8>,
    /// For tokenizers whose tokens have no bytes of their own.
    window: Window,
}

/// Tokens whose text is not all out, after those before them that their text may depend on. Only
/// these are decoded again at each step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    tokens: Vec<u32>,
    /// How many of the tokens are all out.
    context: usize,
    /// Bytes of the window's text that are out.
    out: usize,
}

impl TextStream {
    /// A stream that has seen nothing.
    pub fn new(show: ShowSpecial) -> Self {
        Self { show, begun: false, half: Vec::new(), window: Window::default() }
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
        let last = tokens[tokens.len().saturating_sub(4)..].to_vec();
        let out = tokenizer.decode(&last, show)?.len();
        let mut bytes = Vec::new();
        let begun = tokens
            .iter()
            .any(|&token| tokenizer.push_bytes(token, show, &mut bytes) && !bytes.is_empty());
        let window = Window { context: last.len(), tokens: last, out };
        Ok(Self { show, begun, half: Vec::new(), window })
    }

    /// Takes the next token and gives the text that is certain now.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        if !tokenizer.push_bytes(token, self.show, &mut bytes) {
            return self.window.push(tokenizer, self.show, token);
        }
        if !self.begun && tokenizer.decoding().strips() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
            self.begun = true;
        }
        self.begun |= !bytes.is_empty();
        self.half.extend(bytes);
        let mut text = String::new();
        tokenizer.decoding().drain(&mut self.half, false, &mut text);
        Ok(text)
    }

    /// Gives what was held back.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn flush(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let mut text = self.window.flush(tokenizer, self.show)?;
        tokenizer.decoding().drain(&mut self.half, true, &mut text);
        *self = Self::new(self.show);
        Ok(text)
    }

    /// Whether nothing is held back.
    pub fn is_whole(&self) -> bool {
        self.half.is_empty() && self.window.context == self.window.tokens.len()
    }
}

impl Window {
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        show: ShowSpecial,
        token: u32,
    ) -> Result<String, TokenizerError> {
        self.tokens.push(token);
        let text = tokenizer.decode(&self.tokens, show)?;
        let certain = text.trim_end_matches(REPLACEMENT);
        let delta = certain.get(self.out..).unwrap_or_default().to_owned();
        self.out += delta.len();
        if certain.len() == text.len() && self.out == text.len() {
            self.slide(tokenizer, show)?;
        }
        Ok(delta)
    }

    fn flush(
        &mut self,
        tokenizer: &Tokenizer,
        show: ShowSpecial,
    ) -> Result<String, TokenizerError> {
        let text = tokenizer.decode(&self.tokens, show)?;
        Ok(text.get(self.out..).unwrap_or_default().to_owned())
    }

    /// Makes the tokens that have just been given out the context of the next ones. A context that
    /// shows nothing would put them at the start of a text, so it is not made.
    fn slide(&mut self, tokenizer: &Tokenizer, show: ShowSpecial) -> Result<(), TokenizerError> {
        let out = tokenizer.decode(&self.tokens[self.context..], show)?.len();
        if out > 0 {
            self.tokens.drain(..self.context);
            self.out = out;
        }
        self.context = self.tokens.len();
        Ok(())
    }
}
