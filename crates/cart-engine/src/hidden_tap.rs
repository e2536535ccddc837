//! Where memory listens to the model, and steers it.

use std::sync::Arc;

use cart_nn::Taps;
use cart_nn::graph::TensorError;

use crate::memory_layers::Attending;

/// Keeps the hidden states after one layer, for every position of a forward pass.
#[derive(Clone, Debug)]
pub(crate) struct HiddenTap {
    layer: usize,
    rows: Vec<f32>,
    /// What is added to the hidden states after they were seen.
    shift: Option<Vec<f32>>,
    /// Memory layers, with what they attend to.
    attending: Option<Arc<Attending>>,
    /// Whether nothing is read after what is read next, so that layers after this one need not run.
    ends: bool,
}

impl HiddenTap {
    pub(crate) fn new(layer: usize) -> Self {
        Self { layer, rows: Vec::new(), shift: None, attending: None, ends: false }
    }

    /// As this tap, but with a shift, `[hidden_size]`.
    pub(crate) fn shifted(self, shift: Option<Vec<f32>>) -> Self {
        Self { shift, ..self }
    }

    /// As this tap, but with memory layers.
    pub(crate) fn attending(self, attending: Option<Arc<Attending>>) -> Self {
        Self { attending, ..self }
    }

    /// As this tap, where nothing is read after what is read with it: only hidden states are wanted, and the state of the run is
    /// lost.
    pub(crate) fn ending(self) -> Self {
        Self { ends: true, ..self }
    }

    /// Hidden states since [`HiddenTap::clear`], `[positions, hidden_size]`, flat.
    pub(crate) fn rows(&self) -> &[f32] {
        &self.rows
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }
}

impl Taps for HiddenTap {
    fn wants(&self, layer: usize) -> bool {
        layer == self.layer
            || self.attending.as_ref().is_some_and(|attending| attending.follows(layer))
    }

    fn ends_after(&self) -> Option<usize> {
        self.ends.then_some(self.layer)
    }

    fn after_layer(&mut self, layer: usize, _first_position: usize, hidden: &[f32]) {
        if layer == self.layer {
            self.rows.extend_from_slice(hidden);
        }
    }

    fn shift(&self, layer: usize) -> Option<&[f32]> {
        self.shift.as_deref().filter(|_| layer == self.layer)
    }

    fn replaced(&mut self, layer: usize, hidden: &[f32]) -> Result<Option<Vec<f32>>, TensorError> {
        match &self.attending {
            Some(attending) => attending.after(layer, hidden),
            None => Ok(None),
        }
    }
}
