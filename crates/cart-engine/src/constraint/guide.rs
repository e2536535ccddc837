//! The place of one generation in its grammar.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;

use super::{Constraint, ConstraintError, Vocabulary};
use crate::agent::Agent;
use crate::tokenizer::ParseSpecial;

/// The logit of a token that may not come: no probability, but still a number.
const FORBIDDEN: f32 = -1e30;

/// The place of one generation in its grammar.
pub(crate) struct Guide {
    constraint: Constraint,
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    /// What was said so far.
    said: Vec<u8>,
}

impl Clone for Guide {
    fn clone(&self) -> Self {
        Self {
            constraint: self.constraint.clone(),
            vocabulary: Arc::clone(&self.vocabulary),
            matcher: self.matcher.deep_clone(),
            said: self.said.clone(),
        }
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("said", &self.said.len()).finish_non_exhaustive()
    }
}

impl Guide {
    /// At the beginning of an answer.
    ///
    /// # Errors
    /// The grammar can't be compiled for the agent's tokens.
    pub(crate) fn start(agent: &Agent, constraint: &Constraint) -> Result<Self, ConstraintError> {
        constraint.grammar().check()?;
        let vocabulary = Arc::clone(agent.vocabulary()?);
        let matcher = constraint.begin(&vocabulary)?;
        Ok(Self { constraint: constraint.clone(), vocabulary, matcher, said: Vec::new() })
    }

    /// At the same place, in the tokens of another agent.
    ///
    /// # Errors
    /// The grammar can't be compiled for them, or what was said does not fit it in them.
    pub(crate) fn moved(&self, to: &Agent) -> Result<Self, ConstraintError> {
        let vocabulary = to.vocabulary()?;
        if Arc::ptr_eq(vocabulary, &self.vocabulary) {
            return Ok(self.clone());
        }
        let mut moved = Self::start(to, &self.constraint)?;
        let text = std::str::from_utf8(&self.said).map_err(|_| ConstraintError::SaidSoFar)?;
        let tokenizer = to.tokenizer().ok_or(ConstraintError::NoTokenizer)?;
        let tokens = tokenizer.encode(text, ParseSpecial::No)?;
        moved.matcher.consume_tokens(&tokens).map_err(|_| ConstraintError::SaidSoFar)?;
        moved.said.clone_from(&self.said);
        Ok(moved)
    }

    /// The logits with those of tokens that may not come taken away.
    ///
    /// # Errors
    /// No token may come.
    pub(crate) fn masked(&mut self, logits: &[f32]) -> Result<Vec<f32>, ConstraintError> {
        let dead_end = |reason: String| ConstraintError::DeadEnd { reason };
        let mask = self.matcher.compute_mask().map_err(|error| dead_end(error.to_string()))?;
        let mut masked = vec![FORBIDDEN; logits.len()];
        let mut some = false;
        mask.iter_set_entries(|token| {
            if let (Some(to), Some(&logit)) = (masked.get_mut(token), logits.get(token)) {
                *to = logit;
                some = true;
            }
        });
        if some { Ok(masked) } else { Err(dead_end("every one is ruled out".to_owned())) }
    }

    /// Goes on by a token that may come.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn take(&mut self, agent: &Agent, token: u32) -> Result<(), ConstraintError> {
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| ConstraintError::DeadEnd { reason: error.to_string() })?;
        if let Some(tokenizer) = agent.tokenizer().filter(|known| !known.is_special(token)) {
            tokenizer.bytes_of(token, &mut self.said).ok_or(ConstraintError::NoBytes)?;
        }
        Ok(())
    }

    /// Whether the text is whole and nothing can come after it.
    pub(crate) fn is_whole(&self) -> bool {
        self.matcher.is_stopped()
    }
}
