//! Where memory listens to a forward pass, and where it steers it.

use candle_core::Result;

/// Sees the residual stream while a run goes through the layers, and may shift it. The default sees
/// nothing, and a run with it gives the same bits as a run without taps.
///
/// A forward works in chunks, so a method can be called several times for a run, with rising
/// positions.
pub trait Taps: Send {
    /// Whether [`Taps::after_layer`] wants the hidden states after `layer`.
    ///
    /// Layers count from 0; the number of layers itself means the output of the final norm.
    fn wants(&self, layer: usize) -> bool {
        let _ = layer;
        false
    }

    /// The last layer whose hidden states are wanted of a run that asks for no logits. Layers after it may be left out, and
    /// the run's state is lost then: nothing can be read after it. None has all layers run.
    fn ends_after(&self) -> Option<usize> {
        None
    }

    /// The residual stream after `layer`, for consecutive positions from `first_position`.
    ///
    /// * `hidden`: `[n, hidden_size]`, row after row
    fn after_layer(&mut self, layer: usize, first_position: usize, hidden: &[f32]) {
        let _ = (layer, first_position, hidden);
    }

    /// What is added to the residual stream at every position after `layer` was seen, `[hidden_size]`; none
    /// leaves it as it is, to the bit. Only layers that [`Taps::wants`] names are asked for, and not the
    /// final norm.
    fn shift(&self, layer: usize) -> Option<&[f32]> {
        let _ = layer;
        None
    }

    /// What goes on in place of the residual stream after `layer` and after [`Taps::shift`]; none leaves it
    /// as it is, to the bit. Only layers that [`Taps::wants`] names are asked, and not the final norm.
    ///
    /// * `hidden`: `[n, hidden_size]`, row after row
    ///
    /// # Errors
    /// A tensor operation failed.
    fn replaced(&mut self, layer: usize, hidden: &[f32]) -> Result<Option<Vec<f32>>> {
        let _ = (layer, hidden);
        Ok(None)
    }
}
