//! A cartridge's memory layers (spec 39): loaded, and attending to what memory says.

mod attending;
mod section;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cart_nn::graph::{MemoryLayers, MemorySpan};

pub(crate) use attending::Attending;
pub use attending::RememberedStates;
pub(crate) use section::read;
pub use section::{LayerTensor, MemoryLayersError, with_memory_layers, without_memory_layers};

/// Most bytes of spans that are kept as keys and values.
const KEPT_BYTES: usize = 64 << 20;

/// Memory layers as an agent has them.
#[derive(Debug)]
pub(crate) struct TrainedLayers {
    bound: MemoryLayers,
    /// The layers beside whose attention they stand, with a gate that is open.
    indices: Vec<usize>,
    /// Width of a hidden state.
    width: usize,
    spans: Mutex<Spans>,
}

/// What was read of spans, by their tokens.
#[derive(Debug, Default)]
struct Spans {
    kept: HashMap<Vec<u32>, Arc<MemorySpan>>,
    bytes: usize,
}

impl TrainedLayers {
    /// None where every gate is shut, so that the layers are not there.
    ///
    /// * `width`: of a hidden state
    fn new(bound: MemoryLayers, width: usize) -> Result<Option<Self>, MemoryLayersError> {
        let gates = bound.gates()?;
        let open = bound.indices().zip(gates).filter(|(_, gate)| *gate != 0.0);
        let indices: Vec<usize> = open.map(|(index, _)| index).collect();
        let spans = Mutex::default();
        Ok((!indices.is_empty()).then_some(Self { bound, indices, width, spans }))
    }

    fn kept(&self, tokens: &[u32]) -> Option<Arc<MemorySpan>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).kept.get(tokens).cloned()
    }

    /// Keeps a span for the next who asks; all others are let go of where there is no room.
    fn keep(&self, tokens: &[u32], span: &Arc<MemorySpan>) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = span.bytes();
        if spans.bytes + bytes > KEPT_BYTES {
            *spans = Spans::default();
        }
        if bytes <= KEPT_BYTES && spans.kept.insert(tokens.to_vec(), Arc::clone(span)).is_none() {
            spans.bytes += bytes;
        }
    }
}
