//! What becomes of which tensor, and what is refused before anything is read.

use cart_format::DType;
use cart_merge::weights::{
    Cause, How, MergeConfig, Method, OnConflict, PlanError, PlanOptions, Setting, Step, StepError,
    ThreeWay,
};
use serde_json::json;

use crate::agents::{Agent, merge, plan};
use crate::config;

const NORM: &str = "model.norm.weight";

fn layer(index: u64, part: &str) -> String {
    format!("model.layers.{index}.{part}.weight")
}

/// A model of so many layers whose every value is `value`, but those of layer `i` are `value + i`.
fn agent(name: &str, layers: u64, value: f32) -> Agent {
    let agent = Agent::new(name).with("model.embed_tokens.weight", &[3, 2], &[value; 6]).with(
        NORM,
        &[2],
        &[value; 2],
    );
    (0..layers).fold(agent, |agent, index| {
        let value = value + index as f32;
        let agent = agent.with(&layer(index, "mlp.up"), &[2, 2], &[value; 4]);
        agent.with(&layer(index, "self_attn.q"), &[2, 2], &[value; 4])
    })
}

fn sides(method: Method, with_base: bool) -> MergeConfig {
    let mut config = MergeConfig::of_models(method, ["ours".to_owned(), "theirs".to_owned()]);
    config.base_model = with_base.then(|| "base".to_owned());
    for parameter in method.parameters().iter().filter(|one| one.name == "weight") {
        config.parameters.insert(parameter.name.to_owned(), Setting::number(1.0));
    }
    config
}

fn three_way(on_conflict: OnConflict) -> PlanOptions {
    PlanOptions { three_way: Some(ThreeWay { on_conflict }), ..PlanOptions::default() }
}

/// Four tensors: unchanged, changed by ours, by theirs, by both.
fn histories() -> Vec<Agent> {
    let with = |name: &str, values: [f32; 4]| {
        let tensors = ["a", "b", "c", "d"].into_iter().zip(values);
        tensors
            .fold(Agent::new(name), |agent, (tensor, value)| agent.with(tensor, &[2], &[value; 2]))
    };
    vec![
        with("ours", [1.0, 2.0, 1.0, 2.0]),
        with("theirs", [1.0, 1.0, 4.0, 4.0]),
        with("base", [1.0, 1.0, 1.0, 1.0]),
    ]
}

#[test]
fn what_one_side_changed_is_taken_and_what_both_changed_is_decided() {
    let agents = histories();
    let cases = [
        (OnConflict::Ours, 2.0),
        (OnConflict::Theirs, 4.0),
        (OnConflict::Base, 1.0),
        (OnConflict::Merge, 5.0),
    ];
    for (on_conflict, expected) in cases {
        let config = sides(Method::TaskArithmetic, true);
        let merged = merge(&config, &agents, three_way(on_conflict));
        let causes: Vec<Cause> = merged.plan.tensors.iter().map(|tensor| tensor.cause).collect();
        assert_eq!(causes, [Cause::Same, Cause::Ours, Cause::Theirs, Cause::Both]);
        for (tensor, value) in [("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", expected)] {
            assert_eq!(merged.values(tensor), [value; 2], "{tensor} {on_conflict:?}");
        }
        let taken = merged.plan.tensors.iter().filter(|one| matches!(one.how, How::Take { .. }));
        assert_eq!(taken.count(), if on_conflict == OnConflict::Merge { 3 } else { 4 });
    }
    let refused =
        plan(&sides(Method::Linear, true), &agents, three_way(OnConflict::Refuse)).unwrap();
    assert_eq!(refused.conflicts().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["d"]);
}

#[test]
fn where_a_side_is_the_base_the_other_is_the_result() {
    let agents = &histories()[1..];
    let mut config =
        MergeConfig::of_models(Method::Linear, ["theirs".to_owned(), "base".to_owned()]);
    config.base_model = Some("base".to_owned());
    let merged = merge(&config, agents, three_way(OnConflict::Refuse));
    assert_eq!(merged.manifest.model.tensors, agents[0].manifest.model.tensors);
}

