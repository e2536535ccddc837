//! What metadata turn into.

use cart_format::gguf::{Array, Parsed};

use cart_format::arch::{RopePairing, RopeScaling};

use super::*;

fn smollm2() -> Head {
    let bytes = include_bytes!("../../../../../fixtures/gguf/smollm2-head.gguf");
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
    set(&mut head, "llama.rope.scaling.type", Value::String("xpos".to_owned()));
    assert!(beyond(&head).contains("`xpos` is not known; known: none, linear, yarn"));
    set(&mut head, "llama.rope.scaling.type", Value::String("yarn".to_owned()));
    set(&mut head, "llama.rope.scaling.yarn_ext_factor", Value::F32(0.5));
    assert!(beyond(&head).contains("yarn_ext_factor is 0.5"));
}

#[test]
fn what_the_spec_cannot_say_is_not_guessed() {
    let mut head = smollm2();
    head.tensors[1].name = cart_format::TensorName::new("rope_factors_long.weight").unwrap();
    assert!(beyond(&head).contains("without `rope_factors_short.weight`"));
    let mut head = smollm2();
    head.tensors[1].name = cart_format::TensorName::new("rope_freqs.weight").unwrap();
    set(&mut head, "llama.rope.scaling.type", Value::String("yarn".to_owned()));
    set(&mut head, "llama.rope.scaling.factor", Value::F32(4.0));
    assert!(beyond(&head).contains("both"));
    let mut head = smollm2();
    set(&mut head, "llama.attention.value_length", Value::U32(32));
    assert!(beyond(&head).contains("values of width 32"));
    let mut head = smollm2();
    set(&mut head, "general.architecture", Value::String("t5".to_owned()));
    assert!(beyond(&head).contains("`t5` is not known; known: llama"));
}

#[test]
fn keys_of_the_wrong_kind_are_named() {
    let mut head = smollm2();
    set(&mut head, "llama.block_count", Value::F32(30.0));
    let error = map_metadata(&head).unwrap_err();
    let named = matches!(&error, ImportError::GgufField { key, .. } if key == "llama.block_count");
    assert!(named, "{error}");
}

fn nemotron() -> Head {
    let bytes = include_bytes!("../../../../../fixtures/gguf/nemotron-h.gguf");
    match Head::parse(bytes, bytes.len() as u64).unwrap() {
        Parsed::Head(head) => head,
        Parsed::NeedMore(more) => panic!("the fixture lacks bytes up to {more}"),
    }
}

#[test]
fn layers_of_nemotron_are_told_by_widths_and_key_heads() {
    let Mapped::Spec(spec) = map_metadata(&nemotron()).unwrap() else { panic!() };
    let letter = |block: &BlockSpec| match (&block.mixer, &block.mlp) {
        (Some(MixerSpec::Mamba2(_)), None) => 'M',
        (Some(MixerSpec::Attention(attention)), None) if attention.rope.is_none() => '*',
        (None, Some(MlpSpec::Plain(_))) => '-',
        other => panic!("{other:?}"),
    };
    assert_eq!(spec.layer_blocks().map(letter).collect::<String>(), "M-M*-");
}

#[test]
fn metadata_of_mamba_that_do_not_fit_are_named() {
    let error = |key: &str, value: Value| {
        let mut head = nemotron();
        set(&mut head, key, value);
        map_metadata(&head).unwrap_err().to_string()
    };
    let key = "nemotron_h.feed_forward_length";
    assert!(error(key, Value::Array(Array::I32(vec![0, 40]))).contains(key));
    let key = "nemotron_h.ssm.time_step_rank";
    assert!(error(key, Value::U32(7)).contains(key));
    let mut head = nemotron();
    set(&mut head, "nemotron_h.ssm.dt_b_c_rms", Value::Bool(true));
    assert!(beyond(&head).contains("dt_b_c_rms"));
}
