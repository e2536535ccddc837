//! What the pages of the spec list or show, against what the code does.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cart_format::cartfile::{CartPlan, Content};
use cart_format::{BlobEntry, BlobId, Commit, DType, Manifest, Recipe, TensorEntry, TensorName};
use cart_memory::MemoryConfig;
use serde_json::{Value, json};

mod lived_in;
use lived_in::{DIM, lived_in};

/// What is between `<!-- NAME` and `<!-- /NAME -->` of a page.
fn part(page: &str, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- {name}")).unwrap();
    let (body, _) = rest.split_once(&format!("<!-- /{name} -->")).unwrap();
    body.split_once("-->").unwrap().1.to_owned()
}

/// The first cells of a table's rows, and the rest of each row.
fn table(page: &str, name: &str) -> BTreeMap<String, Vec<String>> {
    let body = part(page, name);
    let rows = body.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        (cells.next().unwrap(), cells.collect())
    });
    rows.collect()
}

#[test]
fn the_spec_lists_the_memory_tensors() {
    let snapshot = lived_in();
    let span = snapshot.state["config"]["max_span_tokens"].as_u64().unwrap();
    let listed = table("30-memory.md", "tensors");
    let mut seen = BTreeSet::new();
    for tensor in &snapshot.tensors {
        let (store, generic) = match tensor.name.split_once('.') {
            Some((store, rest)) => (store, format!("S.{rest}")),
            None => ("", tensor.name.clone()),
        };
        let row = listed.get(&generic);
        let row = row.unwrap_or_else(|| panic!("the spec has no row for {generic}"));
        let slots = snapshot.state[store].as_array();
        let past = |used: &dyn Fn(&Value) -> bool| {
            let positions = slots.into_iter().flatten().filter(|slot| used(slot));
            positions.map(|slot| slot["position"].as_u64().unwrap() + 1).max().unwrap_or(0)
        };
        let axis = |text: &str| match text {
            "dim" => DIM as u64,
            "rows" => past(&|_| true),
            "spans" => past(&|slot| slot["token_keys"] == true),
            "span" => span,
            "spans · span" => past(&|slot| slot["token_keys"] == true) * span,
            other => other.parse().unwrap(),
        };
        assert_eq!(tensor.dtype.to_string(), row[0], "{generic}");
        let shape: Vec<u64> = row[1].trim_matches(['[', ']']).split(", ").map(axis).collect();
        assert_eq!(tensor.shape, shape, "{}", tensor.name);
        assert_eq!(tensor.rows_per_block, axis(&row[2]), "{generic}");
        seen.insert(generic);
    }
    assert_eq!(seen, listed.into_keys().collect());
}

#[test]
fn the_spec_lists_the_memory_settings() {
    let defaults = serde_json::to_value(MemoryConfig::default()).unwrap();
    let defaults = defaults.as_object().unwrap();
    let listed = table("30-memory.md", "config");
    let names: BTreeSet<_> = defaults.keys().collect();
    assert_eq!(listed.keys().collect::<BTreeSet<_>>(), names);
    for (name, row) in &listed {
        let value = defaults[name].as_f64().unwrap() as f32;
        assert_eq!(row[0].parse::<f32>().unwrap(), value, "{name}");
        let (least, most) = match row[1].split_once(" to ") {
            Some((least, most)) => (number(least), number(most)),
            None => (number(row[1].strip_suffix(" and more").unwrap()), f64::INFINITY),
        };
        let set = |value: f64| {
            let mut changed = defaults.clone();
            let whole = value.fract() == 0.0 && changed[name].is_u64();
            changed[name] = if whole { json!(value as u64) } else { json!(value) };
            let config = serde_json::from_value::<MemoryConfig>(Value::Object(changed));
            config.is_ok_and(|config| config.check() == Ok(()))
        };
        for allowed in [least, most].into_iter().filter(|value| value.is_finite()) {
            assert!(set(allowed), "{name} = {allowed}");
        }
        for beyond in [least - 2.0, most * 2.0 + 1.0].into_iter().filter(|v| v.is_finite()) {
            assert!(!set(beyond), "{name} = {beyond}");
        }
    }
}

/// `1,048,576`, `−1`, `10⁻⁶`, `2⁵³`.
fn number(text: &str) -> f64 {
    match text {
        "10⁻⁶" => 1e-6,
        "10⁶" => 1e6,
        "2⁵³" => (1_u64 << 53) as f64,
        plain => plain.replace(',', "").replace('−', "-").parse().unwrap(),
    }
}

/// Two tensors of which one shares no alignment with the next, and a blob that is no tensor's.
fn small_cartridge() -> (Manifest, Commit) {
    let mut manifest = Manifest::new();
    let first: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let second = vec![0_u8; 36];
    for (name, dtype, shape, bytes) in
        [("bias", DType::F32, vec![3], &first), ("weight", DType::Q8_1, vec![1, 32], &second)]
    {
        let blob = BlobId::of(bytes);
        let entry = TensorEntry { dtype, shape, blob };
        manifest.model.tensors.insert(TensorName::new(name).unwrap(), entry);
        let entry = BlobEntry { size: bytes.len() as u64, segments: Vec::new() };
        manifest.blobs.insert(blob, entry);
    }
    manifest.check().unwrap();
    let commit = Commit::new(manifest.id().unwrap(), 1_795_233_600, Recipe::new("import"));
    (manifest, commit)
}

#[test]
fn the_spec_shows_a_real_header() {
    let (manifest, commit) = small_cartridge();
    let (manifest_bytes, commit_bytes) = (manifest.to_bytes().unwrap(), commit.to_bytes().unwrap());
    let plan = CartPlan::new(&manifest, &manifest_bytes, Some(&commit_bytes)).unwrap();
    assert!(plan.parts.iter().any(|part| part.content == Content::Padding));
    let header = std::str::from_utf8(&plan.header[8..]).unwrap().trim_end();
    let shown = part("60-cart-file.md", "header");
    let shown = shown.trim().strip_prefix("```json").unwrap().strip_suffix("```").unwrap();
    assert_eq!(
        shown.replace(['\n', ' '], ""),
        header,
        "the page should show:\n{}",
        wrapped(header)
    );
}

/// A line for each field.
fn wrapped(header: &str) -> String {
    header.replace(",\"", ",\n\"").replace(",\n\"shape", ",\"shape").replace(",\n\"data", ",\"data")
}
