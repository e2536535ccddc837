//! A session that goes on with another agent.

use super::{Session, StartError, beside, in_conversation};
use crate::agent::Agent;
use crate::memory_loop::MemoryLoop;
use crate::options::{GenerateOptions, Prompt};
use crate::prompt_text::PromptText;
use crate::tokenizer::{ParseSpecial, ShowSpecial};

impl Session {
    /// Goes on with another agent: the text so far becomes its prompt. What was shown stays shown.
    /// On failure the session is as it was.
    ///
    /// * `from`: the agent that made the tokens so far
    ///
    /// # Errors
    /// The session stands inside a character, or the text does not suit the other agent.
    pub fn move_to(&mut self, from: &Agent, to: &Agent) -> Result<(), StartError> {
        if !self.at_boundary() {
            return Err(StartError::InsideCharacter);
        }
        let tokens = translate(from, to, &self.tokens)?;
        let query = translate(from, to, &self.query)?;
        let (found, context) = (tokens.len(), to.context_length());
        if found >= context {
            return Err(StartError::PromptTooLong { found, context });
        }
        let text = PromptText {
            tokens,
            query,
            told: Vec::new(),
            answer: "answer",
            continues: false,
            cut: 0,
        };
        let guide = self.guide.as_ref().map(|guide| guide.moved(to)).transpose()?;
        let mut state = to.new_state();
        let to = &in_conversation(to, &self.options)?;
        let memory = MemoryLoop::start(to, &text, 1, &self.options.memory, &mut state)?;
        let output = self.output.resumed(to, &text.tokens)?;
        self.bare = beside(to, memory.as_ref(), &self.options, &state);
        (self.state, self.memory, self.output) = (state, memory, output);
        (self.tokens, self.query, self.read) = (text.tokens, text.query, 0);
        (self.cut, self.ready, self.guide) = (0, None, guide);
        self.whole = self.tokens.len();
        self.cell = to.memory_cell().clone();
        Ok(())
    }

    /// Forgets the tokens of a character that is not whole, none of which was shown.
    ///
    /// # Errors
    /// It is inside a character, and its answer is held to a grammar, which has taken these tokens; or the tokenizer
    /// fails.
    pub(crate) fn go_back_to_boundary(&mut self, agent: &Agent) -> Result<(), StartError> {
        if self.at_boundary() {
            return Ok(());
        }
        if self.guide.is_some() {
            return Err(StartError::InsideCharacter);
        }
        let half = self.tokens.len() - self.whole;
        self.tokens.truncate(self.whole);
        self.generated.truncate(self.generated.len().saturating_sub(half));
        self.output = self.output.resumed(agent, &self.tokens)?;
        Ok(())
    }

    /// Another agent's answer to the first tokens of this session, as something to compare with: drawn as this one
    /// is, but neither remembered nor ended by a stop string.
    pub(crate) fn shadow(
        &self,
        from: &Agent,
        to: &Agent,
        tokens: usize,
    ) -> Result<Self, StartError> {
        let prompt = Prompt::Tokens(translate(from, to, &self.tokens[..tokens])?);
        let mut options = GenerateOptions {
            max_tokens: None,
            stop: Vec::new(),
            top_logprobs: 0,
            ..self.options.clone()
        };
        (options.memory.write, options.memory.session) = (false, None);
        let mut shadow = Self::start(to, &prompt, &options)?;
        shadow.measure_entropy(true);
        Ok(shadow)
    }

    /// Goes on with another agent of the same weights, loaded with the same options: keys and values stay as they
    /// are, and with them what was recalled before. Neighbours are from now on those of the other agent's memory,
    /// and what the session writes goes there. On failure the session goes on with the agent that it had.
    ///
    /// * `from`: the agent that made the tokens so far
    ///
    /// # Errors
    /// The agents differ in weights, architecture or tokenizer, or the other one's memory refuses.
    pub fn keep_on(&mut self, from: &Agent, to: &Agent) -> Result<(), StartError> {
        let (found, expected) = (from.basis(), to.basis());
        if found != expected {
            return Err(StartError::OtherWeights { found, expected });
        }
        let from = &from.with_cell(&self.cell);
        let to = &in_conversation(to, &self.options)?;
        if let Some(memory) = &mut self.memory {
            memory.turn_to(from, to, &self.query, &self.options.memory)?;
        }
        self.cell = to.memory_cell().clone();
        Ok(())
    }
}

/// Tokens of one agent as tokens of another: themselves where both have the same tokenizer, else
/// through their text.
fn translate(from: &Agent, to: &Agent, tokens: &[u32]) -> Result<Vec<u32>, StartError> {
    let document =
        |agent: &Agent| agent.manifest().tokenizer.as_ref().map(|tokenizer| tokenizer.document);
    if document(from) == document(to) {
        return Ok(tokens.to_vec());
    }
    let old = from.tokenizer().ok_or(StartError::NoTokenizer)?;
    let new = to.tokenizer().ok_or(StartError::NoTokenizer)?;
    Ok(new.encode(&old.decode(tokens, ShowSpecial::Yes)?, ParseSpecial::Yes)?)
}
