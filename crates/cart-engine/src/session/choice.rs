//! The choice of the next token.

use super::{Measured, Session, StepError};
use crate::agent::Agent;
use crate::constraint::Guide;
use crate::distribution;
use crate::event::{FinishReason, GenerateEvent, StepEvent};
use crate::sampling;

impl Session {
    /// Generates a token from logits that were saved, if there are any.
    pub(super) fn go_on(&mut self, agent: &Agent) -> Option<Result<StepEvent, StepError>> {
        let row = self.ready.take_if(|_| self.finished.is_none())?;
        if !cart_nn::logits::all_finite(&row) {
            return Some(Err(StepError::NotFinite { position: self.read }));
        }
        let chosen = self.choose(agent, &row, None);
        Some(chosen.map(|(token, event)| {
            self.tokens.push(token);
            StepEvent::Generated(event)
        }))
    }

    /// Chooses the next token from the logits of the last one.
    pub(super) fn choose(
        &mut self,
        agent: &Agent,
        row: &[f32],
        bare: Option<&[f32]>,
    ) -> Result<(u32, GenerateEvent), StepError> {
        let changed = match &mut self.memory {
            Some(memory) => memory.change(agent, (row, bare), &self.tokens, None)?,
            None => None,
        };
        let logits = changed.as_deref().unwrap_or(row);
        if self.entropy != Measured::Off {
            self.entropy = Measured::On(Some(distribution::entropy(logits)));
        }
        let allowed = self.guide.as_mut().map(|guide| guide.masked(logits)).transpose()?;
        let drawn_from = allowed.as_deref().unwrap_or(logits);
        let token = sampling::sample(drawn_from, &self.tokens, &self.options.sampling);
        if let Some(guide) = &mut self.guide {
            guide.take(agent, token)?;
        }
        if let Some(memory) = &mut self.memory {
            memory.after_choice(token, row, changed.as_deref(), bare);
        }
        let logprob = distribution::logprob(logits, token);
        let top_logprobs = distribution::top_logprobs(logits, self.options.top_logprobs);
        self.generated.push(token);
        self.let_go(token)?;
        let ends = self.ends(agent, token);
        let (text_delta, stopped) = self.output.push(agent, token, logprob, &top_logprobs, ends)?;
        if self.output.is_whole() {
            // With this token, which is yet to be put there.
            self.whole = self.tokens.len() + 1;
        }
        self.finished = if stopped { Some(FinishReason::Stop) } else { ends };
        let finished = self.finished;
        Ok((token, GenerateEvent { token, text_delta, logprob, top_logprobs, finished }))
    }

    /// Has memory let go of what was said with this token.
    fn let_go(&mut self, token: u32) -> Result<(), StepError> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        // The model that runs beside has the prefix where the goal is measured against it.
        let bare = self.bare.as_mut().filter(|_| memory.steers());
        let mut states: Vec<_> = std::iter::once(&mut self.state).chain(bare).collect();
        memory.let_go((&self.tokens, token), &mut states)?;
        Ok(())
    }

    /// Why the generation ends with this token, stop strings aside.
    fn ends(&self, agent: &Agent, token: u32) -> Option<FinishReason> {
        let eos = agent.tokenizer().is_some_and(|tokenizer| tokenizer.is_eos(token));
        if eos && !self.options.ignore_eos {
            return Some(FinishReason::Eos);
        }
        if self.guide.as_ref().is_some_and(Guide::is_whole) {
            return Some(FinishReason::Stop);
        }
        let enough = self.options.max_tokens.is_some_and(|most| self.generated.len() >= most);
        let full = self.state.len() + 1 >= agent.context_length();
        (enough || full).then_some(FinishReason::Length)
    }
}
