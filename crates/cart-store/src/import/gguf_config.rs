//! What the metadata of a GGUF file compute.

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, MixerSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, RopePairing, RopeScaling, RopeSpec, TensorNaming,
};
use cart_format::gguf::{Head, Value};
use serde_json::Value as Json;

use crate::import::config::{MAX_LAYERS, Mapped};
use crate::import::error::ImportError;

/// Metadata under the prefix of an architecture.
struct Keys<'a> {
    head: &'a Head,
    family: &'a str,
}

/// Reads the architecture of a GGUF file.
pub(crate) fn map_metadata(head: &Head) -> Result<Mapped, ImportError> {
    let Some(family) = head.value("general.architecture").and_then(Value::as_str) else {
        return Ok(Mapped::Beyond("the GGUF names no general.architecture".to_owned()));
    };
    // Query and key rows of the Llama family are permuted when they are converted.
    let pairing = match family {
        "llama" => RopePairing::Interleaved,
        "qwen2" | "qwen3" => RopePairing::Halves,
        _ => return Ok(Mapped::Beyond(format!("the GGUF architecture `{family}` is not known"))),
    };
    let keys = Keys { head, family };
    if keys.number("expert_count")?.is_some_and(|experts| experts > 0) {
        return Ok(Mapped::Beyond("mixtures of experts are not known".to_owned()));
    }
    if keys.has_tensor("rope_freqs.weight") {
        return Ok(Mapped::Beyond(
            "RoPE frequencies that are a tensor (rope_freqs.weight) are not known".to_owned(),
        ));
    }
    let scaling = match keys.scaling()? {
        Ok(scaling) => scaling,
        Err(beyond) => return Ok(Mapped::Beyond(beyond)),
    };
    let Some(attention) = keys.attention(pairing, scaling)? else {
        return Ok(Mapped::Beyond("keys and values of two widths are not known".to_owned()));
    };
    let spec = keys.spec(attention)?;
    spec.check()?;
    Ok(Mapped::Spec(spec))
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

impl Keys<'_> {
    fn spec(&self, attention: AttentionSpec) -> Result<ArchSpec, ImportError> {
        let layers = self.need("block_count")?;
        if layers > MAX_LAYERS {
            return Err(self.refuse("block_count", "1 to 10000"));
        }
        let norm = self.norm()?;
        let block = BlockSpec {
            norm: norm.clone(),
            placement: NormPlacement::Pre,
            mixer: Some(MixerSpec::Attention(attention)),
            mlp: Some(MlpSpec::Gated(DenseSpec {
                intermediate_size: self.need("feed_forward_length")?,
                activation: Activation::Silu,
                bias: self.has_tensor("blk.0.ffn_up.bias"),
            })),
        };
        Ok(ArchSpec {
            family: self.family.to_owned(),
            naming: TensorNaming::Gguf,
            vocab_size: self.vocab_size()?,
            hidden_size: self.need("embedding_length")?,
            context_length: self.need("context_length")?,
            embedding_scale: None,
            tied_head: !self.has_tensor("output.weight"),
            final_norm: norm,
            logit_softcap: None,
            blocks: vec![block],
            layers: vec![0; layers as usize],
        })
    }

    /// `None` where keys and values have different widths.
    fn attention(
        &self,
        pairing: RopePairing,
        scaling: Option<RopeScaling>,
    ) -> Result<Option<AttentionSpec>, ImportError> {
        let heads = self.need("attention.head_count")?;
        let default = self.need("embedding_length")? / heads.max(1);
        let head_dim = self.number("attention.key_length")?.unwrap_or(default);
        if self.number("attention.value_length")?.is_some_and(|width| width != head_dim) {
            return Ok(None);
        }
        let rope = RopeSpec {
            theta: self.float("rope.freq_base")?.unwrap_or(10_000.0),
            dims: self.number("rope.dimension_count")?.unwrap_or(head_dim),
            pairing,
            scaling,
        };
        let normed = self.has_tensor("blk.0.attn_q_norm.weight");
        Ok(Some(AttentionSpec {
            heads,
            kv_heads: self.number("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            scale: self.float("attention.scale")?,
            rope: Some(rope),
            window: self.number("attention.sliding_window")?.filter(|&window| window > 0),
            score_softcap: None,
            qkv_bias: self.has_tensor("blk.0.attn_q.bias"),
            out_bias: self.has_tensor("blk.0.attn_output.bias"),
            qk_norm: if normed { Some(self.norm()?) } else { None },
        }))
    }

    fn scaling(&self) -> Result<Result<Option<RopeScaling>, String>, ImportError> {
        let kind = match self.value("rope.scaling.type") {
            None => "none",
            Some(value) => {
                value.as_str().ok_or_else(|| self.refuse("rope.scaling.type", "a text"))?
            }
        };
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        Ok(match (kind, factor) {
            ("none", None | Some(1.0)) => Ok(None),
            ("none" | "linear", Some(factor)) => Ok(Some(RopeScaling::Linear { factor })),
            ("linear", None) => return Err(self.refuse("rope.scaling.factor", "a number")),
            (other, _) => Err(format!("the RoPE scaling `{other}` is not known")),
        })
    }

    fn norm(&self) -> Result<NormSpec, ImportError> {
        let key = "attention.layer_norm_rms_epsilon";
        let eps = self.float(key)?.ok_or_else(|| self.refuse(key, "a number"))?;
        Ok(NormSpec { kind: NormKind::Rms, eps, unit_offset: false })
    }

    /// Rows of the embedding. (The key `vocab_size` is often absent.)
    fn vocab_size(&self) -> Result<u64, ImportError> {
        let embedding = self.head.tensors.iter().find(|tensor| tensor.name.as_str() == EMBEDDING);
        match embedding.map(|tensor| tensor.shape.as_slice()) {
            Some(&[rows, _]) => Ok(rows),
            Some(shape) => Err(ImportError::TensorShape {
                tensor: EMBEDDING.to_owned(),
                found: shape.to_vec(),
                expected: vec![
                    self.number("vocab_size")?.unwrap_or(0),
                    self.need("embedding_length")?,
                ],
            }),
            None => Err(ImportError::MissingTensor {
                tensor: EMBEDDING.to_owned(),
                expected: vec![
                    self.number("vocab_size")?.unwrap_or(0),
                    self.need("embedding_length")?,
                ],
            }),
        }
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.head.tensors.iter().any(|tensor| tensor.name.as_str() == name)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.head.value(&format!("{}.{key}", self.family))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, ImportError> {
        let read = |value: &Value| value.as_u64();
        self.read(key, "a whole number, 0 or more, the same for all layers", read)
    }

    fn need(&self, key: &str) -> Result<u64, ImportError> {
        self.number(key)?.ok_or_else(|| self.refuse(key, "a whole number, 0 or more"))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.read(key, "a floating-point number", Value::as_f64)
    }

    fn read<T>(
        &self,
        key: &str,
        allowed: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(key, allowed)),
        }
    }

    fn refuse(&self, key: &str, allowed: &'static str) -> ImportError {
        let found = self.value(key).map_or_else(|| "absent".to_owned(), Value::describe);
        ImportError::GgufField { key: format!("{}.{key}", self.family), found, allowed }
    }
}

