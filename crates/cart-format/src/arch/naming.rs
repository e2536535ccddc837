//! How tensors are named.

use serde::{Deserialize, Serialize};

use crate::arch::{BlockSpec, NormPlacement};

/// How the tensors of a layer are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorNaming {
    /// `model.layers.0.self_attn.q_proj.weight`, as in Hugging Face `transformers`.
    Hf,
    /// `backbone.layers.0.mixer.in_proj.weight`: every layer has one norm and one part, be it a mixer
    /// or an MLP, as in Mamba and Nemotron-H of Hugging Face.
    HfBackbone,
    /// `blk.0.attn_q.weight`, as in GGUF.
    Gguf,
}

/// A tensor of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// Rows for tokens, `[vocab_size, hidden_size]`.
    Embedding,
    /// The norm before the head.
    FinalNorm,
    /// From the residual stream to logits, `[vocab_size, hidden_size]`.
    Head,
}

/// A part of a layer: a weight, perhaps with a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The norm before the mixer.
    MixerNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Output projection.
    Out,
    /// The norm over each query head.
    QueryNorm,
    /// The norm over each key head.
    KeyNorm,
    /// Input projection of a Mamba mixer.
    SsmIn,
    /// Convolution of a Mamba mixer.
    SsmConv,
    /// Projection to time step, B and C.
    SsmParameters,
    /// Projection of the time step to channels.
    TimeStep,
    /// What is added to the time step of each head. This is a whole name.
    TimeStepBias,
    /// The decay A. This is a whole name.
    Decay,
    /// The skip D. This is a whole name.
    Skip,
    /// The norm of a Mamba-2 mixer's gated output.
    SsmNorm,
    /// Output projection of a Mamba mixer.
    SsmOut,
    /// The norm on the mixer's output.
    AfterMixerNorm,
    /// The norm before the MLP.
    MlpNorm,
    /// Gate projection of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
    /// The norm on the MLP's output.
    AfterMlpNorm,
}

impl TensorNaming {
    /// The name of a tensor of the whole model, without `.weight`.
    pub const fn global(self, global: Global) -> &'static str {
        match (self, global) {
            (Self::Hf, Global::Embedding) => "model.embed_tokens",
            (Self::Hf, Global::FinalNorm) => "model.norm",
            (Self::Hf | Self::HfBackbone, Global::Head) => "lm_head",
            (Self::HfBackbone, Global::Embedding) => "backbone.embeddings",
            (Self::HfBackbone, Global::FinalNorm) => "backbone.norm_f",
            (Self::Gguf, Global::Embedding) => "token_embd",
            (Self::Gguf, Global::FinalNorm) => "output_norm",
            (Self::Gguf, Global::Head) => "output",
        }
    }

    /// The name of a part of layer `layer`, which is such a block, without `.weight` or `.bias`.
    pub fn part(self, layer: usize, part: Part, block: &BlockSpec) -> String {
        match self {
            Self::Hf => format!("model.layers.{layer}.{}", hf(part, block.placement)),
            Self::HfBackbone => format!("backbone.layers.{layer}.{}", hf_backbone(part)),
            Self::Gguf => format!("blk.{layer}.{}", gguf(part, block)),
        }
    }
}

const fn hf(part: Part, placement: NormPlacement) -> &'static str {
    match (part, placement) {
        (Part::MixerNorm, _) => "input_layernorm",
        (Part::Query, _) => "self_attn.q_proj",
        (Part::Key, _) => "self_attn.k_proj",
        (Part::Value, _) => "self_attn.v_proj",
        (Part::Out, _) => "self_attn.o_proj",
        (Part::QueryNorm, _) => "self_attn.q_norm",
        (Part::KeyNorm, _) => "self_attn.k_norm",
        // With norms on both sides, the name means what it says; without, it is the MLP's norm.
        (Part::MlpNorm, NormPlacement::Sandwich) => "pre_feedforward_layernorm",
        (Part::AfterMixerNorm | Part::MlpNorm, _) => "post_attention_layernorm",
        (Part::Gate, _) => "mlp.gate_proj",
        (Part::Up, _) => "mlp.up_proj",
        (Part::Down, _) => "mlp.down_proj",
        (Part::AfterMlpNorm, _) => "post_feedforward_layernorm",
        (Part::SsmIn, _) => "mamba.in_proj",
        (Part::SsmConv, _) => "mamba.conv1d",
        (Part::SsmParameters, _) => "mamba.x_proj",
        (Part::TimeStep, _) => "mamba.dt_proj",
        (Part::TimeStepBias, _) => "mamba.dt_bias",
        (Part::Decay, _) => "mamba.A_log",
        (Part::Skip, _) => "mamba.D",
        (Part::SsmNorm, _) => "mamba.norm",
        (Part::SsmOut, _) => "mamba.out_proj",
    }
}

const fn hf_backbone(part: Part) -> &'static str {
    match part {
        Part::MixerNorm | Part::MlpNorm => "norm",
        Part::AfterMixerNorm | Part::AfterMlpNorm => "post_norm",
        Part::Query => "mixer.q_proj",
        Part::Key => "mixer.k_proj",
        Part::Value => "mixer.v_proj",
        Part::Out => "mixer.o_proj",
        Part::QueryNorm => "mixer.q_norm",
        Part::KeyNorm => "mixer.k_norm",
        Part::Gate => "mixer.gate_proj",
        Part::Up => "mixer.up_proj",
        Part::Down => "mixer.down_proj",
        Part::SsmIn => "mixer.in_proj",
        Part::SsmConv => "mixer.conv1d",
        Part::SsmParameters => "mixer.x_proj",
        Part::TimeStep => "mixer.dt_proj",
        Part::TimeStepBias => "mixer.dt_bias",
        Part::Decay => "mixer.A_log",
        Part::Skip => "mixer.D",
        Part::SsmNorm => "mixer.norm",
        Part::SsmOut => "mixer.out_proj",
    }
}

const fn gguf(part: Part, block: &BlockSpec) -> &'static str {
    match part {
        // The only norm of a layer has this name, whatever it stands before.
        Part::MlpNorm if block.mixer.is_none() => "attn_norm",
        Part::MixerNorm => "attn_norm",
        Part::Query => "attn_q",
        Part::Key => "attn_k",
        Part::Value => "attn_v",
        Part::Out => "attn_output",
        Part::QueryNorm => "attn_q_norm",
        Part::KeyNorm => "attn_k_norm",
        Part::AfterMixerNorm => "post_attention_norm",
        Part::MlpNorm => "ffn_norm",
        Part::Gate => "ffn_gate",
        Part::Up => "ffn_up",
        Part::Down => "ffn_down",
        Part::AfterMlpNorm => "post_ffw_norm",
        Part::SsmIn => "ssm_in",
        Part::SsmConv => "ssm_conv1d",
        Part::SsmParameters => "ssm_x",
        Part::TimeStep => "ssm_dt",
        Part::TimeStepBias => "ssm_dt.bias",
        Part::Decay => "ssm_a",
        Part::Skip => "ssm_d",
        Part::SsmNorm => "ssm_norm",
        Part::SsmOut => "ssm_out",
    }
}
