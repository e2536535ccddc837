//! Which part of a model a tensor is, by its name.

use std::fmt;

use cart_format::TensorName;
use serde::Serialize;

use crate::weights::layers::LayerName;

/// A part of a model. The order is that of a pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// Rows for tokens or positions.
    Embedding,
    /// Norms, of whatever.
    Norm,
    /// Query projections.
    Query,
    /// Key projections.
    Key,
    /// Value projections.
    Value,
    /// Query, key and value in one.
    Qkv,
    /// Output projections of attention.
    Out,
    /// Parts of state space models.
    Ssm,
    /// What chooses experts.
    Router,
    /// Gate projections of MLPs.
    Gate,
    /// Up projections, alone or with the gates.
    Up,
    /// Down projections.
    Down,
    /// From the residual stream to logits.
    Head,
    /// Anything else.
    Other,
}

/// Parts of names and what they stand for. The first that fits counts: norms before what they are in, the
/// names that contain others before those.
const NAMES: &[(&str, Module)] = &[
    ("norm", Module::Norm),
    ("ln_", Module::Norm),
    ("embed", Module::Embedding),
    ("embd", Module::Embedding),
    ("wte", Module::Embedding),
    ("wpe", Module::Embedding),
    ("query_key_value", Module::Qkv),
    ("qkv", Module::Qkv),
    ("c_attn", Module::Qkv),
    ("lm_head", Module::Head),
    ("ssm", Module::Ssm),
    ("mixer", Module::Ssm),
    ("router", Module::Router),
    ("gate_inp", Module::Router),
    ("feed_forward.gate", Module::Router),
    ("block_sparse_moe.gate.", Module::Router),
    ("mlp.gate.", Module::Router),
    ("attn_q", Module::Query),
    ("attn_k", Module::Key),
    ("attn_v", Module::Value),
    ("attn_output", Module::Out),
    ("attn.c_proj", Module::Out),
    ("q_proj", Module::Query),
    ("k_proj", Module::Key),
    ("v_proj", Module::Value),
    ("o_proj", Module::Out),
    ("out_proj", Module::Out),
    ("self_attention.dense", Module::Out),
    ("gate_up", Module::Up),
    ("ffn_gate", Module::Gate),
    ("gate_proj", Module::Gate),
    ("ffn_down", Module::Down),
    ("down_proj", Module::Down),
    ("dense_4h_to_h", Module::Down),
    ("mlp.c_proj", Module::Down),
    ("fc2", Module::Down),
    ("ffn_up", Module::Up),
    ("up_proj", Module::Up),
    ("dense_h_to_4h", Module::Up),
    ("c_fc", Module::Up),
    ("fc1", Module::Up),
    (".w1.", Module::Gate),
    (".w2.", Module::Down),
    (".w3.", Module::Up),
];

impl Module {
    /// The part that a name says, in the naming of Hugging Face or GGUF.
    pub fn of(name: &TensorName) -> Self {
        let name = name.as_str();
        if name == "output.weight" || name == "output.bias" {
            return Self::Head;
        }
        let found = NAMES.iter().find(|(part, _)| name.contains(part));
        found.map_or(Self::Other, |(_, module)| *module)
    }

    /// In a word or two.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Embedding => "embeddings",
            Self::Norm => "norms",
            Self::Query => "attention q",
            Self::Key => "attention k",
            Self::Value => "attention v",
            Self::Qkv => "attention qkv",
            Self::Out => "attention o",
            Self::Ssm => "state space",
            Self::Router => "router",
            Self::Gate => "mlp gate",
            Self::Up => "mlp up",
            Self::Down => "mlp down",
            Self::Head => "head",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// Where in a model a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The layer, from 0; none of tensors of the whole model.
    pub layer: Option<u64>,
    /// The part.
    pub module: Module,
}

impl Place {
    /// The place that a name says.
    pub fn of(name: &TensorName) -> Self {
        Self { layer: LayerName::of(name).map(|name| name.layer), module: Module::of(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_naming_are_known() {
        let module = |name: &str| Module::of(&TensorName::new(name).unwrap());
        for (name, expected) in [
            ("model.embed_tokens.weight", Module::Embedding),
            ("token_embd.weight", Module::Embedding),
            ("transformer.word_embeddings.weight", Module::Embedding),
            ("model.layers.3.self_attn.q_proj.weight", Module::Query),
            ("model.layers.3.self_attn.q_norm.weight", Module::Norm),
            ("blk.0.attn_q.weight", Module::Query),
            ("blk.0.attn_q_norm.weight", Module::Norm),
            ("blk.0.attn_qkv.weight", Module::Qkv),
            ("transformer.h.0.self_attention.query_key_value.weight", Module::Qkv),
            ("blk.0.attn_k.weight", Module::Key),
            ("model.layers.3.self_attn.v_proj.bias", Module::Value),
            ("blk.0.attn_output.weight", Module::Out),
            ("transformer.h.0.self_attention.dense.weight", Module::Out),
            ("blk.0.ffn_gate.weight", Module::Gate),
            ("blk.0.ffn_gate_inp.weight", Module::Router),
            ("model.layers.1.mlp.gate.weight", Module::Router),
            ("model.layers.1.mlp.gate_up_proj.weight", Module::Up),
            ("model.layers.1.mlp.experts.7.down_proj.weight", Module::Down),
            ("model.layers.1.block_sparse_moe.experts.0.w2.weight", Module::Down),
            ("transformer.h.0.mlp.dense_4h_to_h.weight", Module::Down),
            ("blk.0.ffn_norm.weight", Module::Norm),
            ("output_norm.weight", Module::Norm),
            ("output.weight", Module::Head),
            ("lm_head.weight", Module::Head),
            ("backbone.layers.0.mixer.in_proj.weight", Module::Ssm),
            ("layer.1", Module::Other),
        ] {
            assert_eq!(module(name), expected, "{name}");
        }
    }
}
