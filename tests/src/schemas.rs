//! The JSON Schemas in `schemas/`, as the tests use them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jsonschema::Validator;
use serde_json::Value;

use crate::places::root;

/// The names of all schemas: `manifest`, `report-pack`, …
pub fn names() -> Vec<String> {
    let folder = std::fs::read_dir(folder()).unwrap();
    let files = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        files.map(|file| file.strip_suffix(".json").unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A schema's text as JSON.
pub fn read(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails, with every breach, unless the value fits the schema.
pub fn check(name: &str, value: &Value) {
    let breaches = breaches(name, value);
    assert!(breaches.is_empty(), "not as schemas/{name}.json says:\n{}", breaches.join("\n"));
}

/// How a value breaks a schema.
pub fn breaches(name: &str, value: &Value) -> Vec<String> {
    let found = validator(name);
    found.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn validator(name: &str) -> Arc<Validator> {
    static MADE: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    if let Some(found) = MADE.lock().unwrap().get(name) {
        return found.clone();
    }
    let made = Arc::new(jsonschema::draft202012::new(&read(name)).unwrap());
    MADE.lock().unwrap().entry(name.to_owned()).or_insert(made).clone()
}

fn folder() -> PathBuf {
    root().join("schemas")
}
