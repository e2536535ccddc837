//! The schemas themselves: they are schemas, every report has one, and a real memory fits its own.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;

use cart_memory::{MemorySnapshot, UnifiedMemory};
use cart_tests::schemas;
use serde_json::{Value, json};

mod lived_in;
use lived_in::lived_in;

#[test]
fn the_state_of_a_memory_fits_its_schema() {
    let snapshot = lived_in();
    schemas::check("memory-state", &snapshot.state);
    let has = |field: &str| {
        let stores = ["stm", "ltm"].into_iter();
        let mut slots = stores.flat_map(|store| snapshot.state[store].as_array().unwrap());
        slots.any(|slot| !slot[field].is_null() && slot[field] != json!(false))
    };
    assert!(
        has("consolidation") && has("token_keys") && has("gate"),
        "the memory is too bare to show anything"
    );
    let ended = |slot: &Value| !slot["validity"]["superseded_by"].is_null();
    assert!(snapshot.state["stm"].as_array().unwrap().iter().any(ended));
}

#[test]
fn the_schema_of_a_memory_refuses_what_the_reader_refuses() {
    let snapshot = lived_in();
    let broken: [(&str, Value); 6] = [
        ("/version", json!(3)),
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
