//! What a question recalls, as gates are trained on it.

use cart_memory::SlotRef;

use super::prefix::{header, separator, usual_bias};
use super::{EncodeError, MemoryLoopError};
use crate::agent::Agent;
use crate::options::PrefixOptions;

/// Spans that would stand before a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecalledSpans {
    /// What stands before them.
    pub header: Vec<u32>,
    /// In the order in which they stand: the best last.
    pub spans: Vec<RecalledSpan>,
    /// Added to the scores of each beside `ln(σ(A) · weight + ε)`.
    pub offset: f32,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct RecalledSpan {
    /// The slot.
    pub slot: SlotRef,
    /// Its tokens, with what stands after it.
    pub tokens: Vec<u32>,
    /// `energy · decay` of the slot.
    pub weight: f32,
}

impl Agent {
    /// What a question recalls.
    ///
    /// # Errors
    /// The question has no tokens, the memory refuses, or the model fails.
    pub fn recalled_spans(
        &self,
        question: &str,
        options: &PrefixOptions,
    ) -> Result<RecalledSpans, RecalledError> {
        let Some(memory) = self.memory() else { return Ok(RecalledSpans::default()) };
        let query = self.memory_query(question)?;
        let hits = memory.peek_tokens(memory.now(), query.tokens(), options.top_k);
        let mut hits = hits.map_err(MemoryLoopError::from)?;
        hits.retain(|hit| hit.cosine >= options.min_score && !hit.token_ids.is_empty());
        let after = separator(self)?;
        let span = |hit: &cart_memory::Recalled| {
            let slot = memory.slot(hit.slot)?;
            let tokens = [hit.token_ids.as_slice(), &after].concat();
            Some(RecalledSpan { slot: hit.slot, tokens, weight: slot.energy * hit.decay })
        };
        Ok(RecalledSpans {
            header: header(self)?,
            spans: hits.iter().rev().filter_map(span).collect(),
            offset: options.attention_bias - usual_bias(),
        })
    }
}

/// Why a question recalls nothing that could be said.
#[derive(Debug, thiserror::Error)]
pub enum RecalledError {
    /// The question can't be brought into the memory's space.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The memory refuses, or the model fails.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
}