#[test]
fn without_a_base_everything_that_differs_is_decided() {
    let agents = &histories()[..2];
    let config = sides(Method::Linear, false);
    let merged = merge(&config, agents, three_way(OnConflict::Merge));
    for (tensor, value) in [("a", 1.0), ("b", 1.5), ("c", 2.5), ("d", 3.0)] {
        assert_eq!(merged.values(tensor), [value; 2], "{tensor}");
    }
    let error =
        plan(&sides(Method::Ties, false), agents, three_way(OnConflict::Merge)).unwrap_err();
    assert!(matches!(error, PlanError::Step { source: StepError::NoBase { .. }, .. }), "{error}");
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let ours = || agent("ours", 2, 1.0);
    let refusal = |theirs: Agent| {
        let agents = [ours(), Agent { name: "theirs".into(), ..theirs }];
        plan(&sides(Method::Linear, false), &agents, PlanOptions::default()).unwrap_err()
    };
    let further = ours().with("model.more.weight", &[1], &[1.0]);
    let error = refusal(further);
    assert!(
        matches!(&error, PlanError::OneSided { tensor, .. } if tensor.as_str() == "model.more.weight"),
        "{error}"
    );
    assert!(matches!(refusal(agent("x", 1, 1.0)), PlanError::OneSided { .. }));
    let wider = ours().with(NORM, &[3], &[1.0; 3]);
    assert!(matches!(refusal(wider), PlanError::Shape { .. }));
    let whole = ours().with_bytes(NORM, DType::I64, &[2], vec![0; 16]);
    assert!(matches!(refusal(whole), PlanError::Unmergeable { dtype: DType::I64, .. }));
    let mut other = ours();
    other.manifest.model.architecture = Some(json!({"family": "x", "hidden_size": 2}));
    let error = refusal(other);
    assert!(
        matches!(&error, PlanError::Architecture { field, .. } if field == "hidden_size"),
        "{error}"
    );
    let tokens = |ids: [u32; 2]| {
        let document = json!({"model": {"vocab": {"x": ids[0], "y": ids[1]}}});
        Some(serde_json::to_vec(&document).unwrap())
    };
    let agents = [
        Agent { tokenizer: tokens([0, 1]), ..ours() },
        Agent { name: "theirs".into(), tokenizer: tokens([1, 0]), ..ours() },
    ];
    let error = plan(&sides(Method::Linear, false), &agents, PlanOptions::default()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("2 with other ids") && said.contains("union"), "{said}");
}

#[test]
fn tensors_that_are_no_floats_are_taken_where_they_are_equal() {
    let whole = |name| agent(name, 1, 1.0).with_bytes("ids", DType::I64, &[2], vec![3; 16]);
    let merged = merge(
        &sides(Method::Linear, false),
        &[whole("ours"), whole("theirs")],
        PlanOptions::default(),
    );
    assert_eq!(merged.bytes("ids"), [3; 16]);
}

