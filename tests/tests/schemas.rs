//! The schemas themselves, and the pages of the spec that list what the code lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cart_format::SpaceId;
use cart_memory::{MemoryConfig, MemorySnapshot, Normalization, Observation, UnifiedMemory};
use cart_tests::{Chance, schemas};
use serde_json::{Value, json};

const DIM: usize = 24;

/// A memory that has seen, merged, consolidated, recalled and superseded.
fn lived_in() -> MemorySnapshot {
    let config = MemoryConfig {
        observer_interval: 1,
        max_span_tokens: 6,
        stm_slots: 20,
        ..MemoryConfig::default()
    };
    let mut chance = Chance::new(3);
    let mut vector = |len: usize| -> Vec<f32> {
        (0..len).map(|_| chance.below(2000) as f32 / 1000.0 - 1.0).collect()
    };
    let normalization = Normalization::fit(&vector(DIM * 9), DIM).unwrap();
    let mut memory =
        UnifiedMemory::new(SpaceId::of(b"a space"), normalization, config).unwrap();
    let mut key = vector(DIM);
    for tick in 0..40_u64 {
        if tick % 3 != 0 {
            key = vector(DIM);
        }
        let tokens = 1 + tick as usize % 6;
        let seen = Observation {
            token_keys: if tick % 4 == 0 { Vec::new() } else { vector(DIM * tokens) },
            token_ids: (0..tokens as u32).collect(),
            text: format!("fact {}", tick - tick % 3),
            surprise: vec![2.0 + tick as f32 / 8.0; tokens],
            energy: (tick % 10) as f32 / 9.0,
            source: "prompt".to_owned(),
            key: key.clone(),
        };
        memory.observe(tick, &seen).unwrap();
    }
    memory.recall(41, &key, 3).unwrap();
    let slots: Vec<_> = memory.slots().map(|(slot, _)| slot).collect();
    memory.supersede(42, slots[0], slots[1]).unwrap();
    memory.snapshot()
}

#[test]
fn the_state_of_a_memory_fits_its_schema() {
    let snapshot = lived_in();
    schemas::check("memory-state", &snapshot.state);
    let has = |field: &str| {
        let stores = ["stm", "ltm"].into_iter();
        let mut slots = stores.flat_map(|store| snapshot.state[store].as_array().unwrap());
        slots.any(|slot| !slot[field].is_null() && slot[field] != json!(false))
    };
    assert!(has("consolidation") && has("token_keys") && has("gate"), "the memory is too bare to show anything");
    let ended = |slot: &Value| !slot["validity"]["superseded_by"].is_null();
    assert!(snapshot.state["stm"].as_array().unwrap().iter().any(ended));
}

#[test]
fn the_schema_of_a_memory_refuses_what_the_reader_refuses() {
    let snapshot = lived_in();
    let broken: [(&str, Value); 6] = [
        ("/version", json!(2)),
        ("/now", json!(-1)),
        ("/stm/0/energy", json!(1.5)),
        ("/stm/0/position", json!("0")),
        ("/config/stm_slots", json!(0)),
        ("/counters/observations", Value::Null),
    ];
    for (place, value) in broken {
        let mut other = MemorySnapshot { state: snapshot.state.clone(), ..snapshot.clone() };
        *other.state.pointer_mut(place).unwrap() = value;
        assert!(!schemas::breaches("memory-state", &other.state).is_empty(), "{place}");
        assert!(UnifiedMemory::restore(&other).is_err(), "{place}");
    }
}

/// The first cells of the table between `<!-- NAME` and `<!-- /NAME -->` of a page, and the rest of each row.
fn table(page: &str, name: &str) -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- {name}")).unwrap();
    let (body, _) = rest.split_once(&format!("<!-- /{name} -->")).unwrap();
    let rows = body.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        (cells.next().unwrap(), cells.collect())
    })
    .collect()
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
        let row = listed.get(&generic).unwrap_or_else(|| panic!("the spec has no row for {generic}"));
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
    assert_eq!(listed.keys().collect::<Vec<_>>(), {
        let mut names: Vec<_> = defaults.keys().collect();
        names.sort();
        names
    });
    for (name, row) in listed {
        let value = defaults[&name].as_f64().unwrap() as f32;
        assert_eq!(row[0].parse::<f32>().unwrap(), value, "{name}");
        let (least, most) = match row[1].split_once(" to ") {
            Some((least, most)) => (number(least), number(most)),
            None => (number(row[1].strip_suffix(" and more").unwrap()), f64::INFINITY),
        };
        let beyond = if most.is_finite() { most * 2.0 + 1.0 } else { f64::INFINITY };
        let set = |value: f64| {
            let mut changed = defaults.clone();
            let whole = value.fract() == 0.0 && changed[&name].is_u64();
            changed[&name] = if whole { json!(value as u64) } else { json!(value) };
            serde_json::from_value::<MemoryConfig>(Value::Object(changed)).map(|config| config.check())
        };
        for allowed in [least, most].into_iter().filter(|value| value.is_finite()) {
            assert_eq!(set(allowed).unwrap(), Ok(()), "{name} = {allowed}");
        }
        for refused in [least - 2.0, beyond].into_iter().filter(|value| value.is_finite()) {
            assert!(!matches!(set(refused), Ok(Ok(()))), "{name} = {refused}");
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

#[test]
fn every_schema_is_one() {
    for name in schemas::names() {
        let schema = schemas::read(&name);
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
        assert_eq!(schema["$id"], format!("https://cart.invalid/schemas/{name}.json"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema["title"].is_string(), "{name}");
        if let Some(report) = name.strip_prefix("report-") {
            let version = schema["properties"]["report"]["const"].as_str().unwrap();
            assert!(version.starts_with(&format!("cart.{report}/")), "{name}: {version}");
            assert_eq!(schema["additionalProperties"], false, "{name}");
        }
    }
}

#[test]
fn every_report_has_a_schema() {
    let mut printed = BTreeSet::new();
    reports_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cart-cli/src"), &mut printed);
    let names = schemas::names();
    let schemas = names.iter().filter_map(|name| name.strip_prefix("report-"));
    assert_eq!(printed, schemas.map(str::to_owned).collect());
}

/// The names in `report::print("NAME", …)`.
fn reports_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            reports_in(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for call in source.split("report::print(").skip(1) {
            let name = call.trim_start().strip_prefix('"').unwrap();
            found.insert(name.split('"').next().unwrap().to_owned());
        }
    }
}
