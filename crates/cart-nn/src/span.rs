//! Spans of text as keys and values that can be put at any position.

use crate::forward::ForwardError;
use crate::model::Model;
use crate::state::State;

/// Keys before `RoPE`, and values, of a span that was read alone.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanKv {}

impl SpanKv {
    /// Positions in the span.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Whether the span has no positions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Model {
    /// Reads `tokens` alone, attending only to themselves and to `sink` before them (often only
    /// the start token, or nothing), and keeps keys and values of `tokens`, not of `sink`.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn encode_span(&self, sink: &[u32], tokens: &[u32]) -> Result<SpanKv, ForwardError> {
        let _ = (sink, tokens);
        unimplemented!()
    }

    /// Appends a span to `state`, its keys rotated to the state's next positions.
    ///
    /// `bias` is added to the scores of the span's positions before softmax, in every layer; memory
    /// passes `ln(σ(A) · energy · decay + ε)`. Zero is exactly no change.
    ///
    /// # Errors
    /// The span or the state is of another geometry, or the context is full.
    pub fn push_span(
        &self,
        state: &mut State,
        span: &SpanKv,
        bias: f32,
    ) -> Result<(), ForwardError> {
        let _ = (state, span, bias);
        unimplemented!()
    }
}
