//! What a Hugging Face `config.json` computes.

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, MixerSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, RopePairing, RopeScaling, RopeSpec, TensorNaming,
};
use serde_json::Value;

use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// More layers than any model has; keeps a hostile number from being allocated.
pub(crate) const MAX_LAYERS: u64 = 10_000;

/// What a model's configuration turned into.
#[derive(Debug, PartialEq)]
pub(crate) enum Mapped {
    /// An architecture that can be run.
    Spec(ArchSpec),
    /// Something that [`ArchSpec`] can't say, and what.
    Beyond(String),
}

/// What the families differ in.
struct Family {
    context_length: u64,
    /// Biases of query, key and value, whatever the file says.
    qkv_bias: Option<bool>,
    out_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
    head_dim: Option<u64>,
}

/// Rotary embedding as the configuration has it.
struct Rope {
    theta: f64,
    /// Part of a head that is rotated.
    partial: f64,
    scaling: Option<RopeScaling>,
}

/// Reads `config.json`.
pub(crate) fn map_config(config: &Value) -> Result<Mapped, ImportError> {
    let fields = Fields::new(config)?;
    let Some(model_type) = fields.text("model_type")? else {
        return Ok(Mapped::Beyond("config.json names no model_type".to_owned()));
    };
    let Some(family) = family(model_type, &fields)? else {
        return Ok(Mapped::Beyond(format!("model_type `{model_type}` is not known")));
    };
    if fields.get("quantization_config").is_some() {
        return Ok(Mapped::Beyond("the weights are quantized (quantization_config)".to_owned()));
    }
    let rope = match rope(&fields)? {
        Ok(rope) => rope,
        Err(beyond) => return Ok(Mapped::Beyond(beyond)),
    };
    let Some(activation) = activation(fields.text("hidden_act")?.unwrap_or("silu")) else {
        let found = fields.text("hidden_act")?.unwrap_or_default();
        return Ok(Mapped::Beyond(format!("hidden_act `{found}` is not known")));
    };
    let spec = spec(model_type, &fields, &family, rope, activation)?;
    spec.check()?;
    Ok(Mapped::Spec(spec))
}

fn family(model_type: &str, fields: &Fields<'_>) -> Result<Option<Family>, ImportError> {
    let plain = Family {
        context_length: 32_768,
        qkv_bias: None,
        out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        head_dim: None,
    };
    let attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
    Ok(Some(match model_type {
        "llama" => Family {
            context_length: 2048,
            out_bias: attention_bias,
            mlp_bias: fields.flag("mlp_bias")?.unwrap_or(false),
            ..plain
        },
        "mistral" => Family { context_length: 131_072, qkv_bias: Some(false), ..plain },
        "qwen2" => Family { qkv_bias: Some(true), ..plain },
        "qwen3" => Family { out_bias: attention_bias, qk_norm: true, head_dim: Some(128), ..plain },
        _ => return Ok(None),
    }))
}

