//! Every method against what mergekit 0.1.5 makes of the same tensors.

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::safetensors::{Head, Parsed};
use cart_merge::weights::{MergeConfig, Method, ModelInput, Parameters, PlanOptions, Setting};
use serde_json::Value;

use crate::agents::{Agent, merge, values_of};

struct Oracle {
    tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    cases: Vec<Value>,
}

fn oracle() -> Oracle {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/merge");
    let bytes = std::fs::read(folder.join("oracle.safetensors")).unwrap();
    let Parsed::Head(head) = Head::parse(&bytes, bytes.len() as u64).unwrap() else { panic!() };
    let mut tensors = BTreeMap::new();
    for tensor in head.tensors {
        let range = tensor.range.start as usize..tensor.range.end as usize;
        let bytes = &bytes[range];
        tensors.insert(tensor.name.to_string(), (tensor.shape, values_of(bytes)));
    }
    let cases = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    Oracle { tensors, cases: serde_json::from_str(&cases).unwrap() }
}

fn setting(value: &Value) -> Setting {
    serde_json::from_value(value.clone()).unwrap()
}

/// The configuration of a case: lists are of the inputs but the base, or of all.
fn config(case: &Value) -> MergeConfig {
    let method: Method = case["method"].as_str().unwrap().parse().unwrap();
    let inputs: Vec<&str> =
        case["inputs"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    let base = case["base"].as_u64().map(|base| base as usize);
    let mut parameters = Parameters::new();
    let mut own: Vec<Parameters> = vec![Parameters::new(); inputs.len()];
    for (name, value) in case["parameters"].as_object().unwrap() {
        let Some(list) = value.as_array() else {
            parameters.insert(name.clone(), setting(value));
            continue;
        };
        let of = (0..inputs.len()).filter(|index| Some(*index) != base);
        for (index, value) in of.zip(list) {
            own[index].insert(name.clone(), setting(value));
        }
    }
    let mut config = MergeConfig::of_models(method, Vec::new());
    let models = inputs.iter().zip(own);
    let input = |(name, parameters): (&&str, Parameters)| ModelInput {
        model: (*name).to_owned(),
        parameters,
    };
    config.models = Some(models.map(input).collect());
    config.base_model = base.map(|base| inputs[base].to_owned());
    config.parameters = parameters;
    config.check().unwrap();
    config
}

/// The unit in the last place of f32 at the magnitude of a value.
fn unit(value: f32) -> f64 {
    let exponent = (value.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
    2.0_f64.powi(exponent - 23)
}

#[test]
fn every_method_gives_what_mergekit_gives() {
    let oracle = oracle();
    let mut seen = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    for case in &oracle.cases {
        let shape = case["shape"].as_str().unwrap();
        let inputs = case["inputs"].as_array().unwrap();
        let agents: Vec<Agent> = inputs
            .iter()
            .map(|name| {
                let name = name.as_str().unwrap();
                let (shape, values) = &oracle.tensors[&format!("{shape}/{name}")];
                Agent::new(name).with("model.norm.weight", shape, values)
            })
            .collect();
        let merged = merge(&config(case), &agents, PlanOptions::default());
        let name = case["name"].as_str().unwrap();
        let (_, narrow) = &oracle.tensors[name];
        // Where it differs from what it is in f32, that is what mergekit's code gives in f64.
        let wide = oracle.tensors.get(&format!("{name}/f64")).map_or(narrow, |(_, wide)| wide);
        let found = merged.values("model.norm.weight");
        assert_eq!(found.len(), narrow.len());
        let inputs: Vec<&[f32]> = inputs
            .iter()
            .map(|name| oracle.tensors[&format!("{shape}/{}", name.as_str().unwrap())].1.as_slice())
            .collect();
        // In units at the largest number that went into an element: what cancels out leaves an error of
        // that size, in mergekit as well.
        let apart = |expected: &[f32]| {
            let apart = |index: usize| {
                let inputs = inputs.iter().map(|input| input[index].abs());
                let largest = inputs.fold(expected[index].abs(), f32::max);
                (f64::from(found[index]) - f64::from(expected[index])).abs() / unit(largest)
            };
            (0..found.len()).map(apart).fold(0.0, f64::max)
        };
        let worst = [apart(narrow), apart(wide)];
        if worst[0].min(worst[1]) > 1.0 {
            wrong.push(format!(
                "{name} {} {shape} {}: {worst:?}",
                case["method"], case["parameters"]
            ));
        }
        seen.insert(case["method"].as_str().unwrap().to_owned());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all = Method::ALL.iter().map(|method| method.name().to_owned()).collect();
    assert_eq!(seen, all, "every method has a case");
}
