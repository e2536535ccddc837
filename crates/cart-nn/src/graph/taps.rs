//! Where memory and training reach into a pass.

use candle_core::{Result, Tensor};

/// Sees tensors of a pass and may put others in their place. Gradients go through what it gives.
/// The default changes nothing.
pub trait GraphTaps {
    /// Whether [`GraphTaps::after_layer`] is to be called after `layer`.
    ///
    /// Layers count from 0; the number of layers itself means the output of the final norm.
    fn wants(&self, layer: usize) -> bool {
        let _ = layer;
        false
    }

    /// The residual stream after `layer`, and what to go on with where that is something else.
    ///
    /// * `hidden`: `[batch, n, hidden_size]`, of consecutive positions from `first_position`
    ///
    /// # Errors
    /// A tensor operation failed.
    fn after_layer(
        &mut self,
        layer: usize,
        first_position: usize,
        hidden: &Tensor,
    ) -> Result<Option<Tensor>> {
        let _ = (layer, first_position, hidden);
        Ok(None)
    }

    /// The logits, and what to give instead.
    ///
    /// * `logits`: `[batch, n, vocab]`
    ///
    /// # Errors
    /// A tensor operation failed.
    fn logits(&mut self, logits: &Tensor) -> Result<Option<Tensor>> {
        let _ = logits;
        Ok(None)
    }
}
