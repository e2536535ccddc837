//! Mixers that carry a state of fixed size: Mamba and Mamba-2.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, NormKind, NormSpec, TensorNaming, is_false, positive};

/// Selective state space with a state for each channel (Mamba; Gu and Dao, 2023, algorithm 2).
///
/// Of a row `[hidden_size]`: `x, z = in(row)`, each `[inner_size]`; `x = silu(conv(x))`;
/// `d, B, C = x_proj(x)`, `[time_step_rank]` and twice `[state_size]`; `Δ = softplus(dt_proj(d))`;
/// for each channel `h ← e^(Δ·A) · h + Δ · x · B`, `y = C · h + D · x`; `out(y · silu(z))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaSpec {
    /// Channels.
    pub inner_size: u64,
    /// Numbers of a channel's state.
    pub state_size: u64,
    /// Positions that the convolution sees, the present one included.
    pub conv_kernel: u64,
    /// Width of the time step before its projection.
    pub time_step_rank: u64,
    /// How A is stored.
    pub decay: DecayForm,
    /// Whether the convolution has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conv_bias: bool,
    /// Whether the input and output projections have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proj_bias: bool,
}

/// State space duality: heads whose channels share their decay (Mamba-2; Dao and Gu, 2024).
///
/// Of a row `[hidden_size]`: `z, x, B, C, d = in(row)`, widths `inner`, `inner`,
/// `groups · state_size` twice and `heads`, where `inner = heads · head_dim`;
/// `x, B, C = silu(conv(x, B, C))`; `Δ = softplus(d + bias)`, kept in `time_step_min` to
/// `time_step_max`; for each head, with B and C of its group,
/// `h ← e^(Δ·A) · h + Δ · x ⊗ B`, `y = h · C + D · x`; `out(norm(y · silu(z)))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mamba2Spec {
    /// Heads.
    pub heads: u64,
    /// Channels of a head.
    pub head_dim: u64,
    /// Groups of heads that share B and C; divides `heads`.
    pub groups: u64,
    /// Numbers of a channel's state.
    pub state_size: u64,
    /// Positions that the convolution sees, the present one included.
    pub conv_kernel: u64,
    /// How A is stored.
    pub decay: DecayForm,
    /// The smallest time step; 0 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_step_min: Option<f64>,
    /// The largest time step; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_step_max: Option<f64>,
    /// Added to the mean square of the norm of the gated output, which is `rms` over the channels
    /// of each group by itself.
    pub norm_eps: f64,
    /// Whether the convolution has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conv_bias: bool,
    /// Whether the input and output projections have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proj_bias: bool,
}

/// How the (negative) decay A is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayForm {
    /// As `ln(−A)`, as in Hugging Face.
    Log,
    /// As A itself, as in GGUF.
    Plain,
}

impl MambaSpec {
    /// Outputs of the input projection.
    pub fn input_width(&self) -> u64 {
        2 * self.inner_size
    }

    /// Outputs of the projection to time step, B and C.
    pub fn parameter_width(&self) -> u64 {
        self.time_step_rank + 2 * self.state_size
    }

    pub(super) fn check(&self) -> Result<(), ArchError> {
        positive("inner_size", self.inner_size)?;
        positive("state_size", self.state_size)?;
        positive("conv_kernel", self.conv_kernel)?;
        positive("time_step_rank", self.time_step_rank)?;
        positive("inner_size · state_size", self.inner_size * self.state_size)
    }
}

impl Mamba2Spec {
    /// Channels.
    pub fn inner_size(&self) -> u64 {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: x, B and C.
    pub fn conv_width(&self) -> u64 {
        self.inner_size() + 2 * self.groups * self.state_size
    }

    /// Outputs of the input projection.
    pub fn input_width(&self) -> u64 {
        self.inner_size() + self.conv_width() + self.heads
    }

    pub(super) fn check(&self) -> Result<(), ArchError> {
        positive("heads", self.heads)?;
        positive("head_dim", self.head_dim)?;
        positive("groups", self.groups)?;
        positive("state_size", self.state_size)?;
        positive("conv_kernel", self.conv_kernel)?;
        positive("heads · head_dim", self.inner_size())?;
        positive("heads · head_dim · state_size", self.inner_size() * self.state_size)?;
        positive("groups · state_size", self.groups * self.state_size)?;
        NormSpec { kind: NormKind::Rms, eps: self.norm_eps, unit_offset: false }.check()?;
        if !self.heads.is_multiple_of(self.groups) {
            return Err(ArchError::Contradiction {
                what: "groups",
                found: self.groups.to_string(),
                allowed: format!("a divisor of heads = {}", self.heads),
            });
        }
        let least = self.time_step_min.unwrap_or(0.0);
        let most = self.time_step_max.unwrap_or(f64::MAX);
        if !(least >= 0.0 && least <= most && most.is_finite()) {
            return Err(ArchError::Contradiction {
                what: "time_step_min",
                found: least.to_string(),
                allowed: format!("0 to time_step_max = {most}"),
            });
        }
        Ok(())
    }
}

impl TensorNaming {
    /// The shape of a convolution's weight, one filter for each channel.
    pub fn conv_shape(self, channels: u64, kernel: u64) -> Vec<u64> {
        match self {
            Self::Hf | Self::HfMixtral | Self::HfFalcon | Self::HfBackbone => {
                vec![channels, 1, kernel]
            }
            Self::Gguf => vec![channels, kernel],
        }
    }

    /// The shape of one number for each head.
    pub fn head_shape(self, heads: u64) -> Vec<u64> {
        match self {
            Self::Hf | Self::HfMixtral | Self::HfFalcon | Self::HfBackbone => vec![heads],
            Self::Gguf => vec![heads, 1],
        }
    }

    /// The shape of a norm over each group of channels by itself.
    pub fn group_norm_shape(self, groups: u64, channels: u64) -> Vec<u64> {
        match self {
            Self::Hf | Self::HfMixtral | Self::HfFalcon | Self::HfBackbone => vec![channels],
            Self::Gguf => vec![groups, channels / groups],
        }
    }
}
