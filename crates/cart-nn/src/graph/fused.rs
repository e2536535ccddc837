//! Operations of the graph that are one pass each way: `f32` on the CPU.
//!
//! A plain operation reads and writes all of its numbers, and so does its gradient; put together
//! from plain ones, a norm or a softmax goes a dozen times through memory. Each file here has an
//! operation and its gradient, both of which compute what the plain operations beside them in
//! [`operations`](super::operations) compute; `tests/graph/fused.rs` holds them to those in `f64`
//! and to finite differences.
//!
//! Work is cut into blocks of a fixed number of rows, and sums over rows are sums of blocks in
//! their order, so every number of threads gives the same bits.

mod attention;
mod conv;
mod embed;
mod floats;
mod gated;
mod gathering;
mod loss;
mod matrix;
mod mixed;
mod norm;
mod product;
mod selective;
mod teacher;

use candle_core::{DType, Tensor};

pub(super) use attention::{AttentionShape, CausalAttention};
pub(super) use conv::conv_silu;
pub(super) use embed::embed;
pub(super) use floats::Floats;
pub(super) use gated::{gated, times_silu};
pub(super) use gathering::{Sums, add_scaled, gathering};
pub(super) use loss::{LossTargets, cross_entropy};
pub use mixed::Products;
pub(super) use norm::norm;
pub(super) use product::{product, product_added};
pub(super) use selective::{SelectiveInput, selective};
pub(super) use teacher::{Teacher, teacher};

/// Whether a tensor's numbers are of the kind that these operations take.
pub(super) fn suits(x: &Tensor) -> bool {
    x.dtype() == DType::F32 && x.device().is_cpu()
}

#[cfg(test)]
mod tests;
