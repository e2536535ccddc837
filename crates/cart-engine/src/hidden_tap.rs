//! Where memory listens to the model, and steers it.

use cart_nn::Taps;

/// Keeps the hidden states after one layer, for every position of a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HiddenTap {
    layer: usize,
    rows: Vec<f32>,
    /// What is added to the hidden states after they were seen.
    shift: Option<Vec<f32>>,
}

impl HiddenTap {
    pub(crate) fn new(layer: usize) -> Self {
        Self { layer, rows: Vec::new(), shift: None }
    }

    /// As this tap, but with a shift, `[hidden_size]`.
    pub(crate) fn shifted(self, shift: Option<Vec<f32>>) -> Self {
        Self { shift, ..self }
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
    }

    fn after_layer(&mut self, layer: usize, _first_position: usize, hidden: &[f32]) {
        if layer == self.layer {
            self.rows.extend_from_slice(hidden);
        }
    }

    fn shift(&self, layer: usize) -> Option<&[f32]> {
        self.shift.as_deref().filter(|_| layer == self.layer)
    }
}
