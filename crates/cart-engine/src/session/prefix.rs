//! Where prompts are cut, and what sessions share at the cuts.

use super::{PREFILL_CHUNK, Session};
use crate::agent::Agent;

impl Session {
    /// Where the tokens are cut next. It follows from the prompt alone, never from the sessions
    /// beside, so that sums are always taken in the same order.
    pub(super) fn next_cut(&self) -> usize {
        next_cut(self.cut, self.read)
    }

    /// Whether the state depends on the tokens alone.
    fn is_plain(&self) -> bool {
        self.memory.is_none() && self.bare.is_none()
    }

    /// Begins with what another session has read of the same prompt, if that is kept.
    pub(super) fn reuse(&mut self, agent: &Agent) {
        if !self.is_plain() {
            return;
        }
        let cuts = std::iter::successors(Some(next_cut(self.cut, 0)), |at| {
            (*at < self.tokens.len()).then(|| next_cut(self.cut, *at))
        });
        let cuts: Vec<usize> = cuts.collect();
        if let Some((state, read)) = agent.prefixes().find(&self.tokens, self.cut, &cuts) {
            (self.state, self.read) = (state, read);
        }
    }

    /// Keeps the state for other sessions, where the prompt was cut.
    ///
    /// * `first`: tokens that were read before the last step
    pub(super) fn leave(&self, agent: &Agent, first: usize) {
        let cut = self.read == next_cut(self.cut, first) && self.read < self.prompt.len();
        if cut && self.is_plain() && self.generated.is_empty() {
            agent.prefixes().keep(&self.tokens[..self.read], self.cut, first, &self.state);
        }
    }
}

/// Where a prompt that is cut at `cut` first is cut after `read`.
fn next_cut(cut: usize, read: usize) -> usize {
    let whole = |from: usize| from + ((read - from) / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
    if read < cut { whole(0).min(cut) } else { whole(cut) }
}
