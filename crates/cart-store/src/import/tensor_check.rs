//! Whether a model has the tensors that its configuration asks for.

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::{BlockSpec, MixerSpec, MlpSpec, TensorNaming};

use crate::import::error::ImportError;

/// What came of comparing configuration and tensors that do not contradict each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Every tensor is there.
    Full {
        /// Tensors that the architecture does not use.
        unused: Vec<String>,
    },
    /// None of the names is there: the tensors are named in another way.
    OtherNames,
}

/// Compares the tensors that `spec` asks for with those that are there.
pub(crate) fn check(spec: &ArchSpec, shapes: &BTreeMap<&str, &[u64]>) -> Result<Fit, ImportError> {
    let expected = expected(spec);
    if !expected.iter().any(|(name, _)| shapes.contains_key(name.as_str())) {
        return Ok(Fit::OtherNames);
    }
    for (name, shape) in &expected {
        let Some(&found) = shapes.get(name.as_str()) else {
            let (tensor, expected) = (name.clone(), shape.clone());
            return Err(ImportError::MissingTensor { tensor, expected });
        };
        if found != shape.as_slice() {
            let (tensor, found, expected) = (name.clone(), found.to_vec(), shape.clone());
            return Err(ImportError::TensorShape { tensor, found, expected });
        }
    }
    let used: std::collections::BTreeSet<&str> =
        expected.iter().map(|(name, _)| name.as_str()).collect();
    let unused = shapes.keys().filter(|name| !used.contains(**name));
    Ok(Fit::Full { unused: unused.map(|&name| name.to_owned()).collect() })
}

/// The tensors of an architecture, with their shapes (spec 21).
fn expected(spec: &ArchSpec) -> Vec<(String, Vec<u64>)> {
    let names = Names::of(spec.naming);
    let mut tensors = vec![
        (names.embedding.to_owned(), vec![spec.vocab_size, spec.hidden_size]),
        (names.final_norm.to_owned(), vec![spec.hidden_size]),
    ];
    if !spec.tied_head {
        tensors.push((names.head.to_owned(), vec![spec.vocab_size, spec.hidden_size]));
    }
    for (layer, block) in spec.layer_blocks().enumerate() {
        let prefix = format!("{}.{layer}", names.layer);
        for (name, shape) in of_block(&names, block, spec.hidden_size) {
            tensors.push((format!("{prefix}.{name}"), shape));
        }
    }
    tensors
}

fn of_block(names: &Names, block: &BlockSpec, hidden: u64) -> Vec<(String, Vec<u64>)> {
    let MixerSpec::Attention(attention) = &block.mixer;
    let (queries, keys) =
        (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
    let mut tensors = vec![
        (format!("{}.weight", names.attention_norm), vec![hidden]),
        (format!("{}.weight", names.mlp_norm), vec![hidden]),
    ];
    let mut linear = |name: &str, out: u64, input: u64, bias: bool| {
        tensors.push((format!("{name}.weight"), vec![out, input]));
        if bias {
            tensors.push((format!("{name}.bias"), vec![out]));
        }
    };
    linear(names.query, queries, hidden, attention.qkv_bias);
    linear(names.key, keys, hidden, attention.qkv_bias);
    linear(names.value, keys, hidden, attention.qkv_bias);
    linear(names.output, hidden, queries, attention.out_bias);
    let (MlpSpec::Gated(dense) | MlpSpec::Plain(dense)) = &block.mlp;
    if matches!(block.mlp, MlpSpec::Gated(_)) {
        linear(names.gate, dense.intermediate_size, hidden, dense.bias);
    }
    linear(names.up, dense.intermediate_size, hidden, dense.bias);
    linear(names.down, hidden, dense.intermediate_size, dense.bias);
    if attention.qk_norm.is_some() {
        tensors.push((format!("{}.weight", names.query_norm), vec![attention.head_dim]));
        tensors.push((format!("{}.weight", names.key_norm), vec![attention.head_dim]));
    }
    tensors
}

/// The names of roles (spec 21).
struct Names {
    embedding: &'static str,
    final_norm: &'static str,
    head: &'static str,
    layer: &'static str,
    attention_norm: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    output: &'static str,
    query_norm: &'static str,
    key_norm: &'static str,
    mlp_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

impl Names {
    const fn of(naming: TensorNaming) -> Self {
        match naming {
            TensorNaming::Hf => Self {
                embedding: "model.embed_tokens.weight",
                final_norm: "model.norm.weight",
                head: "lm_head.weight",
                layer: "model.layers",
                attention_norm: "input_layernorm",
                query: "self_attn.q_proj",
                key: "self_attn.k_proj",
                value: "self_attn.v_proj",
                output: "self_attn.o_proj",
                query_norm: "self_attn.q_norm",
                key_norm: "self_attn.k_norm",
                mlp_norm: "post_attention_layernorm",
                gate: "mlp.gate_proj",
                up: "mlp.up_proj",
                down: "mlp.down_proj",
            },
            TensorNaming::Gguf => Self {
                embedding: "token_embd.weight",
                final_norm: "output_norm.weight",
                head: "output.weight",
                layer: "blk",
                attention_norm: "attn_norm",
                query: "attn_q",
                key: "attn_k",
                value: "attn_v",
                output: "attn_output",
                query_norm: "attn_q_norm",
                key_norm: "attn_k_norm",
                mlp_norm: "ffn_norm",
                gate: "ffn_gate",
                up: "ffn_up",
                down: "ffn_down",
            },
        }
    }
}
