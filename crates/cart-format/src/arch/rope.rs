//! Rotary position embedding.

use serde::{Deserialize, Serialize};

/// Rotary position embedding (Su et al., 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeSpec {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Dimensions of a head that are rotated.
    pub dims: u64,
    /// Which dimensions make a pair.
    pub pairing: RopePairing,
    /// Stretching of the wavelengths for longer contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

/// Which dimensions are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// `i` with `i + dims/2`, as in Hugging Face and GPT-NeoX.
    Halves,
    /// `2i` with `2i + 1`, as in GGUF files of the Llama family (their rows are permuted).
    Interleaved,
}

/// Stretching of RoPE's wavelengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Every position divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths over `original_context / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths under `original_context / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_context: u64,
    },
}