#[test]
fn parameters_out_of_range_are_refused() {
    let agents = [agent("ours", 1, 1.0), agent("theirs", 1, 2.0), agent("base", 1, 0.0)];
    let refusal = |method, changes: &[(&str, f64)]| {
        let mut config = sides(method, true);
        for (name, value) in changes {
            config.parameters.insert((*name).to_owned(), Setting::number(*value));
        }
        match plan(&config, &agents, PlanOptions::default()).unwrap_err() {
            PlanError::Step { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    for density in [0.0, -0.5, 1.1] {
        let error = refusal(Method::Ties, &[("density", density)]);
        assert!(matches!(error, StepError::Range { parameter: "density", .. }), "{error}");
    }
    let error = refusal(Method::Della, &[("density", 0.1), ("epsilon", 0.2)]);
    assert!(matches!(error, StepError::Range { parameter: "epsilon", .. }), "{error}");
    let error = refusal(Method::Sce, &[("select_topk", 0.0)]);
    assert!(matches!(error, StepError::Range { parameter: "select_topk", .. }), "{error}");
    for method in [Method::Linear, Method::TaskArithmetic, Method::MultiSlerp] {
        let error = refusal(method, &[("weight", 0.0)]);
        assert!(matches!(error, StepError::ZeroWeights { .. }), "{method}: {error}");
    }
    let error = refusal(Method::Slerp, &[("t", 0.5)]);
    assert!(matches!(error, StepError::Inputs { found: 3, .. }), "{error}");
    let missing = plan(
        &config("{merge_method: linear, models: [{model: ours}]}"),
        &agents,
        PlanOptions::default(),
    );
    assert!(missing.unwrap_err().to_string().contains("linear needs `weight` for ours"));
    let unknown = plan(
        &config("{merge_method: karcher, models: [{model: x}]}"),
        &agents,
        PlanOptions::default(),
    );
    assert!(matches!(unknown.unwrap_err(), PlanError::UnknownModel { .. }));
}

#[test]
fn gradients_and_filters_are_of_the_layer_and_the_name() {
    let agents = [agent("a", 3, 0.0), agent("b", 3, 10.0)];
    let config = config(
        "
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - filter: '*.mlp.*'
      value: 1
    - value: 0
",
    );
    let plan = plan(&config, &agents, PlanOptions::default()).unwrap();
    let t = |tensor: &str| {
        let tensor = plan.tensors.iter().find(|one| one.name.as_str() == tensor).unwrap();
        let How::Merge(merging) = &tensor.how else { panic!() };
        let Step::Slerp { t } = merging.step else { panic!() };
        t
    };
    for (index, expected) in [(0, 0.0), (1, 0.5), (2, 1.0)] {
        assert_eq!(t(&layer(index, "self_attn.q")), expected);
        assert_eq!(t(&layer(index, "mlp.up")), 1.0);
    }
    assert_eq!(t(NORM), 0.0);
}

#[test]
fn slices_stack_layers_of_models() {
    let agents = [agent("a", 3, 0.0), agent("b", 3, 10.0)];
    let config = config(
        "
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 3], parameters: {scale: 2}}]
",
    );
    let merged = merge(&config, &agents, PlanOptions::default());
    let values: Vec<f32> = (0..4).map(|index| merged.values(&layer(index, "mlp.up"))[0]).collect();
    assert_eq!(values, [0.0, 1.0, 22.0, 24.0]);
    assert_eq!(merged.manifest.model.tensors.len(), 2 + 2 * 4);
    // The norm is of the last slice; without an architecture, so is all that is in no layer.
    assert_eq!(merged.values(NORM), [20.0; 2]);
    let wrong = |range: &str| {
        let text = format!(
            "{{merge_method: passthrough, slices: [{{sources: [{{model: a, layer_range: {range}}}]}}]}}"
        );
        plan(&crate::config(&text), &agents, PlanOptions::default()).unwrap_err()
    };
    assert!(matches!(wrong("[0, 4]"), PlanError::LayerRange { layers: 3, .. }));
    assert!(matches!(wrong("[2, 2]"), PlanError::LayerRange { .. }));
}

/// A model of no layers with an architecture and a vocabulary.
fn speaker(name: &str, tokens: &[&str], rows: &[f32]) -> Agent {
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let mut agent = Agent::new(name)
        .with("model.embed_tokens.weight", &[rows.len() as u64, 1], rows)
        .with(NORM, &[1], &[1.0]);
    agent.manifest.model.architecture = Some(json!({
        "family": "llama", "naming": "hf", "vocab_size": rows.len(), "hidden_size": 1,
        "context_length": 8, "tied_head": true, "final_norm": {"kind": "rms", "eps": 1e-5},
        "blocks": [{"norm": {"kind": "rms", "eps": 1e-5}, "mlp":
            {"kind": "gated", "activation": "silu", "intermediate_size": 1}}],
        "layers": [0],
    }));
    let document =
        json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []});
    agent.tokenizer = Some(serde_json::to_vec(&document).unwrap());
    agent
}

#[test]
fn rows_of_other_tokens_are_mapped_by_token() {
    let agents = [
        speaker("a", &["x", "y"], &[1.0, 2.0]),
        speaker("b", &["z", "y", "x"], &[30.0, 20.0, 10.0]),
    ];
    let text = |source: &str| {
        config(&format!(
            "{{merge_method: linear, models: [{{model: a}}, {{model: b}}], parameters: {{weight: 1}}, tokenizer_source: {source}}}"
        ))
    };
    let union = merge(&text("union"), &agents, PlanOptions::default());
    // x, y, and z, which only b has: its row is b's for both.
    assert_eq!(union.values("model.embed_tokens.weight"), [5.5, 11.0, 30.0]);
    assert_eq!(union.manifest.model.architecture.unwrap()["vocab_size"], 3);
    let base = merge(&text("base"), &agents, PlanOptions::default());
    assert_eq!(base.values("model.embed_tokens.weight"), [5.5, 11.0]);
    let theirs = merge(&text("b"), &agents, PlanOptions::default());
    assert_eq!(theirs.values("model.embed_tokens.weight"), [30.0, 11.0, 5.5]);
}

