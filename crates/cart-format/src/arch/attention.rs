//! Causal self-attention.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, NormSpec, RopeSpec, is_false, positive};

/// Causal self-attention with grouped keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: u64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Factor on the scores; `1/√head_dim` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Rotary position embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope: Option<RopeSpec>,
    /// Positions that a query sees, itself included; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// `c · tanh(score / c)` on the scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_softcap: Option<f64>,
    /// Whether the query, key and value projections have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub out_bias: bool,
    /// A norm over each head of the query and the key, before RoPE (Qwen 3, Gemma 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<NormSpec>,
}

impl AttentionSpec {
    pub(super) fn check(&self) -> Result<(), ArchError> {
        positive("heads", self.heads)?;
        positive("kv_heads", self.kv_heads)?;
        positive("head_dim", self.head_dim)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ArchError::Contradiction {
                what: "kv_heads",
                found: self.kv_heads.to_string(),
                allowed: format!("a divisor of heads = {}", self.heads),
            });
        }
        if let Some(norm) = &self.qk_norm {
            norm.check()?;
        }
        if let Some(rope) = &self.rope {
            if rope.dims > self.head_dim || !rope.dims.is_multiple_of(2) || rope.dims == 0 {
                return Err(ArchError::Contradiction {
                    what: "rope.dims",
                    found: rope.dims.to_string(),
                    allowed: format!("even, 2 to head_dim = {}", self.head_dim),
                });
            }
            if !(rope.theta.is_finite() && rope.theta > 0.0) {
                return Err(ArchError::Contradiction {
                    what: "rope.theta",
                    found: rope.theta.to_string(),
                    allowed: "a positive number".to_owned(),
                });
            }
        }
        if self.window == Some(0) {
            return Err(ArchError::Contradiction {
                what: "window",
                found: "0".to_owned(),
                allowed: "1 or more, or absent".to_owned(),
            });
        }
        Ok(())
    }
}
