//! Whether a model has the tensors that its configuration asks for.

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::TensorSpec;

use crate::import::error::ImportError;

/// What came of comparing configuration and tensors that do not contradict each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Every tensor is there.
    Full {
        /// Tensors that the architecture does not use.
        unused: Vec<String>,
    },
    /// A layer has a tensor that the architecture knows no use for, so it is another architecture.
    Unexplained(String),
    /// None of the names is there: the tensors are named in another way.
    OtherNames,
}

/// Compares the tensors that `spec` asks for with those that are there.
pub(crate) fn check(spec: &ArchSpec, shapes: &BTreeMap<&str, &[u64]>) -> Result<Fit, ImportError> {
    let expected = spec.tensors();
    if !expected.iter().any(|tensor| shapes.contains_key(tensor.name.as_str())) {
        return Ok(Fit::OtherNames);
    }
    for TensorSpec { name, shape } in &expected {
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
        expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let unused = shapes.keys().filter(|name| !used.contains(**name));
    let unused: Vec<String> = unused.map(|&name| name.to_owned()).collect();
    match unused.iter().find(|name| is_of_a_layer(name) && !is_computed(name)) {
        Some(name) => Ok(Fit::Unexplained(name.clone())),
        None => Ok(Fit::Full { unused }),
    }
}

fn is_of_a_layer(name: &str) -> bool {
    ["model.layers.", "transformer.h.", "backbone.layers.", "blk."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Tables of rotation, which older checkpoints carry and everyone computes.
fn is_computed(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn_rot_embd.weight")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::import::config::{Mapped, map_config};

    #[test]
    fn tensors_that_a_layer_should_not_have_are_named() {
        let config = json!({
            "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1,
        });
        let Mapped::Spec(spec) = map_config(&config).unwrap() else { panic!() };
        let tensors = spec.tensors();
        let fit = |more: &'static str| {
            let mut shapes: BTreeMap<&str, &[u64]> = tensors
                .iter()
                .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
                .collect();
            shapes.insert(more, &[1]);
            check(&spec, &shapes).unwrap()
        };
        for more in ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.up_proj.weight"]
        {
            assert_eq!(fit(more), Fit::Unexplained(more.to_owned()));
        }
        for more in ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision.patch.weight"] {
            assert_eq!(fit(more), Fit::Full { unused: vec![more.to_owned()] });
        }
    }
}
