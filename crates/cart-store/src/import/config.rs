//! What a Hugging Face `config.json` computes.

mod falcon;
mod family;
mod layers;
pub(crate) mod mamba;
mod rope;
#[cfg(test)]
mod tests;

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, ExpertsSpec, MixerSpec, MlpSpec, NormKind,
    NormSpec, SharedExpertSpec,
};
use serde_json::Value;

use crate::import::config::family::{Bias, Cap, Experts, FAMILIES, Family};
use crate::import::config::layers::LayerKind;
pub(crate) use crate::import::config::layers::{MAX_LAYERS, distinct};
use crate::import::config::rope::{Defaults, Known, Rotations, rotations};
use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// What a model's configuration turned into.
#[derive(Debug, PartialEq)]
pub(crate) enum Mapped {
    /// An architecture that can be run.
    Spec(ArchSpec),
    /// Something that [`ArchSpec`] can't say, and what.
    Beyond(String),
}

/// Reads `config.json`.
pub(crate) fn map_config(config: &Value) -> Result<Mapped, ImportError> {
    let fields = Fields::new(config)?;
    let Some(model_type) = fields.text("model_type")? else {
        return Ok(Mapped::Beyond("config.json names no model_type".to_owned()));
    };
    if fields.get("quantization_config").is_some() {
        return Ok(Mapped::Beyond("the weights are quantized (quantization_config)".to_owned()));
    }
    let known = match FAMILIES.iter().find(|family| family.model_type == model_type) {
        Some(family) => Reader::new(family, &fields)?.spec()?,
        None if model_type == "falcon" => falcon::map(&fields)?,
        None if mamba::TYPES.contains(&model_type) => mamba::map(model_type, &fields)?,
        None => Err(unknown(model_type)),
    };
    match known {
        Ok(spec) => {
            spec.check()?;
            Ok(Mapped::Spec(spec))
        }
        Err(beyond) => Ok(Mapped::Beyond(beyond)),
    }
}

fn unknown(model_type: &str) -> String {
    let families = FAMILIES.iter().map(|family| family.model_type);
    let families: Vec<_> = families.chain(["falcon"]).chain(mamba::TYPES).collect();
    format!("model_type `{model_type}` is not known; known: {}", families.join(", "))
}

/// Reads a configuration with the field names of Llama.
struct Reader<'a> {
    family: &'a Family,
    fields: &'a Fields<'a>,
    hidden_size: u64,
    context_length: u64,
    norm: NormSpec,
}

impl<'a> Reader<'a> {
    fn new(family: &'a Family, fields: &'a Fields<'a>) -> Result<Self, ImportError> {
        let eps = fields.float("rms_norm_eps")?.unwrap_or(family.norm_eps);
        let context = fields.number("max_position_embeddings")?;
        Ok(Self {
            family,
            fields,
            hidden_size: fields.need("hidden_size")?,
            context_length: context.unwrap_or(family.context_length),
            norm: NormSpec { kind: NormKind::Rms, eps, unit_offset: family.unit_offset },
        })
    }

