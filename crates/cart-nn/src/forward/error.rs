//! Why a forward pass was refused.

use thiserror::Error;

use crate::state::OtherLayers;

/// Why a forward pass was refused. Every state is as it was before; but where the tensor library
/// failed, one with recurrent layers is lost, and says so when it is used again.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// A run without tokens.
    #[error("run {run} has no tokens; give at least one")]
    Empty {
        /// Index of the run in the batch.
        run: usize,
    },
    /// Tokens that can't be shared out among sequences of equal length.
    #[error("run {run} has {found} tokens for {batch} sequences; give each as many")]
    Uneven {
        /// Index of the run in the batch.
        run: usize,
        /// Tokens of the run.
        found: usize,
        /// Sequences of its state.
        batch: usize,
    },
    /// A token that the model does not have.
    #[error("run {run}: token {token} at index {index}; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Index of the run in the batch.
        run: usize,
        /// Index of the token in the run.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More positions than the model was made for.
    #[error(
        "run {run}: {past} positions and {new} more exceed the context of {context}; \
         shorten the prompt or truncate the state"
    )]
    ContextFull {
        /// Index of the run in the batch.
        run: usize,
        /// Positions in the state.
        past: usize,
        /// Positions asked for.
        new: usize,
        /// Positions allowed.
        context: usize,
    },
    /// A state or a span that was made by a model of another geometry.
    #[error("run {run}: the state or span has {what}; make it with this model")]
    OtherModel {
        /// Index of the run in the batch.
        run: usize,
        /// The first difference.
        what: Box<OtherLayers>,
    },
    /// A state or a span of the graph for the CPU's kernels, or the other way.
    #[error("run {run}: the state or span was made for another device; make it with this model")]
    OtherDecoder {
        /// Index of the run in the batch.
        run: usize,
    },
    /// A state with recurrent layers that a failed pass left in between, or one of a pass that did not go through all
    /// layers.
    #[error(
        "run {run}: the state was lost in a pass that failed or did not go through all layers; begin again with a new one"
    )]
    Lost {
        /// Index of the run in the batch.
        run: usize,
    },
    /// Recurrent layers have nothing that a span could be put into.
    #[error(
        "this model has no keys and values to put memory into: layer {layer} is recurrent; \
         read the span's tokens instead"
    )]
    NoKeys {
        /// The first recurrent layer.
        layer: usize,
    },
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}
