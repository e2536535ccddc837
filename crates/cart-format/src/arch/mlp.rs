//! What works on each position.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, is_false, positive};

/// What works on each position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MlpSpec {
    /// `down(activation(gate(x)) · up(x))`.
    Gated(DenseSpec),
    /// `down(activation(up(x)))`.
    Plain(DenseSpec),
    /// A mixture of gated MLPs, of which a router chooses some for each position.
    Experts(ExpertsSpec),
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
    /// Whether gate and up are one matrix, the gate's rows first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fused: bool,
}

/// A mixture of experts (Shazeer et al., 2017): a router's softmax over all experts says which
/// `active` of them work on a position, and with which weights their outputs are added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertsSpec {
    /// Experts.
    pub experts: u64,
    /// Experts that work on a position: those with the largest weights.
    pub active: u64,
    /// Width of an expert between its projections.
    pub intermediate_size: u64,
    /// The activation of every expert.
    pub activation: Activation,
    /// Whether the weights of the chosen experts are divided by their sum.
    #[serde(default, skip_serializing_if = "is_false")]
    pub normalized: bool,
    /// An expert that works on every position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedExpertSpec>,
}

/// An expert that works on every position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedExpertSpec {
    /// Width between its projections.
    pub intermediate_size: u64,
    /// Whether its output is weighed by the sigmoid of a projection to one number.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gated: bool,
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

impl MlpSpec {
    pub(super) fn check(&self) -> Result<(), ArchError> {
        match self {
            Self::Gated(dense) => positive("intermediate_size", dense.intermediate_size),
            Self::Plain(dense) => {
                if dense.fused {
                    return Err(ArchError::Contradiction {
                        what: "mlp.fused",
                        found: "true".to_owned(),
                        allowed: "absent, as a plain MLP has no gate".to_owned(),
                    });
                }
                positive("intermediate_size", dense.intermediate_size)
            }
            Self::Experts(experts) => experts.check(),
        }
    }
}

impl ExpertsSpec {
    fn check(&self) -> Result<(), ArchError> {
        if !(1..=MAX_EXPERTS).contains(&self.experts) {
            return Err(ArchError::Contradiction {
                what: "experts",
                found: self.experts.to_string(),
                allowed: format!("1 to {MAX_EXPERTS}"),
            });
        }
        if self.active == 0 || self.active > self.experts {
            return Err(ArchError::Contradiction {
                what: "active experts",
                found: self.active.to_string(),
                allowed: format!("1 to experts = {}", self.experts),
            });
        }
        positive("expert intermediate_size", self.intermediate_size)?;
        match &self.shared {
            Some(shared) => positive("shared expert intermediate_size", shared.intermediate_size),
            None => Ok(()),
        }
    }
}

/// More experts than any model has; keeps a hostile number from being allocated.
const MAX_EXPERTS: u64 = 4096;
