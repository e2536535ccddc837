//! What works on each position.

use serde::{Deserialize, Serialize};

use crate::arch::is_false;

/// What works on each position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MlpSpec {
    /// `down(activation(gate(x)) · up(x))`.
    Gated(DenseSpec),
    /// `down(activation(up(x)))`.
    Plain(DenseSpec),
}

/// Width and activation of an MLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseSpec {
    /// Width between the projections.
    pub intermediate_size: u64,
    /// The activation.
    pub activation: Activation,
    /// Whether the projections have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bias: bool,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}
