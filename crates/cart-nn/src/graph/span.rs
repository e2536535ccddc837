//! Spans as keys and values that can be put at any position of a state.

use candle_core::Tensor;

use super::Graph;
use super::forward::GraphRun;
use super::layer::Mixer;
use super::state::{GraphState, Kept};
use crate::forward::ForwardError;
use crate::state::{LayerShape, OtherLayers};

/// Keys before rotation, and values, of a span that was read alone. They may as well come from
/// elsewhere: gradients go through them.
#[derive(Clone)]
pub struct GraphSpan {
    /// Positions.
    pub len: usize,
    /// For each layer keys and values, `[batch, kv_heads, len, head_dim]`; none in a layer without
    /// attention.
    pub layers: Vec<Option<(Tensor, Tensor)>>,
}

impl std::fmt::Debug for GraphSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GraphSpan").field("len", &self.len).finish_non_exhaustive()
    }
}

impl GraphSpan {
    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.layers.iter().flatten().map(|(keys, values)| of(keys) + of(values)).sum()
    }

    fn shapes(&self) -> impl ExactSizeIterator<Item = LayerShape> {
        self.layers.iter().map(|layer| match layer.as_ref().map(|(keys, _)| keys.dims()) {
            Some(&[_, kv_heads, _, head_dim]) => LayerShape::Attention { kv_heads, head_dim },
            _ => LayerShape::Nothing,
        })
    }
}

impl Graph {
    /// Whether spans can be put into its states: no layer is recurrent.
    pub fn takes_spans(&self) -> bool {
        self.check_keys().is_ok()
    }

    fn check_keys(&self) -> Result<(), ForwardError> {
        let recurrent = |shape: &LayerShape| matches!(shape, LayerShape::Recurrent(_));
        match self.shapes.iter().position(recurrent) {
            Some(layer) => Err(ForwardError::NoKeys { layer }),
            None => Ok(()),
        }
    }

    /// Reads `tokens` alone, attending only to themselves and to `sink` before them, and keeps keys
    /// and values of `tokens`, not of `sink`.
    ///
    /// # Errors
    /// As [`Graph::hidden`]; or a layer is recurrent.
    pub fn encode_span(&self, sink: &[u32], tokens: &[u32]) -> Result<GraphSpan, ForwardError> {
        if tokens.is_empty() {
            return Err(ForwardError::Empty { run: 0 });
        }
        self.check_keys()?;
        let mut state = self.new_state(1);
        state.recording = true;
        let all = [sink, tokens].concat();
        self.hidden(&mut [GraphRun { state: &mut state, tokens: &all, taps: None }])?;
        let len = tokens.len();
        let layers = state.layers.into_iter().map(|layer| match layer.kept {
            Some(Kept::Attention { raw: Some(raw), values, .. }) => {
                Ok(Some((raw.narrow(2, sink.len(), len)?, values.narrow(2, sink.len(), len)?)))
            }
            _ => Ok(None),
        });
        Ok(GraphSpan { len, layers: layers.collect::<candle_core::Result<_>>()? })
    }

    /// Appends a span to `state`, its keys rotated to the state's next positions.
    ///
    /// * `bias`: added to the scores of the span's positions before softmax, in every layer,
    ///   `[len]`, `f32`; gradients go through it
    ///
    /// # Errors
    /// The span or the state is of another geometry, the context is full, or a layer is recurrent.
    pub fn push_span(
        &self,
        state: &mut GraphState,
        span: &GraphSpan,
        bias: Option<&Tensor>,
    ) -> Result<(), ForwardError> {
        self.check_keys()?;
        self.check_state(0, state, span.len)?;
        if let Some(what) = OtherLayers::between(span.shapes(), self.shapes.iter().copied()) {
            return Err(ForwardError::OtherModel { run: 0, what: what.into() });
        }
        let mut after = state.clone();
        let positions: Vec<usize> = (state.len..state.len + span.len).collect();
        after.advance(span.len, bias)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let Some((keys, values)) = &span.layers[index] else { continue };
            let Some(Mixer::Attention(attention)) = layer.mixer.as_ref().map(|layer| &layer.mixer)
            else {
                continue;
            };
            let rotated = match attention.rope {
                Some(rope) => {
                    let (batch, heads, len, head_dim) = keys.dims4()?;
                    let every: Vec<usize> = positions.repeat(batch * heads);
                    let rows = keys.contiguous()?.reshape((batch * heads * len, 1, head_dim))?;
                    let turns = self.turns(&self.ropes[rope], &every)?;
                    turns.rotate(&rows)?.reshape((batch, heads, len, head_dim))?
                }
                None => keys.clone(),
            };
            let raw = state.recording.then(|| keys.clone());
            after.layers[index].append(rotated, values.contiguous()?, raw)?;
        }
        *state = after;
        Ok(())
    }
}
