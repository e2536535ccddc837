//! A session written down, and continued.

use std::time::Duration;

use super::output::Output;
use super::{Measured, Session, StartError};
use crate::agent::Agent;
use crate::constraint::Guide;
use crate::event::FinishReason;
use crate::options::GenerateOptions;
use crate::session_section::{ResumeError, SaveSessionError, SavedSession};

impl Session {
    /// The session as a value that can be written down and continued in another process. The
    /// session itself goes on as before. What memory would still write is not in it.
    ///
    /// # Errors
    /// A part of the prompt has not been read.
    pub fn save(&self, agent: &Agent) -> Result<SavedSession, SaveSessionError> {
        let left = self.tokens.len() - self.read;
        if left > 1 || (left == 0) != self.ready.is_some() {
            let (read, total) = (self.read, self.tokens.len());
            return Err(SaveSessionError::PromptUnread { read, total });
        }
        Ok(SavedSession {
            basis: agent.basis(),
            tokens: self.tokens.clone(),
            read: self.read,
            state: self.state.save()?,
            logits: self.ready.clone(),
        })
    }

    /// Continues a saved session: the next token is the one that the session would have generated,
    /// or, with `more`, these tokens are read first. Memory takes no part beyond what is in the
    /// state already.
    ///
    /// # Errors
    /// The session is of another model or damaged, an option is out of its range, memory is asked
    /// for, or the context is full.
    pub fn resume(
        agent: &Agent,
        saved: &SavedSession,
        more: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self, StartError> {
        options.check()?;
        if options.memory.reads() || options.memory.write {
            return Err(StartError::ResumeWithMemory);
        }
        let mut tokens = saved.tokens.clone();
        tokens.extend_from_slice(more);
        check(agent, saved, &tokens)?;
        let state = agent.model().restore_state(&saved.state).map_err(ResumeError::from)?;
        let prefix = saved.state.positions - saved.read;
        let (found, context) = (tokens.len() + prefix, agent.context_length());
        if found >= context {
            return Err(StartError::PromptTooLong { found, context });
        }
        let mut output = Output::new(options.stop.clone());
        if more.is_empty() {
            output = output.resumed(agent, &tokens)?;
        }
        let guide =
            options.constraint.as_ref().map(|held| Guide::start(agent, held)).transpose()?;
        let ready = saved.logits.clone().filter(|_| more.is_empty());
        let nothing_to_do = ready.is_some() && options.max_tokens == Some(0);
        Ok(Self {
            options: options.clone(),
            prompt: tokens.clone(),
            generated: Vec::new(),
            read: saved.read,
            cut: saved.read,
            state,
            bare: None,
            query: tokens.clone(),
            whole: tokens.len(),
            entropy: Measured::Off,
            tokens,
            output,
            finished: nothing_to_do.then_some(FinishReason::Length),
            memory: None,
            guide,
            cell: agent.memory_cell().clone(),
            ready,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        })
    }
}

fn check(agent: &Agent, saved: &SavedSession, tokens: &[u32]) -> Result<(), StartError> {
    let (found, expected) = (saved.basis, agent.basis());
    if found != expected {
        return Err(ResumeError::OtherModel { found, expected }.into());
    }
    let vocab = agent.model().spec().vocab_size;
    if let Some(&token) = tokens.iter().find(|token| u64::from(**token) >= vocab) {
        return Err(ResumeError::TokenOutOfRange { token, vocab }.into());
    }
    match &saved.logits {
        Some(logits) if logits.len() as u64 != vocab => {
            let (found, expected) = (logits.len() * 4, vocab as usize * 4);
            Err(ResumeError::Logits { found, expected }.into())
        }
        _ => Ok(()),
    }
}
