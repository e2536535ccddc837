//! What a model computes, as data (spec 21). One decoder in `cart-nn` reads this; there is no code
//! for a model family.
//!
//! A layer is a [`BlockSpec`]; equal layers share one, and [`ArchSpec::layers`] says which block
//! each layer is. So a hybrid that alternates mixers is data too.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

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

/// How the tensors of a layer are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorNaming {
    /// `model.layers.0.self_attn.q_proj.weight`, as in Hugging Face `transformers`.
    Hf,
    /// `blk.0.attn_q.weight`, as in GGUF.
    Gguf,
}

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

/// One layer: a mixer over positions, then an MLP, each on the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// The norm before the mixer and before the MLP.
    pub norm: NormSpec,
    /// Where the norms stand.
    #[serde(default, skip_serializing_if = "NormPlacement::is_pre")]
    pub placement: NormPlacement,
    /// What mixes positions.
    pub mixer: MixerSpec,
    /// What works on each position.
    pub mlp: MlpSpec,
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
}

impl NormPlacement {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_pre(&self) -> bool {
        *self == Self::Pre
    }
}

/// What mixes positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MixerSpec {
    /// Causal self-attention.
    Attention(AttentionSpec),
}

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
        for &layer in &self.layers {
            if layer as usize >= self.blocks.len() {
                return Err(ArchError::Contradiction {
                    what: "a layer's block",
                    found: layer.to_string(),
                    allowed: format!("under {}", self.blocks.len()),
                });
            }
        }
        self.blocks.iter().try_for_each(BlockSpec::check)
    }
}

impl BlockSpec {
    fn check(&self) -> Result<(), ArchError> {
        self.norm.check()?;
        let MixerSpec::Attention(attention) = &self.mixer;
        attention.check()?;
        let (MlpSpec::Gated(dense) | MlpSpec::Plain(dense)) = &self.mlp;
        positive("intermediate_size", dense.intermediate_size)
    }
}

impl AttentionSpec {
    fn check(&self) -> Result<(), ArchError> {
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

impl NormSpec {
    fn check(&self) -> Result<(), ArchError> {
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

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
