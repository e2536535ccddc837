//! Spans of text as keys and values that can be put at any position.

use crate::forward::{ForwardError, LogitsFor, Run};
use crate::kv::Recording;
use crate::model::Model;
use crate::state::{LayerCache, LayerShape, OtherLayers, State};

/// Keys before `RoPE`, and values, of a span that was read alone.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanKv {
    len: usize,
    layers: Vec<LayerSpan>,
}

/// What a span is in a layer.
#[derive(Clone, Debug, PartialEq)]
enum LayerSpan {
    /// Keys before rotation and values, `[len, kv_heads, head_dim]`.
    Attention { shape: LayerShape, keys: Vec<f32>, values: Vec<f32> },
    /// Nothing, in a layer without a mixer.
    Nothing,
}

impl SpanKv {
    /// Positions in the span.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no positions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        let of = |layer: &LayerSpan| match layer {
            LayerSpan::Attention { keys, values, .. } => {
                size_of_val(&keys[..]) + size_of_val(&values[..])
            }
            LayerSpan::Nothing => 0,
        };
        self.layers.iter().map(of).sum()
    }

    fn shapes(&self) -> impl ExactSizeIterator<Item = LayerShape> {
        self.layers.iter().map(|layer| match layer {
            LayerSpan::Attention { shape, .. } => *shape,
            LayerSpan::Nothing => LayerShape::Nothing,
        })
    }
}

impl Model {
    /// Whether spans can be put into its states: no layer is recurrent, so every position is kept
    /// as keys and values.
    pub fn takes_spans(&self) -> bool {
        self.check_keys().is_ok()
    }

    fn check_keys(&self) -> Result<(), ForwardError> {
        let recurrent = |shape| matches!(shape, LayerShape::Recurrent(_));
        match self.layer_shapes().position(recurrent) {
            Some(layer) => Err(ForwardError::NoKeys { layer }),
            None => Ok(()),
        }
    }

    /// Reads `tokens` alone, attending only to themselves and to `sink` before them (often only
    /// the start token, or nothing), and keeps keys and values of `tokens`, not of `sink`.
    ///
    /// # Errors
    /// As [`Model::forward`]; or a layer is recurrent.
    pub fn encode_span(&self, sink: &[u32], tokens: &[u32]) -> Result<SpanKv, ForwardError> {
        if tokens.is_empty() {
            return Err(ForwardError::Empty { run: 0 });
        }
        self.check_keys()?;
        let mut state = self.new_state();
        for layer in &mut state.layers {
            if let LayerCache::Attention(cache) = layer {
                cache.recording = Some(Recording::default());
            }
        }
        let all = [sink, tokens].concat();
        let run = Run { state: &mut state, tokens: &all, logits: LogitsFor::None, taps: None };
        self.forward(&mut [run])?;
        let shapes = self.layer_shapes();
        let layers = state.layers.into_iter().zip(shapes).map(|(layer, shape)| match layer {
            LayerCache::Attention(cache) => {
                let start = sink.len() * cache.shape().width();
                let Recording { keys, values } = cache.recording.unwrap_or_default();
                LayerSpan::Attention {
                    shape,
                    keys: keys[start..].to_vec(),
                    values: values[start..].to_vec(),
                }
            }
            LayerCache::Recurrent(_) | LayerCache::Nothing => LayerSpan::Nothing,
        });
        Ok(SpanKv { len: tokens.len(), layers: layers.collect() })
    }

    /// Appends a span to `state`, its keys rotated to the state's next positions.
    ///
    /// `bias` is added to the scores of the span's positions before softmax, in every layer; memory
    /// passes `ln(σ(A) · energy · decay + ε)`. Zero is exactly no change.
    ///
    /// # Errors
    /// The span or the state is of another geometry, the context is full, or a layer is recurrent.
    pub fn push_span(
        &self,
        state: &mut State,
        span: &SpanKv,
        bias: f32,
    ) -> Result<(), ForwardError> {
        self.check_keys()?;
        self.check_state(0, state, span.len)?;
        if let Some(what) = OtherLayers::between(span.shapes(), self.layer_shapes()) {
            return Err(ForwardError::OtherModel { run: 0, what: what.into() });
        }
        let positions = state.len..state.len + span.len;
        let tables: Vec<_> = self.ropes.iter().map(|rope| rope.table(positions.clone())).collect();
        let layers = state.layers.iter_mut().zip(&span.layers).zip(&self.layers);
        for ((cache, span), layer) in layers {
            let (LayerCache::Attention(cache), LayerSpan::Attention { keys, values, .. }) =
                (cache, span)
            else {
                continue;
            };
            let Some(attention) = layer.attention() else { continue };
            let mut rotated = keys.clone();
            if let Some(rope) = attention.rope {
                let rows = rotated.chunks_exact_mut(attention.key_width()).enumerate();
                rows.for_each(|(at, row)| tables[rope].rotate(at, row, attention.head_dim));
            }
            cache.append(&rotated, values);
            if let Some(recording) = &mut cache.recording {
                recording.keys.extend_from_slice(keys);
                recording.values.extend_from_slice(values);
            }
        }
        state.advance(span.len, bias);
        Ok(())
    }
}