    fn spec(&self) -> Result<Known<ArchSpec>, ImportError> {
        let Self { family, fields, .. } = self;
        if fields.flag("use_bidirectional_attention")?.unwrap_or(false) {
            let beyond = "`use_bidirectional_attention` is true; only causal attention is known";
            return Ok(Err(beyond.to_owned()));
        }
        let head_dim = self.head_dim()?;
        let defaults = Defaults {
            head_dim,
            theta: family.theta,
            local_theta: family.local_theta,
            context_length: self.context_length,
        };
        let rotations = match rotations(fields, &defaults)? {
            Ok(rotations) => rotations,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let activation = match self.activation()? {
            Ok(activation) => activation,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let kinds = layers::kinds(fields, family.windows, family.no_rope_every, family.experts)?;
        let blocks: Result<Vec<_>, _> = kinds
            .into_iter()
            .map(|kind| self.block(kind, head_dim, &rotations, activation))
            .collect();
        let (blocks, layers) = distinct(blocks?.into_iter());
        let tied_head = fields.flag("tie_word_embeddings")?;
        Ok(Ok(ArchSpec {
            family: family.model_type.to_owned(),
            naming: family.naming,
            vocab_size: fields.need("vocab_size")?,
            hidden_size: self.hidden_size,
            context_length: self.context_length,
            embedding_scale: family.scaled_embedding.then(|| (self.hidden_size as f64).sqrt()),
            tied_head: tied_head.unwrap_or(family.tied_head),
            final_norm: self.norm.clone(),
            logit_softcap: self.soft_cap("final_logit_softcapping", family.logit_cap)?,
            blocks,
            layers,
        }))
    }

    fn block(
        &self,
        kind: LayerKind,
        head_dim: u64,
        rotations: &Rotations,
        activation: Activation,
    ) -> Result<BlockSpec, ImportError> {
        let mlp = match self.family.experts {
            Some(experts) if kind.experts => MlpSpec::Experts(self.experts(experts, activation)?),
            _ => MlpSpec::Gated(DenseSpec {
                intermediate_size: self.fields.need("intermediate_size")?,
                activation,
                bias: self.bias(self.family.mlp_bias)?,
                fused: self.family.fused_mlp,
            }),
        };
        Ok(BlockSpec {
            norm: self.norm.clone(),
            placement: self.family.placement,
            mixer: Some(MixerSpec::Attention(self.attention(kind, head_dim, rotations)?)),
            mlp: Some(mlp),
        })
    }

    fn attention(
        &self,
        kind: LayerKind,
        head_dim: u64,
        rotations: &Rotations,
    ) -> Result<AttentionSpec, ImportError> {
        let Self { family, fields, .. } = self;
        let heads = fields.need("num_attention_heads")?;
        let scale = match (fields.float("query_pre_attn_scalar")?, family.query_scalar) {
            (Some(stated), Some(_)) => Some(stated.powf(-0.5)),
            (None, Some(scalar)) => Some(scalar.powf(-0.5)),
            (_, None) => None,
        };
        let rope = if kind.window.is_some() { &rotations.local } else { &rotations.global };
        Ok(AttentionSpec {
            heads,
            kv_heads: fields.number("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            scale,
            rope: kind.rotated.then(|| rope.clone()),
            window: kind.window,
            score_softcap: self.soft_cap("attn_logit_softcapping", family.score_cap)?,
            qkv: family.qkv,
            qkv_bias: self.bias(family.qkv_bias)?,
            out_bias: self.bias(family.out_bias)?,
            qk_norm: family.qk_norm.then(|| self.norm.clone()),
        })
    }

    fn experts(
        &self,
        experts: Experts,
        activation: Activation,
    ) -> Result<ExpertsSpec, ImportError> {
        let fields = self.fields;
        let count = fields.number("num_experts")?.or(fields.number("num_local_experts")?);
        let normalized = match experts.normalized {
            Some(normalized) => normalized,
            None => fields.flag("norm_topk_prob")?.unwrap_or(false),
        };
        let shared = match experts.shared {
            Some(size) => Some(SharedExpertSpec {
                intermediate_size: fields
                    .number("shared_expert_intermediate_size")?
                    .unwrap_or(size),
                gated: true,
            }),
            None => None,
        };
        Ok(ExpertsSpec {
            experts: count.unwrap_or(experts.count),
            active: fields.number("num_experts_per_tok")?.unwrap_or(experts.active),
            intermediate_size: fields.number(experts.width.0)?.unwrap_or(experts.width.1),
            activation,
            normalized,
            shared,
        })
    }

    fn head_dim(&self) -> Result<u64, ImportError> {
        let heads = self.fields.need("num_attention_heads")?;
        let stated = self.fields.number("head_dim")?.or(self.family.head_dim);
        Ok(stated.unwrap_or(self.hidden_size / heads.max(1)))
    }

    fn activation(&self) -> Result<Known<Activation>, ImportError> {
        let names = ["hidden_activation", "hidden_act"];
        let found = activation(self.fields, &names, self.family.activation)?;
        Ok(found.map(|found| match found {
            Activation::Gelu if self.family.gelu_is_tanh => Activation::GeluTanh,
            found => found,
        }))
    }

    fn soft_cap(&self, name: &str, cap: Cap) -> Result<Option<f64>, ImportError> {
        match cap {
            Cap::Never => Ok(None),
            Cap::Field(absent) if self.fields.lacks(name) => Ok(absent),
            Cap::Field(_) => self.fields.float(name),
        }
    }

    fn bias(&self, bias: Bias) -> Result<bool, ImportError> {
        match bias {
            Bias::Never => Ok(false),
            Bias::Field(name, absent) => Ok(self.fields.flag(name)?.unwrap_or(absent)),
        }
    }
}

/// The activation that the first of the fields `names` names.
fn activation(
    fields: &Fields<'_>,
    names: &[&str],
    absent: Activation,
) -> Result<Known<Activation>, ImportError> {
    for name in names {
        let Some(found) = fields.text(name)? else { continue };
        return Ok(match found {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::ReluSquared),
            other => Err(format!(
                "{name} `{other}` is not known; known: silu, gelu, gelu_pytorch_tanh, relu, relu2"
            )),
        });
    }
    Ok(Ok(absent))
}
