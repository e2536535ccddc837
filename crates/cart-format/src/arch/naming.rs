//! How tensors are named.

use serde::{Deserialize, Serialize};

use crate::arch::{BlockSpec, NormPlacement};

/// How the tensors of a layer are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorNaming {
    /// `model.layers.0.self_attn.q_proj.weight`, as in Hugging Face `transformers`.
    Hf,
    /// As `Hf`, with experts called `block_sparse_moe.experts.0.w1` (Mixtral).
    HfMixtral,
    /// `transformer.h.0.self_attention.query_key_value.weight` (Falcon).
    HfFalcon,
    /// `backbone.layers.0.mixer.in_proj.weight`: every layer has one norm and one part, be it a
    /// mixer or an MLP, as in Mamba and Nemotron-H of Hugging Face.
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
    /// Query, key and value projection in one.
    Qkv,
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
    /// Gate and up projection in one.
    GateUp,
    /// Down projection of the MLP.
    Down,
    /// The norm on the MLP's output.
    AfterMlpNorm,
    /// From the residual stream to a number for each expert.
    Router,
    /// Gate projection of an expert, or of all of them.
    ExpertGate(Expert),
    /// Up projection of an expert, or of all of them.
    ExpertUp(Expert),
    /// Down projection of an expert, or of all of them.
    ExpertDown(Expert),
    /// From the residual stream to the number that weighs the shared expert.
    SharedRouter,
    /// Gate projection of the shared expert.
    SharedGate,
    /// Up projection of the shared expert.
    SharedUp,
    /// Down projection of the shared expert.
    SharedDown,
}

/// Which experts a tensor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expert {
    /// The one with this index, `[out, in]`.
    One(u64),
    /// All of them, `[experts, out, in]`.
    All,
}

impl TensorNaming {
    /// The name of a tensor of the whole model, without `.weight`.
    pub const fn global(self, global: Global) -> &'static str {
        match (self, global) {
            (Self::Hf | Self::HfMixtral, Global::Embedding) => "model.embed_tokens",
            (Self::Hf | Self::HfMixtral, Global::FinalNorm) => "model.norm",
            (Self::Gguf, Global::Head) => "output",
            (_, Global::Head) => "lm_head",
            (Self::HfFalcon, Global::Embedding) => "transformer.word_embeddings",
            (Self::HfFalcon, Global::FinalNorm) => "transformer.ln_f",
            (Self::Gguf, Global::Embedding) => "token_embd",
            (Self::Gguf, Global::FinalNorm) => "output_norm",
            (Self::HfBackbone, Global::Embedding) => "backbone.embeddings",
            (Self::HfBackbone, Global::FinalNorm) => "backbone.norm_f",
        }
    }

    /// The name of a part of layer `layer`, which is such a block, without `.weight` or `.bias`.
    pub fn part(self, layer: usize, part: Part, block: &BlockSpec) -> String {
        let placement = block.placement;
        match self {
            Self::Hf => format!("model.layers.{layer}.{}", hf(part, placement)),
            Self::HfMixtral => format!("model.layers.{layer}.{}", mixtral(part, placement)),
            Self::HfFalcon => format!("transformer.h.{layer}.{}", falcon(part, placement)),
            Self::HfBackbone => format!("backbone.layers.{layer}.{}", backbone(part)),
            Self::Gguf => format!("blk.{layer}.{}", gguf(part, block)),
        }
    }

    /// Whether all experts of a layer are in one tensor.
    pub const fn stacks_experts(self) -> bool {
        matches!(self, Self::Gguf)
    }
}

fn hf(part: Part, placement: NormPlacement) -> String {
    let (role, expert) = match part {
        Part::ExpertGate(expert) => ("gate_proj", expert),
        Part::ExpertUp(expert) => ("up_proj", expert),
        Part::ExpertDown(expert) => ("down_proj", expert),
        part => return hf_fixed(part, placement).to_owned(),
    };
    match expert {
        Expert::One(index) => format!("mlp.experts.{index}.{role}"),
        Expert::All => format!("mlp.experts.{role}"),
    }
}

