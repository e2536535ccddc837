//! A model on whatever computes it: the CPU's kernels, or the graph on a device.
//!
//! [`Decoder`], [`State`], [`Run`] and [`Span`] are those of [`crate::Model`] or of
//! [`crate::graph::Graph`]; a state or span of one does not go with the other.

mod graph_runs;

use std::ops::Range;

use cart_format::ArchSpec;
use thiserror::Error;

use crate::forward::{ForwardError, Logits, LogitsFor};
use crate::graph::{Graph, GraphSpan, GraphState, Tensor};
use crate::kernel::KernelLevel;
use crate::kv::{KvFormat, KvFormatError};
use crate::model::{Model, WeightBytes};
use crate::saved::{RestoreStateError, SavedState};
use crate::span::SpanKv;
use crate::taps::Taps;
use crate::{state, state::TruncateError};

/// A model on whatever computes it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each cartridge")]
pub enum Decoder {
    /// The CPU's kernels, on weights as they are stored.
    Kernels(Model),
    /// The graph, on its device.
    Graph(Graph),
}

/// What a session has read so far: a value. Clone it to fork, truncate it to go back.
#[derive(Clone, Debug)]
pub enum State {
    /// Of the CPU's kernels.
    Kernels(state::State),
    /// Of the graph.
    Graph(GraphState),
}

/// Keys before rotation, and values, of a span that was read alone.
#[derive(Clone, Debug)]
pub enum Span {
    /// Of the CPU's kernels.
    Kernels(SpanKv),
    /// Of the graph.
    Graph(GraphSpan),
}

/// Tokens for one session.
pub struct Run<'a> {
    /// What the session has read; the tokens are appended.
    pub state: &'a mut State,
    /// One or more token ids, under the vocabulary's size.
    pub tokens: &'a [u32],
    /// Rows that need logits.
    pub logits: LogitsFor,
    /// Listener on the hidden states of this run.
    pub taps: Option<&'a mut dyn Taps>,
}

/// Why saved tensors don't make a state of a model.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// They don't fit the model.
    #[error(transparent)]
    State(#[from] RestoreStateError),
    /// The tensor library failed.
    #[error("the saved state can't be put on the device")]
    Tensor(#[from] candle_core::Error),
}

impl Decoder {
    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        match self {
            Self::Kernels(model) => model.spec(),
            Self::Graph(graph) => graph.spec(),
        }
    }

    /// Bytes of the weights, by where they are.
    pub fn weight_bytes(&self) -> WeightBytes {
        match self {
            Self::Kernels(model) => model.weight_bytes(),
            Self::Graph(graph) => WeightBytes { copied: graph.bytes(), ..WeightBytes::default() },
        }
    }

    /// Bytes of weights that one token reads; of the graph, all of them.
    pub fn token_bytes(&self) -> u64 {
        match self {
            Self::Kernels(model) => model.token_bytes(),
            Self::Graph(graph) => graph.bytes(),
        }
    }

    /// The level of the CPU's kernels; none where the graph computes.
    pub fn kernel_level(&self) -> Option<KernelLevel> {
        match self {
            Self::Kernels(model) => Some(model.kernel_level()),
            Self::Graph(_) => None,
        }
    }

    /// An empty state, with keys and values as they are computed.
    pub fn new_state(&self) -> State {
        match self {
            Self::Kernels(model) => State::Kernels(model.new_state()),
            Self::Graph(graph) => State::Graph(graph.new_state(1)),
        }
    }

    /// An empty state, with keys and values in `format`. The graph keeps them as it computes them.
    ///
    /// # Errors
    /// The format does not suit the heads of a layer.
    pub fn new_state_in(&self, format: KvFormat) -> Result<State, KvFormatError> {
        match self {
            Self::Kernels(model) => Ok(State::Kernels(model.new_state_in(format)?)),
            Self::Graph(_) => Ok(self.new_state()),
        }
    }

    /// Runs the tokens of all `runs` through the decoder and appends them to their states. Returns
    /// one [`Logits`] for each run, in order.
    ///
    /// By the CPU's kernels, a run's result is bit for bit what it would be without the others; by
    /// the graph, up to the order of sums.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub fn forward(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        let model = match self {
            Self::Kernels(model) => model,
            Self::Graph(graph) => return graph_runs::forward(graph, runs),
        };
        let own = |(index, run): (usize, &'_ mut Run<'_>)| match run.state {
            State::Kernels(_) => Ok(()),
            State::Graph(_) => Err(ForwardError::OtherDecoder { run: index }),
        };
        runs.iter_mut().enumerate().try_for_each(own)?;
        let mut runs: Vec<crate::Run<'_>> = runs.iter_mut().filter_map(of_kernels).collect();
        model.forward(&mut runs)
    }

    /// Whether spans can be put into its states: no layer is recurrent, so every position is kept
    /// as keys and values.
    pub fn takes_spans(&self) -> bool {
        match self {
            Self::Kernels(model) => model.takes_spans(),
            Self::Graph(graph) => graph.takes_spans(),
        }
    }

    /// Reads `tokens` alone, attending only to themselves and to `sink` before them, and keeps keys
    /// and values of `tokens`, not of `sink`.
    ///
    /// # Errors
    /// As [`Decoder::forward`]; or a layer is recurrent.
    pub fn encode_span(&self, sink: &[u32], tokens: &[u32]) -> Result<Span, ForwardError> {
        match self {
            Self::Kernels(model) => model.encode_span(sink, tokens).map(Span::Kernels),
            Self::Graph(graph) => graph.encode_span(sink, tokens).map(Span::Graph),
        }
    }

    /// Appends a span to `state`, its keys rotated to the state's next positions.
    ///
    /// * `bias`: added to the scores of the span's positions before softmax, in every layer
    ///
    /// # Errors
    /// The span or the state is of another geometry or decoder, the context is full, or a layer is
    /// recurrent.
    pub fn push_span(&self, state: &mut State, span: &Span, bias: f32) -> Result<(), ForwardError> {
        match (self, state, span) {
            (Self::Kernels(model), State::Kernels(state), Span::Kernels(span)) => {
                model.push_span(state, span, bias)
            }
            (Self::Graph(graph), State::Graph(state), Span::Graph(span)) => {
                let full = || Tensor::full(bias, span.len, graph.device());
                let bias = (bias != 0.0).then(full).transpose()?;
                graph.push_span(state, span, bias.as_ref())
            }
            _ => Err(ForwardError::OtherDecoder { run: 0 }),
        }
    }

    /// The state that was saved. That it is of these weights is for the caller to know.
    ///
    /// # Errors
    /// Tensors are missing, too many, or of another geometry, or there are no positions.
    pub fn restore_state(&self, saved: &SavedState) -> Result<State, RestoreError> {
        match self {
            Self::Kernels(model) => Ok(State::Kernels(model.restore_state(saved)?)),
            Self::Graph(graph) => Ok(State::Graph(graph.restore_state(saved)?)),
        }
    }
}