/// GGUF's name of the embedding.
const EMBEDDING: &str = "token_embd.weight";

#[cfg(test)]
mod tests {
    use cart_format::gguf::Parsed;

    use super::*;

    fn smollm2() -> Head {
        let bytes = include_bytes!("../../../../fixtures/gguf/smollm2-head.gguf");
        match Head::parse(bytes, 98_362_432).unwrap() {
            Parsed::Head(head) => head,
            Parsed::NeedMore(more) => panic!("the fixture lacks bytes up to {more}"),
        }
    }

    fn set(head: &mut Head, key: &str, value: Value) {
        head.metadata.retain(|(found, _)| found != key);
        head.metadata.push((key.to_owned(), value));
    }

    fn beyond(head: &Head) -> String {
        match map_metadata(head).unwrap() {
            Mapped::Beyond(reason) => reason,
            Mapped::Spec(spec) => panic!("{spec:?}"),
        }
    }

    #[test]
    fn smollm2_is_a_llama_with_interleaved_rope_and_a_tied_head() {
        let head = smollm2();
        let Mapped::Spec(spec) = map_metadata(&head).unwrap() else { panic!() };
        assert_eq!((spec.vocab_size, spec.hidden_size, spec.layers.len()), (49_152, 576, 30));
        assert_eq!((spec.context_length, spec.tied_head), (8192, true));
        assert_eq!(spec.final_norm.eps, 1e-5);
        let Some(MixerSpec::Attention(attention)) = &spec.blocks[0].mixer else { panic!() };
        assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (9, 3, 64));
        let rope = attention.rope.as_ref().unwrap();
        assert_eq!((rope.theta, rope.dims, rope.pairing), (1e5, 64, RopePairing::Interleaved));
        let facts = describe(&head);
        assert_eq!(facts["license"], "apache-2.0");
        assert_eq!(facts["languages"], serde_json::json!(["en"]));
    }

    #[test]
    fn scaling_is_read_or_said_to_be_beyond() {
        let mut head = smollm2();
        set(&mut head, "llama.rope.scaling.type", Value::String("linear".to_owned()));
        let error = map_metadata(&head).unwrap_err();
        assert!(error.to_string().contains("llama.rope.scaling.factor"), "{error}");
        set(&mut head, "llama.rope.scaling.factor", Value::F32(4.0));
        let Mapped::Spec(spec) = map_metadata(&head).unwrap() else { panic!() };
        let Some(MixerSpec::Attention(attention)) = &spec.blocks[0].mixer else { panic!() };
        let scaling = &attention.rope.as_ref().unwrap().scaling;
        assert_eq!(scaling, &Some(RopeScaling::Linear { factor: 4.0 }));
        set(&mut head, "llama.rope.scaling.type", Value::String("yarn".to_owned()));
        assert!(beyond(&head).contains("yarn"));
    }

    #[test]
    fn what_the_spec_cannot_say_is_not_guessed() {
        let mut head = smollm2();
        set(&mut head, "llama.expert_count", Value::U32(8));
        assert!(beyond(&head).contains("experts"));
        let mut head = smollm2();
        head.tensors[1].name = cart_format::TensorName::new("rope_freqs.weight").unwrap();
        assert!(beyond(&head).contains("rope_freqs"));
        let mut head = smollm2();
        set(&mut head, "general.architecture", Value::String("mamba".to_owned()));
        assert!(beyond(&head).contains("mamba"));
    }

    #[test]
    fn keys_of_the_wrong_kind_are_named() {
        let mut head = smollm2();
        set(&mut head, "llama.block_count", Value::F32(30.0));
        let error = map_metadata(&head).unwrap_err();
        let named =
            matches!(&error, ImportError::GgufField { key, .. } if key == "llama.block_count");
        assert!(named, "{error}");
    }
}
