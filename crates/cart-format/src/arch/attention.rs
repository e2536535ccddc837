//! Causal self-attention.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, NormSpec, RopeSpec, above_zero, is_false, positive};

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
    /// How the query, key and value projections are stored.
    #[serde(default, skip_serializing_if = "QkvLayout::is_separate")]
    pub qkv: QkvLayout,
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

/// How the projections to queries, keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvLayout {
    /// Three matrices.
    #[default]
    Separate,
    /// One matrix: the rows of all queries, then of all keys, then of all values.
    Fused,
    /// One matrix: for each key head the rows of its queries, then its key's, then its value's
    /// (Falcon).
    Grouped,
}

impl QkvLayout {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_separate(&self) -> bool {
        *self == Self::Separate
    }
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
            rope.check(self.head_dim)?;
        }
        if let Some(scale) = self.scale {
            above_zero("scale", scale)?;
        }
        if let Some(cap) = self.score_softcap {
            above_zero("score_softcap", cap)?;
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