const fn hf_fixed(part: Part, placement: NormPlacement) -> &'static str {
    match (part, placement) {
        (Part::MixerNorm, _) => "input_layernorm",
        (Part::Query, _) => "self_attn.q_proj",
        (Part::Key, _) => "self_attn.k_proj",
        (Part::Value, _) => "self_attn.v_proj",
        (Part::Qkv, _) => "self_attn.qkv_proj",
        (Part::Out, _) => "self_attn.o_proj",
        (Part::QueryNorm, _) => "self_attn.q_norm",
        (Part::KeyNorm, _) => "self_attn.k_norm",
        // With norms on both sides, the name means what it says; without, it is the MLP's norm.
        (Part::MlpNorm, NormPlacement::Sandwich) => "pre_feedforward_layernorm",
        (Part::AfterMixerNorm | Part::MlpNorm, _) => "post_attention_layernorm",
        (Part::Gate | Part::ExpertGate(_), _) => "mlp.gate_proj",
        (Part::Up | Part::ExpertUp(_), _) => "mlp.up_proj",
        (Part::GateUp, _) => "mlp.gate_up_proj",
        (Part::Down | Part::ExpertDown(_), _) => "mlp.down_proj",
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
        (Part::Router, _) => "mlp.gate",
        (Part::SharedRouter, _) => "mlp.shared_expert_gate",
        (Part::SharedGate, _) => "mlp.shared_expert.gate_proj",
        (Part::SharedUp, _) => "mlp.shared_expert.up_proj",
        (Part::SharedDown, _) => "mlp.shared_expert.down_proj",
    }
}

fn mixtral(part: Part, placement: NormPlacement) -> String {
    let (role, expert) = match part {
        Part::ExpertGate(expert) => ("w1", expert),
        Part::ExpertDown(expert) => ("w2", expert),
        Part::ExpertUp(expert) => ("w3", expert),
        Part::Router => return "block_sparse_moe.gate".to_owned(),
        part => return hf(part, placement),
    };
    match expert {
        Expert::One(index) => format!("block_sparse_moe.experts.{index}.{role}"),
        Expert::All => format!("block_sparse_moe.experts.{role}"),
    }
}

fn falcon(part: Part, placement: NormPlacement) -> String {
    let name = match (part, placement) {
        (Part::MixerNorm, NormPlacement::Parallel) => "ln_attn",
        (Part::MlpNorm, NormPlacement::Parallel) => "ln_mlp",
        (Part::Qkv, _) => "self_attention.query_key_value",
        (Part::Out, _) => "self_attention.dense",
        (Part::Up, _) => "mlp.dense_h_to_4h",
        (Part::Down, _) => "mlp.dense_4h_to_h",
        (part, placement) => return hf(part, placement),
    };
    name.to_owned()
}

fn backbone(part: Part) -> String {
    match part {
        Part::MixerNorm | Part::MlpNorm => "norm".to_owned(),
        Part::AfterMixerNorm | Part::AfterMlpNorm => "post_norm".to_owned(),
        part => {
            let name = hf(part, NormPlacement::Pre);
            let role = name.split_once('.').map_or(name.as_str(), |(_, role)| role);
            format!("mixer.{role}")
        }
    }
}

const fn gguf(part: Part, block: &BlockSpec) -> &'static str {
    match (part, block.placement) {
        // The only norm of a layer has this name, whatever it stands before.
        (Part::MlpNorm, _) if block.mixer.is_none() => "attn_norm",
        (Part::MixerNorm, NormPlacement::Parallel) => "attn_norm_2",
        (Part::MixerNorm, _) | (Part::MlpNorm, NormPlacement::Parallel) => "attn_norm",
        (Part::Query, _) => "attn_q",
        (Part::Key, _) => "attn_k",
        (Part::Value, _) => "attn_v",
        (Part::Qkv, _) => "attn_qkv",
        (Part::Out, _) => "attn_output",
        (Part::QueryNorm, _) => "attn_q_norm",
        (Part::KeyNorm, _) => "attn_k_norm",
        (Part::AfterMixerNorm, _) => "post_attention_norm",
        (Part::MlpNorm, _) => "ffn_norm",
        (Part::Gate, _) => "ffn_gate",
        (Part::Up | Part::GateUp, _) => "ffn_up",
        (Part::Down, _) => "ffn_down",
        (Part::AfterMlpNorm, _) => "post_ffw_norm",
        (Part::Router, _) => "ffn_gate_inp",
        (Part::ExpertGate(_), _) => "ffn_gate_exps",
        (Part::ExpertUp(_), _) => "ffn_up_exps",
        (Part::ExpertDown(_), _) => "ffn_down_exps",
        (Part::SharedRouter, _) => "ffn_gate_inp_shexp",
        (Part::SharedGate, _) => "ffn_gate_shexp",
        (Part::SharedUp, _) => "ffn_up_shexp",
        (Part::SharedDown, _) => "ffn_down_shexp",
        (Part::SsmIn, _) => "ssm_in",
        (Part::SsmConv, _) => "ssm_conv1d",
        (Part::SsmParameters, _) => "ssm_x",
        (Part::TimeStep, _) => "ssm_dt",
        (Part::TimeStepBias, _) => "ssm_dt.bias",
        (Part::Decay, _) => "ssm_a",
        (Part::Skip, _) => "ssm_d",
        (Part::SsmNorm, _) => "ssm_norm",
        (Part::SsmOut, _) => "ssm_out",
    }
}
