//! What a session gives out.

use cart_format::TokenLogprob;

use crate::agent::Agent;
use crate::event::FinishReason;
use crate::stop::StopFilter;
use crate::text_stream::TextStream;
use crate::tokenizer::{ShowSpecial, TokenizerError};

/// Text and numbers of the tokens so far.
#[derive(Clone, Debug)]
pub(super) struct Output {
    stream: TextStream,
    stops: StopFilter,
    text: String,
    logprobs: Vec<f64>,
    top_logprobs: Vec<Vec<TokenLogprob>>,
}

impl Output {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            stream: TextStream::new(ShowSpecial::No),
            stops: StopFilter::new(stops),
            text: String::new(),
            logprobs: Vec::new(),
            top_logprobs: Vec::new(),
        }
    }

    /// Takes in a token and gives the text that may be shown, and whether a stop string came.
    ///
    /// * `ends`: whether and why this is the last token
    pub(super) fn push(
        &mut self,
        agent: &Agent,
        token: u32,
        logprob: f64,
        top_logprobs: &[TokenLogprob],
        ends: Option<FinishReason>,
    ) -> Result<(String, bool), TokenizerError> {
        self.logprobs.push(logprob);
        if !top_logprobs.is_empty() {
            self.top_logprobs.push(top_logprobs.to_vec());
        }
        let Some(tokenizer) = agent.tokenizer() else { return Ok((String::new(), false)) };
        // The token that ends a text is not part of it, whether or not it is a special one.
        let mut piece = match ends {
            Some(FinishReason::Eos) => String::new(),
            _ => self.stream.push(tokenizer, token)?,
        };
        if ends.is_some() {
            piece += &self.stream.flush(tokenizer)?;
        }
        let mut passed = self.stops.push(&piece);
        if ends.is_some() && !passed.stopped {
            passed.text += &self.stops.flush();
        }
        self.text += &passed.text;
        Ok((passed.text, passed.stopped))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether no half of a character is held back.
    pub(super) fn is_whole(&self) -> bool {
        self.stream.is_whole()
    }

    /// The same output, to be continued with tokens of another tokenizer.
    pub(super) fn resumed(&self, agent: &Agent, tokens: &[u32]) -> Result<Self, TokenizerError> {
        let mut resumed = self.clone();
        if let Some(tokenizer) = agent.tokenizer() {
            resumed.stream = TextStream::after(tokenizer, ShowSpecial::No, tokens)?;
        }
        Ok(resumed)
    }

    pub(super) fn into_parts(self) -> (String, Vec<f64>, Vec<Vec<TokenLogprob>>) {
        (self.text, self.logprobs, self.top_logprobs)
    }
}