fn spec(
    model_type: &str,
    fields: &Fields<'_>,
    family: &Family,
    rope: Rope,
    activation: Activation,
) -> Result<ArchSpec, ImportError> {
    let hidden_size = fields.need("hidden_size")?;
    let heads = fields.need("num_attention_heads")?;
    let stated = fields.number("head_dim")?.or(family.head_dim);
    let head_dim = stated.unwrap_or_else(|| hidden_size / heads.max(1));
    let eps = fields.float("rms_norm_eps")?.unwrap_or(1e-6);
    let norm = NormSpec { kind: NormKind::Rms, eps, unit_offset: false };
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    let attention = AttentionSpec {
        heads,
        kv_heads: fields.number("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        scale: None,
        rope: Some(RopeSpec {
            theta: rope.theta,
            dims: (head_dim as f64 * rope.partial) as u64,
            pairing: RopePairing::Halves,
            scaling: rope.scaling,
        }),
        window: None,
        score_softcap: None,
        qkv_bias: family.qkv_bias.unwrap_or(bias),
        out_bias: family.out_bias,
        qk_norm: family.qk_norm.then(|| norm.clone()),
    };
    let intermediate_size = fields.need("intermediate_size")?;
    let block = BlockSpec {
        norm: norm.clone(),
        placement: NormPlacement::Pre,
        mixer: Some(MixerSpec::Attention(attention)),
        mlp: Some(MlpSpec::Gated(DenseSpec {
            intermediate_size,
            activation,
            bias: family.mlp_bias,
        })),
    };
    let (blocks, layers) = layers(&block, &windows(model_type, fields)?);
    Ok(ArchSpec {
        family: model_type.to_owned(),
        naming: TensorNaming::Hf,
        vocab_size: fields.need("vocab_size")?,
        hidden_size,
        context_length: fields.number("max_position_embeddings")?.unwrap_or(family.context_length),
        embedding_scale: None,
        tied_head: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        final_norm: norm,
        logit_softcap: None,
        blocks,
        layers,
    })
}

/// One block for each window that occurs, and which layer has which.
fn layers(block: &BlockSpec, windows: &[Option<u64>]) -> (Vec<BlockSpec>, Vec<u32>) {
    let mut seen: Vec<Option<u64>> = Vec::new();
    let mut layers = Vec::with_capacity(windows.len());
    for window in windows {
        let known = seen.iter().position(|known| known == window);
        let index = known.unwrap_or_else(|| {
            seen.push(*window);
            seen.len() - 1
        });
        layers.push(index as u32);
    }
    let with_window = |window| {
        let mut block = block.clone();
        if let Some(MixerSpec::Attention(attention)) = &mut block.mixer {
            attention.window = window;
        }
        block
    };
    (seen.into_iter().map(with_window).collect(), layers)
}

/// The window of each layer.
fn windows(model_type: &str, fields: &Fields<'_>) -> Result<Vec<Option<u64>>, ImportError> {
    let layers = fields.need("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        return Err(fields.refuse("num_hidden_layers", "1 to 10000"));
    }
    let window = fields.number("sliding_window")?;
    if let Some(types) = fields.texts("layer_types")? {
        if types.len() as u64 != layers {
            return Err(fields.refuse("layer_types", "one for each of the num_hidden_layers"));
        }
        let window = |kind: &&str| match *kind {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            _ => Err(fields.refuse(
                "layer_types",
                "`full_attention`, and `sliding_attention` where there is a sliding_window",
            )),
        };
        return types.iter().map(window).collect();
    }
    let from = match model_type {
        "mistral" => 0,
        "qwen2" | "qwen3" if fields.flag("use_sliding_window")?.unwrap_or(false) => {
            fields.number("max_window_layers")?.unwrap_or(28)
        }
        _ => layers,
    };
    Ok((0..layers).map(|layer| window.filter(|_| layer >= from)).collect())
}

/// The rotary embedding, in the form of transformers 4 (`rope_theta` and `rope_scaling`) or 5
/// (`rope_parameters`), or what of it can't be said.
fn rope(fields: &Fields<'_>) -> Result<Result<Rope, String>, ImportError> {
    let inner = match fields.object("rope_parameters")? {
        Some(inner) => Some(inner),
        None => fields.object("rope_scaling")?,
    };
    let stated = |name| match &inner {
        Some(inner) => inner.float(name).map(Some),
        None => Ok(None),
    };
    let theta = match stated("rope_theta")?.flatten() {
        Some(theta) => theta,
        None => fields.float("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = match stated("partial_rotary_factor")?.flatten() {
        Some(partial) => partial,
        None => fields.float("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let kind = match &inner {
        Some(inner) => inner.text("rope_type")?.or(inner.text("type")?).unwrap_or("default"),
        None => "default",
    };
    let scaling = match (&inner, kind) {
        (None, _) | (_, "default") => None,
        (Some(inner), "linear") => {
            Some(RopeScaling::Linear { factor: inner.need_float("factor")? })
        }
        (Some(inner), "llama3") => Some(RopeScaling::Llama3 {
            factor: inner.need_float("factor")?,
            low_freq_factor: inner.need_float("low_freq_factor")?,
            high_freq_factor: inner.need_float("high_freq_factor")?,
            original_context: inner.need("original_max_position_embeddings")?,
        }),
        (Some(_), other) => return Ok(Err(format!("the RoPE scaling `{other}` is not known"))),
    };
    Ok(Ok(Rope { theta, partial, scaling }))
}

fn activation(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu" => Some(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        "relu2" => Some(Activation::ReluSquared),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn llama() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 256,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
        })
    }

    fn with(mut config: Value, fields: Value) -> Value {
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    }

    fn mapped(config: &Value) -> ArchSpec {
        match map_config(config).unwrap() {
            Mapped::Spec(spec) => spec,
            Mapped::Beyond(reason) => panic!("{reason}"),
        }
    }

    fn attention(spec: &ArchSpec, layer: usize) -> &AttentionSpec {
        match &spec.blocks[spec.layers[layer] as usize].mixer {
            Some(MixerSpec::Attention(attention)) => attention,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absent_fields_have_the_defaults_of_transformers() {
        let spec = mapped(&llama());
        let rope = attention(&spec, 0).rope.as_ref().unwrap();
        assert_eq!((rope.theta, rope.dims, rope.pairing), (1e4, 16, RopePairing::Halves));
        assert_eq!((spec.context_length, spec.tied_head, spec.final_norm.eps), (2048, false, 1e-6));
        assert_eq!((spec.blocks.len(), spec.layers.as_slice()), (1, &[0, 0, 0][..]));
    }

    #[test]
    fn both_forms_of_rope_say_the_same() {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        });
        let old = with(llama(), json!({"rope_theta": 5e5, "rope_scaling": scaling}));
        let new = with(scaling, json!({"rope_theta": 5e5}));
        let new = with(llama(), json!({"rope_parameters": new}));
        let spec = mapped(&new);
        assert_eq!(spec, mapped(&old));
        let rope = attention(&spec, 0).rope.as_ref().unwrap();
        assert!(matches!(rope.scaling, Some(RopeScaling::Llama3 { original_context: 64, .. })));
        assert_eq!(rope.theta, 5e5);
        let linear = json!({"rope_scaling": {"type": "linear", "factor": 4}});
        let spec = mapped(&with(llama(), linear));
        let rope = attention(&spec, 0).rope.as_ref().unwrap();
        assert_eq!(rope.scaling, Some(RopeScaling::Linear { factor: 4.0 }));
    }

    #[test]
    fn families_differ_in_biases_norms_and_windows() {
        let qwen2 = json!({
            "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true,
            "max_window_layers": 2,
        });
        let spec = mapped(&with(llama(), qwen2));
        assert!(attention(&spec, 0).qkv_bias && !attention(&spec, 0).out_bias);
        assert_eq!(attention(&spec, 1).window, None);
        assert_eq!(attention(&spec, 2).window, Some(8));
        let spec = mapped(&with(llama(), json!({"model_type": "qwen3"})));
        assert_eq!(attention(&spec, 0).head_dim, 128);
        assert!(attention(&spec, 0).qk_norm.is_some());
        let mistral = json!({"model_type": "mistral", "sliding_window": 8});
        assert_eq!(attention(&mapped(&with(llama(), mistral)), 0).window, Some(8));
        let types = json!({
            "model_type": "qwen3", "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        });
        let spec = mapped(&with(llama(), types));
        assert_eq!((spec.blocks.len(), spec.layers.as_slice()), (2, &[0, 1, 0][..]));
    }

    #[test]
    fn what_the_spec_cannot_say_is_not_guessed() {
        let beyond = [
            json!({"model_type": "gpt_oss"}),
            json!({"model_type": null}),
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            json!({"hidden_act": "tanh"}),
            json!({"quantization_config": {"bits": 4}}),
        ];
        for fields in beyond {
            let mapped = map_config(&with(llama(), fields.clone())).unwrap();
            assert!(matches!(mapped, Mapped::Beyond(_)), "{fields}");
        }
    }

    #[test]
    fn fields_of_the_wrong_kind_are_named() {
        let wrong = [
            (json!({"hidden_size": "64"}), "hidden_size"),
            (json!({"hidden_size": null}), "hidden_size"),
            (json!({"rope_scaling": {"rope_type": "llama3"}}), "rope_scaling.factor"),
            (json!({"layer_types": ["full_attention"]}), "layer_types"),
            (json!({"num_hidden_layers": 4_000_000_000_u64}), "num_hidden_layers"),
        ];
        for (fields, name) in wrong {
            let error = map_config(&with(llama(), fields)).unwrap_err();
            let named = matches!(&error, ImportError::ConfigField { field, .. } if field == name);
            assert!(named, "{error}");
        }
        let heads = json!({"num_key_value_heads": 3});
        let error = map_config(&with(llama(), heads)).unwrap_err();
        assert!(matches!(error, ImportError::Architecture(_)), "{error}");
    }
}
