//! What the metadata of a GGUF file compute.

mod family;
mod keys;
mod mamba;
mod rope;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::{
    AttentionSpec, BlockSpec, DenseSpec, ExpertsSpec, MixerSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, RopeSpec, SharedExpertSpec, TensorNaming,
};
use cart_format::gguf::{Head, Value};
use serde_json::Value as Json;

use crate::import::config::{MAX_LAYERS, Mapped, distinct};
use crate::import::error::ImportError;
use crate::import::gguf_config::family::{FAMILIES, Family, Mlp};
use crate::import::gguf_config::keys::{Keys, Pattern};

/// Reads the architecture of a GGUF file.
pub(crate) fn map_metadata(head: &Head) -> Result<Mapped, ImportError> {
    let Some(name) = head.value("general.architecture").and_then(Value::as_str) else {
        return Ok(Mapped::Beyond("the GGUF names no general.architecture".to_owned()));
    };
    let keys = Keys { head, family: name };
    let known = match FAMILIES.iter().find(|family| family.name == name) {
        Some(family) => Reader { keys, family }.spec()?,
        None if mamba::FAMILIES.contains(&name) => mamba::map(keys)?,
        None => Err(unknown(name)),
    };
    match known {
        Ok(spec) => {
            spec.check()?;
            Ok(Mapped::Spec(spec))
        }
        Err(beyond) => Ok(Mapped::Beyond(beyond)),
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = FAMILIES.iter().map(|family| family.name).chain(mamba::FAMILIES).collect();
    format!("the GGUF architecture `{name}` is not known; known: {}", known.join(", "))
}

/// Name, licence and languages, where the metadata have them.
pub(crate) fn describe(head: &Head) -> BTreeMap<String, Json> {
    let mut facts = BTreeMap::new();
    let texts = [
        ("name", "general.name"),
        ("organization", "general.organization"),
        ("license", "general.license"),
    ];
    for (fact, key) in texts {
        if let Some(text) = head.value(key).and_then(Value::as_str) {
            facts.insert(fact.to_owned(), Json::from(text));
        }
    }
    if let Some(languages) = head.value("general.languages").and_then(Value::as_strings) {
        facts.insert("languages".to_owned(), Json::from(languages));
    }
    facts
}

/// Reads the metadata of attention layers.
struct Reader<'a> {
    keys: Keys<'a>,
    family: &'a Family,
}

/// Width and rotations of the heads.
struct Heads {
    dim: u64,
    /// In layers that see everything.
    global: RopeSpec,
    /// In layers with a window.
    local: RopeSpec,
}

