//! Memory layers at work in one session.

use std::sync::Arc;

use cart_memory::UnifiedMemory;
use cart_nn::decoder::{Run, State};
use cart_nn::graph::{Device, MemoryRows, MemorySpan, Tensor, TensorError};
use cart_nn::{ForwardError, LogitsFor, Taps};

use super::TrainedLayers;
use crate::agent::Agent;
use crate::memory_loop::{MemoryLoopError, header, usual_bias};
use crate::options::LayersOptions;

/// What the memory layers attend to in a session.
#[derive(Debug)]
pub(crate) struct Attending {
    layers: Arc<TrainedLayers>,
    rows: MemoryRows,
}

impl Attending {
    /// What the slots of a memory say, of those that weigh most as many as there is room for. None
    /// where the agent has no memory layers, or the memory no text.
    pub(crate) fn of(
        agent: &Agent,
        memory: &UnifiedMemory,
        options: &LayersOptions,
    ) -> Result<Option<Self>, MemoryLoopError> {
        let Some(layers) = agent.memory_layers() else { return Ok(None) };
        let chosen = chosen(memory, options.max_tokens);
        if chosen.is_empty() {
            return Ok(None);
        }
        let spans = spans(agent, layers, &chosen)?;
        let biased: Vec<(&MemorySpan, f32)> =
            spans.iter().zip(&chosen).map(|(span, (_, bias))| (&**span, *bias)).collect();
        let rows = layers.bound.of_spans(&biased).map_err(ForwardError::from)?;
        Ok(Some(Self { layers: Arc::clone(layers), rows }))
    }

    /// Tokens that are attended to.
    pub(crate) fn tokens(&self) -> usize {
        self.rows.count()
    }

    /// Whether a memory layer reads what comes out of this layer.
    pub(crate) fn follows(&self, layer: usize) -> bool {
        self.layers.indices.contains(&(layer + 1))
    }

    /// What comes out of a layer, with what the memory layer after it adds.
    ///
    /// * `hidden`: `[n, hidden_size]`, flat
    pub(crate) fn after(
        &self,
        layer: usize,
        hidden: &[f32],
    ) -> Result<Option<Vec<f32>>, TensorError> {
        if !self.follows(layer) {
            return Ok(None);
        }
        let width = self.layers.width;
        let shape = (1, hidden.len() / width, width);
        let hidden = Tensor::from_slice(hidden, shape, &Device::Cpu)?;
        let changed = self.layers.bound.apply(layer + 1, &hidden, &self.rows)?;
        changed.map(|changed| changed.flatten_all()?.to_vec1()).transpose()
    }
}

/// The tokens of the slots that say something now, those that weigh most first, with the bias of each:
/// 0 for a slot of usual weight. In the order in which they were made, so that equal memories are read
/// alike.
fn chosen(memory: &UnifiedMemory, most: usize) -> Vec<(Vec<u32>, f32)> {
    let now = memory.now();
    let holds = memory.slots().filter(|(_, slot)| {
        slot.validity.holds(now) && (1..=most).contains(&slot.value.token_ids.len())
    });
    let mut weighed: Vec<_> = holds
        .map(|(place, slot)| {
            (slot.bias(place.store, now, memory.config()), slot.refreshed, place, slot)
        })
        .collect();
    weighed.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    let (mut left, mut seen) = (most, std::collections::BTreeSet::new());
    let mut chosen = Vec::new();
    for (bias, refreshed, place, slot) in weighed {
        let tokens = &slot.value.token_ids;
        if tokens.len() <= left && seen.insert(tokens) {
            left -= tokens.len();
            chosen.push((refreshed, place, tokens.clone(), bias - usual_bias()));
        }
    }
    chosen.sort_by_key(|(refreshed, place, ..)| (*refreshed, *place));
    chosen.into_iter().map(|(_, _, tokens, bias)| (tokens, bias)).collect()
}

/// Keys and values of spans, of which only those are read that were not before.
fn spans(
    agent: &Agent,
    layers: &TrainedLayers,
    chosen: &[(Vec<u32>, f32)],
) -> Result<Vec<Arc<MemorySpan>>, MemoryLoopError> {
    let known: Vec<Option<Arc<MemorySpan>>> =
        chosen.iter().map(|(tokens, _)| layers.kept(tokens)).collect();
    let unread: Vec<&[u32]> = chosen
        .iter()
        .zip(&known)
        .filter(|(_, known)| known.is_none())
        .map(|((tokens, _), _)| tokens.as_slice())
        .collect();
    let mut read =
        agent.span_states(&unread, &layers.bound.indices().collect::<Vec<_>>())?.into_iter();
    let mut spans = Vec::with_capacity(chosen.len());
    for ((tokens, _), known) in chosen.iter().zip(known) {
        if let Some(span) = known {
            spans.push(span);
            continue;
        }
        let states = read.next().expect("every unread span was read");
        let tensors = states
            .into_iter()
            .map(|rows| Tensor::from_vec(rows, (tokens.len(), layers.width), &Device::Cpu));
        let tensors = tensors.collect::<Result<Vec<_>, _>>().map_err(ForwardError::from)?;
        let span = Arc::new(layers.bound.span(&tensors).map_err(ForwardError::from)?);
        layers.keep(tokens, &span);
        spans.push(span);
    }
    Ok(spans)
}