#[test]
fn types_are_those_asked_for_or_those_that_hold_all_inputs() {
    let half = |name: &str, dtype| Agent::new(name).with_bytes("w", dtype, &[1], vec![0, 0x3c]);
    let a = half("ours", DType::F16);
    for (other, asked, expected) in [
        (half("theirs", DType::F16), None, DType::F16),
        (half("theirs", DType::BF16), None, DType::F32),
        (half("theirs", DType::BF16), Some("{out: bfloat16}"), DType::BF16),
    ] {
        let mut config = sides(Method::Linear, false);
        config.out_dtype = asked.map(|_| cart_merge::weights::FloatType::BF16);
        let merged = merge(&config, &[a.clone(), other], PlanOptions::default());
        assert_eq!(merged.manifest.model.tensors.values().next().unwrap().dtype, expected);
    }
}

/// A row of 64 values in blocks of a quantized type.
fn blocks(dtype: DType, values: impl Fn(usize) -> f32) -> Vec<u8> {
    let values: Vec<f32> = (0..64).map(values).collect();
    let mut bytes = vec![0; dtype.size_of(&[64]).unwrap() as usize];
    cart_format::blocks::quantize(dtype, &values, &mut bytes);
    bytes
}

#[test]
fn quantized_tensors_are_quantized_again_and_the_loss_is_told() {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0] {
        let agent = |name: &str, factor: f32| {
            let bytes = blocks(dtype, |index| (index as f32 - 20.0) * factor);
            Agent::new(name).with_bytes("w", dtype, &[64], bytes)
        };
        let agents = [agent("ours", 0.1), agent("theirs", 0.3)];
        let merged = merge(&sides(Method::Linear, false), &agents, PlanOptions::default());
        assert_eq!(merged.plan.tensors[0].dtype, dtype);
        let lost = merged.lost[&0];
        assert!(
            lost.rms > 1.0 && lost.rmse > 0.0 && lost.rmse < 0.1 * lost.rms,
            "{dtype}: {lost:?}"
        );
        let keep = PlanOptions { keep_float: true, ..PlanOptions::default() };
        let floats = merge(&sides(Method::Linear, false), &agents, keep);
        assert_eq!(floats.plan.tensors[0].dtype, DType::F32);
        assert!(floats.lost.is_empty());
        let mut back = vec![0.0; 64];
        cart_format::blocks::dequantize(dtype, merged.bytes("w"), &mut back);
        let apart = floats
            .values("w")
            .iter()
            .zip(&back)
            .map(|(a, b)| f64::from((a - b) * (a - b)))
            .sum::<f64>();
        assert!(((apart / 64.0).sqrt() - lost.rmse).abs() < 1e-6, "{dtype}");
    }
}

#[test]
fn types_that_are_read_only_are_refused_with_the_way_out() {
    let agent = |name: &str, byte| {
        let bytes = vec![byte; DType::Q6_K.size_of(&[256]).unwrap() as usize];
        Agent::new(name).with_bytes("w", DType::Q6_K, &[256], bytes)
    };
    let agents = [agent("ours", 1), agent("theirs", 2)];
    let error = plan(&sides(Method::Linear, false), &agents, PlanOptions::default()).unwrap_err();
    assert!(matches!(error, PlanError::Unwritable { dtype: DType::Q6_K, .. }));
    assert!(error.to_string().contains("--keep-float"));
    let keep = PlanOptions { keep_float: true, ..PlanOptions::default() };
    let merged = merge(&sides(Method::Linear, false), &agents, keep);
    let value = |byte| {
        let mut values = vec![0.0; 256];
        cart_format::blocks::dequantize(DType::Q6_K, &[byte; 210], &mut values);
        values
    };
    let expected =
        value(1).into_iter().zip(value(2)).map(|(a, b)| f32::midpoint(a, b)).collect::<Vec<_>>();
    assert_eq!(merged.values("w"), expected);
}
