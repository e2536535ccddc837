//! Names of tensors in the two conventions.

use cart_format::arch::{NormPlacement, TensorNaming};

/// A tensor, or the weight and bias of a layer's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    AttentionNorm,
    Query,
    Key,
    Value,
    Out,
    QueryNorm,
    KeyNorm,
    AfterAttentionNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
    AfterMlpNorm,
}

/// Names under a convention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) naming: TensorNaming,
}

impl Names {
    pub(crate) fn embedding(self) -> String {
        match self.naming {
            TensorNaming::Hf => "model.embed_tokens.weight".to_owned(),
            TensorNaming::Gguf => "token_embd.weight".to_owned(),
        }
    }

    /// Without `.weight` or `.bias`.
    pub(crate) fn final_norm(self) -> String {
        match self.naming {
            TensorNaming::Hf => "model.norm".to_owned(),
            TensorNaming::Gguf => "output_norm".to_owned(),
        }
    }

    pub(crate) fn head(self) -> String {
        match self.naming {
            TensorNaming::Hf => "lm_head.weight".to_owned(),
            TensorNaming::Gguf => "output.weight".to_owned(),
        }
    }

    /// A part of layer `layer`, without `.weight` or `.bias`.
    pub(crate) fn part(self, layer: usize, part: Part, placement: NormPlacement) -> String {
        match self.naming {
            TensorNaming::Hf => format!("model.layers.{layer}.{}", hf(part, placement)),
            TensorNaming::Gguf => format!("blk.{layer}.{}", gguf(part)),
        }
    }
}

fn hf(part: Part, placement: NormPlacement) -> &'static str {
    match part {
        Part::AttentionNorm => "input_layernorm",
        Part::Query => "self_attn.q_proj",
        Part::Key => "self_attn.k_proj",
        Part::Value => "self_attn.v_proj",
        Part::Out => "self_attn.o_proj",
        Part::QueryNorm => "self_attn.q_norm",
        Part::KeyNorm => "self_attn.k_norm",
        // With norms on both sides, the name means what it says; without, it is the MLP's norm.
        Part::MlpNorm if placement == NormPlacement::Sandwich => "pre_feedforward_layernorm",
        Part::AfterAttentionNorm | Part::MlpNorm => "post_attention_layernorm",
        Part::Gate => "mlp.gate_proj",
        Part::Up => "mlp.up_proj",
        Part::Down => "mlp.down_proj",
        Part::AfterMlpNorm => "post_feedforward_layernorm",
    }
}

fn gguf(part: Part) -> &'static str {
    match part {
        Part::AttentionNorm => "attn_norm",
        Part::Query => "attn_q",
        Part::Key => "attn_k",
        Part::Value => "attn_v",
        Part::Out => "attn_output",
        Part::QueryNorm => "attn_q_norm",
        Part::KeyNorm => "attn_k_norm",
        Part::AfterAttentionNorm => "post_attention_norm",
        Part::MlpNorm => "ffn_norm",
        Part::Gate => "ffn_gate",
        Part::Up => "ffn_up",
        Part::Down => "ffn_down",
        Part::AfterMlpNorm => "post_ffw_norm",
    }
}
