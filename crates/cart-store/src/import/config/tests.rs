//! What configurations turn into.

use serde_json::json;

use cart_format::arch::{RopePairing, RopeScaling};

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
        json!({"rope_scaling": {"rope_type": "ntk-by-parts", "factor": 4.0}}),
        json!({"model_type": "gemma", "use_bidirectional_attention": true}),
        json!({"model_type": "falcon", "alibi": true}),
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

#[test]
fn refusals_name_what_was_found_and_what_is_known() {
    let cases = [
        (json!({"model_type": "gpt_oss"}), ["`gpt_oss`", "gemma3_text, phi3, falcon"]),
        (json!({"rope_scaling": {"type": "xpos"}}), ["`xpos`", "linear, dynamic, llama3, yarn"]),
        (json!({"hidden_act": "tanh"}), ["hidden_act `tanh`", "gelu_pytorch_tanh"]),
        (json!({"model_type": "falcon", "alibi": true}), ["`alibi`", "rotary"]),
    ];
    for (fields, parts) in cases {
        let Mapped::Beyond(reason) = map_config(&with(llama(), fields)).unwrap() else { panic!() };
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    }
}

#[test]
fn yarn_and_longrope_have_the_factors_of_transformers() {
    let yarn = json!({"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
    }});
    let scaling = |config: &Value| {
        attention(&mapped(config), 0).rope.as_ref().unwrap().scaling.clone().unwrap()
    };
    let RopeScaling::Yarn { attention_factor, beta_fast, beta_slow, truncate, .. } =
        scaling(&with(llama(), yarn))
    else {
        panic!()
    };
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
    assert_eq!((beta_fast, beta_slow, truncate), (32.0, 1.0, true));
    let factors = [1.0; 8];
    let longrope = json!({
        "model_type": "phi3", "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": factors, "long_factor": factors},
    });
    let config = with(llama(), longrope);
    let RopeScaling::LongRope { attention_factor, original_context, .. } = scaling(&config) else {
        panic!()
    };
    assert!((attention_factor - 1.190_238_071_423_142_5).abs() < 1e-9, "{attention_factor}");
    assert_eq!(original_context, 4096);
    let mut short = config;
    short["rope_scaling"]["short_factor"] = json!([1.0]);
    let error = map_config(&short).unwrap_err().to_string();
    assert!(error.contains("RoPE factors is 1") && error.contains("= 8"), "{error}");
}

#[test]
fn absent_is_not_null_where_the_defaults_differ() {
    let gemma2 = json!({"model_type": "gemma2", "final_logit_softcapping": null});
    let spec = mapped(&with(llama(), gemma2));
    assert_eq!((attention(&spec, 0).score_softcap, spec.logit_softcap), (Some(50.0), None));
    assert_eq!(attention(&spec, 0).window, Some(4096));
    assert_eq!(attention(&spec, 1).window, None);
    let mistral = json!({"model_type": "mistral"});
    assert_eq!(attention(&mapped(&with(llama(), mistral)), 0).window, Some(4096));
    let mistral = json!({"model_type": "mistral", "sliding_window": null});
    assert_eq!(attention(&mapped(&with(llama(), mistral)), 0).window, None);
}
