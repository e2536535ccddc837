//! Rotary position embedding.

use serde::{Deserialize, Serialize};

use crate::arch::{ArchError, above_zero, positive};

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
    /// `YaRN` (Peng et al., 2023): frequencies of pairs that turn more than `beta_fast` times over
    /// `original_context` are kept, of those that turn less than `beta_slow` times divided by
    /// `factor`, with a ramp over the pairs between.
    Yarn {
        /// The divisor of slow frequencies.
        factor: f64,
        /// Context length before stretching.
        original_context: u64,
        /// Turns from which a frequency is kept.
        beta_fast: f64,
        /// Turns up to which a frequency is divided.
        beta_slow: f64,
        /// Whether the ramp ends at whole pairs.
        truncate: bool,
        /// Factor on cosine and sine, so its square is one on the scores.
        attention_factor: f64,
    },
    /// Each pair's frequency divided by a factor of its own (Llama 3 in GGUF).
    PerPair {
        /// `[dims / 2]`.
        factors: RopeFactors,
    },
    /// `LongRoPE` (Ding et al., 2024): as `PerPair`, with `long` where the model's `context_length`
    /// is over `original_context`, else with `short`.
    ///
    /// `transformers` chooses by the length of each sequence, which makes the keys of a cache wrong
    /// at the moment it grows over `original_context`. One choice for a model keeps reading token
    /// by token the same as reading at once, as llama.cpp has it.
    LongRope {
        /// `[dims / 2]`, for contexts up to `original_context`.
        short: RopeFactors,
        /// `[dims / 2]`, for longer ones.
        long: RopeFactors,
        /// Context length before stretching.
        original_context: u64,
        /// Factor on cosine and sine, so its square is one on the scores.
        attention_factor: f64,
    },
}

/// A divisor for each pair of dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RopeFactors {
    /// The divisors.
    Values(Vec<f64>),
    /// The name of the tensor that holds them.
    Tensor(String),
}

impl RopeSpec {
    pub(super) fn check(&self, head_dim: u64) -> Result<(), ArchError> {
        if self.dims > head_dim || !self.dims.is_multiple_of(2) || self.dims == 0 {
            return Err(ArchError::Contradiction {
                what: "rope.dims",
                found: self.dims.to_string(),
                allowed: format!("even, 2 to head_dim = {head_dim}"),
            });
        }
        above_zero("rope.theta", self.theta)?;
        match &self.scaling {
            Some(scaling) => scaling.check(self.dims / 2),
            None => Ok(()),
        }
    }

    /// Tensors with divisors, which are `[dims / 2]`.
    pub(super) fn factor_tensors(&self) -> impl Iterator<Item = &str> {
        let factors = match &self.scaling {
            Some(RopeScaling::PerPair { factors }) => [Some(factors), None],
            Some(RopeScaling::LongRope { short, long, .. }) => [Some(short), Some(long)],
            _ => [None, None],
        };
        factors.into_iter().flatten().filter_map(|factors| match factors {
            RopeFactors::Values(_) => None,
            RopeFactors::Tensor(name) => Some(name.as_str()),
        })
    }
}

impl RopeScaling {
    fn check(&self, pairs: u64) -> Result<(), ArchError> {
        match self {
            Self::Linear { factor } => above_zero("rope.scaling.factor", *factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                above_zero("rope.scaling.factor", *factor)?;
                above_zero("rope.scaling.low_freq_factor", *low_freq_factor)?;
                above_zero("rope.scaling.high_freq_factor", *high_freq_factor)?;
                positive("rope.scaling.original_context", *original_context)
            }
            Self::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                truncate: _,
                attention_factor,
            } => {
                above_zero("rope.scaling.factor", *factor)?;
                above_zero("rope.scaling.beta_fast", *beta_fast)?;
                above_zero("rope.scaling.beta_slow", *beta_slow)?;
                above_zero("rope.scaling.attention_factor", *attention_factor)?;
                positive("rope.scaling.original_context", *original_context)
            }
            Self::PerPair { factors } => factors.check(pairs),
            Self::LongRope { short, long, original_context, attention_factor } => {
                short.check(pairs)?;
                long.check(pairs)?;
                above_zero("rope.scaling.attention_factor", *attention_factor)?;
                positive("rope.scaling.original_context", *original_context)
            }
        }
    }
}

impl RopeFactors {
    fn check(&self, pairs: u64) -> Result<(), ArchError> {
        let Self::Values(values) = self else { return Ok(()) };
        if values.len() as u64 != pairs {
            return Err(ArchError::Contradiction {
                what: "the number of RoPE factors",
                found: values.len().to_string(),
                allowed: format!("rope.dims / 2 = {pairs}"),
            });
        }
        values.iter().try_for_each(|factor| above_zero("a RoPE factor", *factor))
    }
}