impl State {
    /// Positions in the state.
    pub fn len(&self) -> usize {
        match self {
            Self::Kernels(state) => state.len(),
            Self::Graph(state) => state.len(),
        }
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every position from `len` on. Does nothing where there are no more than that.
    ///
    /// # Errors
    /// A layer is recurrent and `len` is not 0. The state is as it was.
    pub fn truncate(&mut self, len: usize) -> Result<(), TruncateError> {
        match self {
            Self::Kernels(state) => state.truncate(len),
            Self::Graph(state) => state.truncate(len),
        }
    }

    /// Has nothing attend any more to positions that a span with a bias was pushed to.
    ///
    /// # Errors
    /// The device fails.
    ///
    /// # Panics
    /// There are no such positions.
    pub fn hush(&mut self, positions: Range<usize>) -> Result<(), ForwardError> {
        match self {
            Self::Kernels(state) => state.hush(positions),
            Self::Graph(state) => state.hush(positions)?,
        }
        Ok(())
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Kernels(state) => state.bytes(),
            Self::Graph(state) => state.bytes(),
        }
    }

    /// Bytes that it takes and `other` does not. States of the graph are counted whole, as tensors
    /// that grow are made anew.
    pub fn bytes_beyond(&self, other: &Self) -> usize {
        match (self, other) {
            (Self::Kernels(state), Self::Kernels(other)) => state.bytes_beyond(other),
            (state, _) => state.bytes(),
        }
    }

    /// The state as named tensors, the same for both decoders.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn save(&self) -> Result<SavedState, candle_core::Error> {
        match self {
            Self::Kernels(state) => Ok(state.save()),
            Self::Graph(state) => state.save(),
        }
    }
}

impl Span {
    /// Positions in the span.
    pub fn len(&self) -> usize {
        match self {
            Self::Kernels(span) => span.len(),
            Self::Graph(span) => span.len,
        }
    }

    /// Whether the span has no positions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Kernels(span) => span.bytes(),
            Self::Graph(span) => span.bytes(),
        }
    }
}

fn of_kernels<'a>(run: &'a mut Run<'_>) -> Option<crate::Run<'a>> {
    let State::Kernels(state) = &mut *run.state else { return None };
    let taps = run.taps.as_mut().map(|taps| &mut **taps as &mut dyn Taps);
    Some(crate::Run { state, tokens: run.tokens, logits: run.logits, taps })
}