/// What a memory says, as memory layers that are yet to be trained would see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RememberedStates {
    /// For each layer what goes into it when the memory's spans are read, `[rows, hidden_size]`, flat.
    pub states: Vec<Vec<f32>>,
    /// Added to the scores of each row, `[rows]`: 0 for what weighs as usual.
    pub bias: Vec<f32>,
    /// The spans, in the order of their rows.
    pub spans: Vec<Vec<u32>>,
}

impl Agent {
    /// What memory layers beside `layers` would attend to now.
    ///
    /// * `layers`: from 1, ascending
    ///
    /// # Errors
    /// The tokenizer or the model fails.
    pub fn remembered_states(
        &self,
        layers: &[usize],
        options: &LayersOptions,
    ) -> Result<RememberedStates, MemoryLoopError> {
        let mut remembered =
            RememberedStates { states: vec![Vec::new(); layers.len()], ..Default::default() };
        let Some(memory) = self.memory() else { return Ok(remembered) };
        let chosen = chosen(&memory, options.max_tokens);
        let spans: Vec<&[u32]> = chosen.iter().map(|(tokens, _)| tokens.as_slice()).collect();
        for (states, (tokens, bias)) in self.span_states(&spans, layers)?.iter().zip(&chosen) {
            for (all, own) in remembered.states.iter_mut().zip(states) {
                all.extend_from_slice(own);
            }
            remembered.bias.extend(std::iter::repeat_n(*bias, tokens.len()));
            remembered.spans.push(tokens.clone());
        }
        Ok(remembered)
    }

    /// What goes into some layers when spans are read, each alone after what stands before recalled
    /// spans: for each span and layer `[tokens, hidden_size]`, flat.
    ///
    /// * `layers`: from 1, ascending
    ///
    /// # Errors
    /// The tokenizer or the model fails.
    fn span_states(
        &self,
        spans: &[&[u32]],
        layers: &[usize],
    ) -> Result<Vec<Vec<Vec<f32>>>, MemoryLoopError> {
        let header = header(self)?;
        let width = self.model().spec().hidden_size as usize;
        let texts: Vec<Vec<u32>> = spans.iter().map(|span| [&header, *span].concat()).collect();
        let mut taps: Vec<Inputs> = spans.iter().map(|_| Inputs::new(layers)).collect();
        let mut states: Vec<State> = spans.iter().map(|_| self.new_state()).collect();
        let mut runs: Vec<Run<'_>> = texts
            .iter()
            .zip(&mut states)
            .zip(&mut taps)
            .map(|((tokens, state), taps)| Run {
                state,
                tokens,
                logits: LogitsFor::None,
                taps: Some(taps),
            })
            .collect();
        if !runs.is_empty() {
            self.forward(&mut runs)?;
        }
        let of_span = |taps: Inputs| {
            let rows = taps.rows.into_iter();
            rows.map(|mut rows| rows.split_off(header.len() * width)).collect()
        };
        Ok(taps.into_iter().map(of_span).collect())
    }
}

/// Keeps what goes into some layers.
struct Inputs<'l> {
    layers: &'l [usize],
    rows: Vec<Vec<f32>>,
}

impl<'l> Inputs<'l> {
    fn new(layers: &'l [usize]) -> Self {
        Self { layers, rows: vec![Vec::new(); layers.len()] }
    }

    fn place(&self, layer: usize) -> Option<usize> {
        self.layers.iter().position(|&of| of == layer + 1)
    }
}

impl Taps for Inputs<'_> {
    fn wants(&self, layer: usize) -> bool {
        self.place(layer).is_some()
    }

    fn ends_after(&self) -> Option<usize> {
        self.layers.iter().max()?.checked_sub(1)
    }

    fn after_layer(&mut self, layer: usize, _first_position: usize, hidden: &[f32]) {
        if let Some(place) = self.place(layer) {
            self.rows[place].extend_from_slice(hidden);
        }
    }
}
