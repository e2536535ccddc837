//! What a model computes, as data (spec 21). One decoder in `cart-nn` reads this; there is no code
//! for a model family.
//!
//! A layer is a [`BlockSpec`]; equal layers share one, and [`ArchSpec::layers`] says which block
//! each layer is. So a hybrid that alternates mixers is data too.

mod attention;
mod mamba;
mod mlp;
mod naming;
mod norm;
mod rope;
mod tensors;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use attention::{AttentionSpec, QkvLayout};
pub use mamba::{DecayForm, Mamba2Spec, MambaSpec};
pub use mlp::{Activation, DenseSpec, ExpertsSpec, MlpSpec, SharedExpertSpec};
pub use naming::{Expert, Global, Part, TensorNaming};
pub use norm::{NormKind, NormSpec};
pub use rope::{RopeFactors, RopePairing, RopeScaling, RopeSpec};
pub use tensors::TensorSpec;

/// Why an architecture can't be used.
#[derive(Debug, Error)]
pub enum ArchError {
    /// The document has a field or a kind that this version does not know, or lacks one.
    #[error("the architecture can't be read: {reason}")]
    Unreadable {
        /// What the reader said, with the field's name.
        reason: String,
    },
    /// Numbers that contradict each other.
    #[error("the architecture contradicts itself: {what} is {found}; allowed: {allowed}")]
    Contradiction {
        /// The quantity.
        what: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: String,
    },
}

/// A decoder-only language model as data.
///
/// Forward, for token ids `[n]`: embed to `[n, hidden_size]` (times `embedding_scale`), each
/// layer's block in order, `final_norm`, head to `[n, vocab_size]`, `logit_softcap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchSpec {
    /// The family's name, such as `llama`. For people; nothing is decided by it.
    pub family: String,
    /// How tensors are named.
    pub naming: TensorNaming,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Most positions that the model was made for.
    pub context_length: u64,
    /// Factor on the embedded tokens (Gemma: √hidden_size).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_scale: Option<f64>,
    /// Whether the head is the embedding, transposed.
    pub tied_head: bool,
    /// Norm before the head.
    pub final_norm: NormSpec,
    /// `c · tanh(logits / c)` on the logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// The distinct blocks.
    pub blocks: Vec<BlockSpec>,
    /// For each layer, the index of its block.
    pub layers: Vec<u32>,
}

/// One layer: a mixer over positions, then an MLP, each on the residual stream. One of them may be
/// absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// The norm before the mixer and before the MLP.
    pub norm: NormSpec,
    /// Where the norms stand.
    #[serde(default, skip_serializing_if = "NormPlacement::is_pre")]
    pub placement: NormPlacement,
    /// What mixes positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixer: Option<MixerSpec>,
    /// What works on each position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<MlpSpec>,
}

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// `x + mixer(norm(x))`, then `x + mlp(norm(x))`.
    #[default]
    Pre,
    /// As `Pre`, with a further norm on each branch's output (Gemma 2 and 3).
    Sandwich,
    /// `x + mixer(norm(x)) + mlp(norm(x))`, each with a norm of its own (Falcon 40B).
    Parallel,
    /// As `Parallel`, with one norm for both (Falcon 7B).
    ParallelShared,
}

impl NormPlacement {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_pre(&self) -> bool {
        *self == Self::Pre
    }

    /// Whether mixer and MLP work on the same input.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelShared)
    }
}

/// What mixes positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MixerSpec {
    /// Causal self-attention.
    Attention(AttentionSpec),
    /// Selective state space (Mamba).
    Mamba(MambaSpec),
    /// State space duality (Mamba-2).
    Mamba2(Mamba2Spec),
}

impl ArchSpec {
    /// Reads and checks the `architecture` of a manifest.
    ///
    /// # Errors
    /// A field is unknown or missing, or numbers contradict each other.
    pub fn from_value(value: &Value) -> Result<Self, ArchError> {
        let spec: Self = serde_json::from_value(value.clone())
            .map_err(|error| ArchError::Unreadable { reason: error.to_string() })?;
        spec.check()?;
        Ok(spec)
    }

    /// The document that [`ArchSpec::from_value`] reads.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("an architecture has no map with keys that are not text")
    }

    /// Layers, in order.
    pub fn layer_blocks(&self) -> impl ExactSizeIterator<Item = &BlockSpec> {
        self.layers.iter().map(|&block| &self.blocks[block as usize])
    }

    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), ArchError> {
        positive("vocab_size", self.vocab_size)?;
        positive("hidden_size", self.hidden_size)?;
        positive("context_length", self.context_length)?;
        positive("layers", self.layers.len() as u64)?;
        self.final_norm.check()?;
        if let Some(scale) = self.embedding_scale {
            above_zero("embedding_scale", scale)?;
        }
        if let Some(cap) = self.logit_softcap {
            above_zero("logit_softcap", cap)?;
        }
        for &layer in &self.layers {
            if layer as usize >= self.blocks.len() {
                return Err(ArchError::Contradiction {
                    what: "a layer's block",
                    found: layer.to_string(),
                    allowed: format!("under {}", self.blocks.len()),
                });
            }
        }
        self.blocks.iter().try_for_each(|block| block.check(self.naming))
    }
}

impl BlockSpec {
    fn check(&self, naming: TensorNaming) -> Result<(), ArchError> {
        self.norm.check()?;
        let parts = usize::from(self.mixer.is_some()) + usize::from(self.mlp.is_some());
        if parts == 0 || (parts == 2 && naming == TensorNaming::HfBackbone) {
            let one = if parts == 0 { "1 or more" } else { "1, as a layer has one norm there" };
            return Err(ArchError::Contradiction {
                what: "the number of mixers and MLPs of a block",
                found: parts.to_string(),
                allowed: one.to_owned(),
            });
        }
        if let Some(mixer) = &self.mixer {
            mixer.check()?;
        }
        if parts == 1 && self.placement.is_parallel() {
            return Err(ArchError::Contradiction {
                what: "the number of mixers and MLPs of a parallel block",
                found: "1".to_owned(),
                allowed: "2".to_owned(),
            });
        }
        match &self.mlp {
            Some(mlp) => mlp.check(),
            None => Ok(()),
        }
    }
}

impl MixerSpec {
    fn check(&self) -> Result<(), ArchError> {
        match self {
            Self::Attention(attention) => attention.check(),
            Self::Mamba(mamba) => mamba.check(),
            Self::Mamba2(mamba) => mamba.check(),
        }
    }
}

fn positive(what: &'static str, found: u64) -> Result<(), ArchError> {
    // 2^31 keeps every product of two sizes inside 64 bits.
    if (1..1 << 31).contains(&found) {
        return Ok(());
    }
    Err(ArchError::Contradiction {
        what,
        found: found.to_string(),
        allowed: "1 to 2^31 - 1".to_owned(),
    })
}

fn above_zero(what: &'static str, found: f64) -> Result<(), ArchError> {
    if found.is_finite() && found > 0.0 {
        return Ok(());
    }
    let allowed = "a finite number over 0".to_owned();
    Err(ArchError::Contradiction { what, found: found.to_string(), allowed })
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
