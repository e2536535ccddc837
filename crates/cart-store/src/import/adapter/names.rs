//! Which tensor of a base an adapter's tensor is for.

use std::collections::BTreeMap;
use std::fmt;

use cart_format::arch::{AttentionSpec, MixerSpec, Part, RopePairing, TensorNaming};
use cart_format::low_rank::Values;
use cart_format::{ArchSpec, Manifest, TensorName};

use super::error::AdapterError;

/// What stands before the names of modules.
const WRAPPED: &str = "base_model.model.";

/// What an adapter's tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `[rank, in]`
    A,
    /// `[out, rank]`
    B,
    /// `[rank, tokens]`
    EmbeddingA,
    /// `[hidden, rank]`
    EmbeddingB,
    /// A tensor in place of the base's.
    Whole,
    /// The base's own.
    Was,
}

/// A module of `transformers`, and which of its tensors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) module: String,
    tensor: &'static str,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.module, self.tensor)
    }
}

/// What a tensor's name in an adapter says; none where that is nothing of a LoRA.
pub(super) fn split(key: &str) -> Option<(Role, Target)> {
    let path = key.strip_prefix(WRAPPED).unwrap_or(key);
    for (end, role) in [
        (".lora_A.weight", Role::A),
        (".lora_B.weight", Role::B),
        (".lora_embedding_A", Role::EmbeddingA),
        (".lora_embedding_B", Role::EmbeddingB),
        (".base_layer.weight", Role::Was),
    ] {
        if let Some(module) = path.strip_suffix(end) {
            return Some((role, Target { module: module.to_owned(), tensor: "weight" }));
        }
    }
    if path.contains(".lora_") || path.contains("token_adapter") {
        return None;
    }
    let path = path.replace(".modules_to_save.", ".");
    for tensor in ["weight", "bias"] {
        if let Some(module) = path.strip_suffix(tensor).and_then(|path| path.strip_suffix('.')) {
            return Some((Role::Whole, Target { module: module.to_owned(), tensor }));
        }
    }
    None
}

/// The names of a base.
pub(super) struct Names<'a> {
    base: &'a Manifest,
    /// The base's names of tensors by those of `transformers`, where they are others.
    renamed: BTreeMap<String, String>,
    /// The heads of tensors whose rows the base orders otherwise.
    heads: BTreeMap<String, u64>,
}

impl<'a> Names<'a> {
    pub(super) fn of(base: &'a Manifest) -> Result<Self, AdapterError> {
        let mut names = Self { base, renamed: BTreeMap::new(), heads: BTreeMap::new() };
        let Some(document) = &base.model.architecture else { return Ok(names) };
        let spec = ArchSpec::from_value(document)?;
        if spec.naming != TensorNaming::Gguf {
            return Ok(names);
        }
        let naming =
            if spec.family == "falcon" { TensorNaming::HfFalcon } else { TensorNaming::Hf };
        let ours = spec.tensors();
        let theirs = ArchSpec { naming, ..spec.clone() }.tensors();
        // Where experts are stacked, one tensor is many modules, and the lists have other lengths.
        if ours.len() == theirs.len() {
            let pairs = theirs.into_iter().zip(ours);
            names.renamed = pairs.map(|(theirs, ours)| (theirs.name, ours.name)).collect();
        }
        for (layer, block) in spec.layer_blocks().enumerate() {
            if let Some(MixerSpec::Attention(attention)) = &block.mixer {
                for (part, heads) in
                    [(Part::Query, attention.heads), (Part::Key, attention.kv_heads)]
                {
                    let tensor = spec.naming.part(layer, part, block);
                    names.add_order(&tensor, heads, attention)?;
                }
            }
        }
        Ok(names)
    }

    /// Notes the heads of a query or key whose rotated pairs are neighbours in the base.
    fn add_order(
        &mut self,
        tensor: &str,
        heads: u64,
        attention: &AttentionSpec,
    ) -> Result<(), AdapterError> {
        let Some(rope) = &attention.rope else { return Ok(()) };
        if rope.pairing != RopePairing::Interleaved {
            return Ok(());
        }
        if rope.dims != attention.head_dim {
            let (dims, head_dim) = (rope.dims, attention.head_dim);
            return Err(AdapterError::Order { tensor: tensor.to_owned(), dims, head_dim });
        }
        for kind in ["weight", "bias"] {
            self.heads.insert(format!("{tensor}.{kind}"), heads);
        }
        Ok(())
    }

    /// The base's name of a tensor of `transformers`.
    pub(super) fn tensor(&self, name: &str) -> Option<&str> {
        let name = self.renamed.get(name).map_or(name, String::as_str);
        let found = self.base.model.tensors.get_key_value(name);
        found.map(|(name, _)| name.as_str())
    }

    /// Rows in the order of the base's tensor: within a head, `transformers` has the first halves of all
    /// pairs before the second ones, GGUF's Llama each pair together.
    pub(super) fn reordered(&self, tensor: &TensorName, values: Values) -> Values {
        let Some(&heads) = self.heads.get(tensor.as_str()) else { return values };
        let rows = values.shape.first().copied().unwrap_or(0);
        let (width, half) = (rows / heads, rows / heads / 2);
        if width * heads != rows || half * 2 != width {
            return values;
        }
        let row = values.bytes.len() / (rows as usize).max(1);
        let mut bytes = Vec::with_capacity(values.bytes.len());
        for at in 0..rows {
            let (head, place) = (at / width, at % width);
            let from = head * width + place % 2 * half + place / 2;
            bytes.extend_from_slice(&values.bytes[from as usize * row..][..row]);
        }
        Values { bytes, ..values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_tensors_are() {
        let of = |key: &str| split(key).map(|(role, target)| (role, target.to_string()));
        let module = "model.layers.0.self_attn.q_proj";
        let weight = format!("{module}.weight");
        for (key, role) in [
            (format!("base_model.model.{module}.lora_A.weight"), Role::A),
            (format!("base_model.model.{module}.lora_B.weight"), Role::B),
            (format!("base_model.model.{module}.lora_embedding_A"), Role::EmbeddingA),
            (format!("base_model.model.{module}.base_layer.weight"), Role::Was),
            (format!("base_model.model.{module}.weight"), Role::Whole),
            (format!("base_model.model.{module}.modules_to_save.weight"), Role::Whole),
        ] {
            assert_eq!(of(&key), Some((role, weight.clone())), "{key}");
        }
        for key in
            ["lora_magnitude_vector", "lora_A.bias", "x", "token_adapter.trainable_tokens_delta"]
        {
            assert_eq!(of(&format!("base_model.model.{module}.{key}")), None, "{key}");
        }
    }
}
