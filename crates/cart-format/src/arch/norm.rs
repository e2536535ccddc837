//! Normalizations.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, is_false};

/// A normalization over the last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormSpec {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square (or variance) under the root.
    pub eps: f64,
    /// Whether the weight is stored as `w` and applied as `1 + w` (Gemma from Hugging Face).
    #[serde(default, skip_serializing_if = "is_false")]
    pub unit_offset: bool,
}

/// The two kinds of normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / √(mean(x²) + eps) · w`.
    Rms,
    /// `(x − mean) / √(var + eps) · w + b`.
    Layer,
}

impl NormSpec {
    pub(super) fn check(&self) -> Result<(), ArchError> {
        if self.eps.is_finite() && self.eps >= 0.0 {
            return Ok(());
        }
        Err(ArchError::Contradiction {
            what: "norm.eps",
            found: self.eps.to_string(),
            allowed: "0 or more".to_owned(),
        })
    }
}