impl Reader<'_> {
    fn spec(&self) -> Result<Result<ArchSpec, String>, ImportError> {
        let Self { keys, family } = self;
        let heads = match self.heads()? {
            Ok(heads) => heads,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let layers = keys.need("block_count")?;
        if layers > MAX_LAYERS {
            return Err(keys.refuse("block_count", "1 to 10000"));
        }
        let windows = self.windows(layers)?;
        let hidden_size = keys.need("embedding_length")?;
        let blocks: Result<Vec<_>, _> = (0..layers)
            .zip(windows)
            .map(|(layer, window)| self.block(&heads, layer, window))
            .collect();
        let (blocks, layers) = distinct(blocks?.into_iter());
        Ok(Ok(ArchSpec {
            family: family.name.to_owned(),
            naming: TensorNaming::Gguf,
            vocab_size: keys.vocab_size()?,
            hidden_size,
            context_length: keys.need("context_length")?,
            embedding_scale: family.scaled_embedding.then(|| (hidden_size as f64).sqrt()),
            tied_head: !keys.has_tensor("output.weight"),
            final_norm: self.norm()?,
            logit_softcap: keys.float("final_logit_softcapping")?,
            blocks,
            layers,
        }))
    }

    fn heads(&self) -> Result<Result<Heads, String>, ImportError> {
        let Self { keys, family } = self;
        let default = keys.need("embedding_length")? / keys.need("attention.head_count")?.max(1);
        let dim = keys.number("attention.key_length")?.unwrap_or(default);
        if let Some(value) = keys.number("attention.value_length")?.filter(|&value| value != dim) {
            return Ok(Err(format!(
                "keys of width {dim} and values of width {value} are not known"
            )));
        }
        let global = match rope::global(keys, dim, family.pairing)? {
            Ok(global) => global,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let local = rope::local(keys, &global, family.local_theta)?;
        Ok(Ok(Heads { dim, global, local }))
    }

    fn block(
        &self,
        heads: &Heads,
        layer: u64,
        window: Option<u64>,
    ) -> Result<BlockSpec, ImportError> {
        let two_norms = self.keys.has_tensor(&format!("blk.{layer}.attn_norm_2.weight"));
        let placement = match self.family.placement {
            NormPlacement::ParallelShared if two_norms => NormPlacement::Parallel,
            placement => placement,
        };
        Ok(BlockSpec {
            norm: self.norm()?,
            placement,
            mixer: Some(MixerSpec::Attention(self.attention(heads, layer, window)?)),
            mlp: Some(self.mlp(layer)?),
        })
    }

    fn attention(
        &self,
        heads: &Heads,
        layer: u64,
        window: Option<u64>,
    ) -> Result<AttentionSpec, ImportError> {
        let Self { keys, family } = self;
        let has = |part: &str| keys.has_tensor(&format!("blk.{layer}.{part}"));
        let count = keys.need("attention.head_count")?;
        let rope = if window.is_some() { &heads.local } else { &heads.global };
        let rotated = family.no_rope_every.is_none_or(|every| !(layer + 1).is_multiple_of(every));
        let scale = match keys.float("attention.scale")? {
            Some(scale) => Some(scale),
            None if family.scale_by_width == keys.number("block_count")? => {
                let width = keys.need("embedding_length")? / count.max(1);
                Some((width as f64).powf(-0.5))
            }
            None => None,
        };
        Ok(AttentionSpec {
            heads: count,
            kv_heads: keys.number("attention.head_count_kv")?.unwrap_or(count),
            head_dim: heads.dim,
            scale,
            rope: rotated.then(|| rope.clone()),
            window,
            score_softcap: keys.float("attn_logit_softcapping")?,
            qkv: family.qkv,
            qkv_bias: has("attn_q.bias") || has("attn_qkv.bias"),
            out_bias: has("attn_output.bias"),
            qk_norm: if has("attn_q_norm.weight") { Some(self.norm()?) } else { None },
        })
    }

    fn mlp(&self, layer: u64) -> Result<MlpSpec, ImportError> {
        let Self { keys, family } = self;
        let has = |part: &str| keys.has_tensor(&format!("blk.{layer}.{part}"));
        let experts = keys.number("expert_count")?.unwrap_or(0);
        if experts > 0 && (has("ffn_gate_inp.weight") || !has("ffn_up.weight")) {
            return Ok(MlpSpec::Experts(self.experts(experts, layer)?));
        }
        let dense = DenseSpec {
            intermediate_size: keys.need("feed_forward_length")?,
            activation: family.activation,
            bias: has("ffn_up.bias"),
            fused: family.mlp == Mlp::Fused,
        };
        Ok(if family.mlp == Mlp::Plain { MlpSpec::Plain(dense) } else { MlpSpec::Gated(dense) })
    }

    fn experts(&self, experts: u64, layer: u64) -> Result<ExpertsSpec, ImportError> {
        let Self { keys, family } = self;
        let width = |key| match keys.number(key)? {
            Some(width) => Ok(width),
            None => keys.need("feed_forward_length"),
        };
        let shared = if keys.has_tensor(&format!("blk.{layer}.ffn_up_shexp.weight")) {
            let gated = keys.has_tensor(&format!("blk.{layer}.ffn_gate_inp_shexp.weight"));
            let intermediate_size = width("expert_shared_feed_forward_length")?;
            Some(SharedExpertSpec { intermediate_size, gated })
        } else {
            None
        };
        let normalized = keys.flag("expert_weights_norm")?;
        Ok(ExpertsSpec {
            experts,
            active: keys.need("expert_used_count")?,
            intermediate_size: width("expert_feed_forward_length")?,
            activation: family.activation,
            normalized: normalized.unwrap_or(family.normalized_experts),
            shared,
        })
    }

    fn windows(&self, layers: u64) -> Result<Vec<Option<u64>>, ImportError> {
        let Self { keys, family } = self;
        let window = keys.number("attention.sliding_window")?.filter(|&window| window > 0);
        let key = "attention.sliding_window_pattern";
        let every = match keys.flags_or_number(key)? {
            Some(Pattern::Flags(flags)) if flags.len() as u64 == layers => {
                return Ok(flags.into_iter().map(|windowed| window.filter(|_| windowed)).collect());
            }
            Some(Pattern::Flags(_)) => {
                return Err(keys.refuse(key, "one truth value for each layer of block_count"));
            }
            Some(Pattern::Number(0)) => return Err(keys.refuse(key, "1 or more")),
            Some(Pattern::Number(every)) => Some(every),
            None => family.all_but_every,
        };
        let windowed = |layer: u64| every.is_none_or(|every| !(layer + 1).is_multiple_of(every));
        Ok((0..layers).map(|layer| window.filter(|_| windowed(layer))).collect())
    }

    fn norm(&self) -> Result<NormSpec, ImportError> {
        let kind = self.family.norm;
        let key = match kind {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let eps = self.keys.float(key)?.ok_or_else(|| self.keys.refuse(key, "a number"))?;
        Ok(NormSpec { kind, eps, unit_offset: false })
    }
}
