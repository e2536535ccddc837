//! The house's rules about itself: who may depend on whom, who sees candle, which licences come in.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The arrows of ARCHITECTURE.md, read from its table.
fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../ARCHITECTURE.md");
    let rows = text.lines().filter(|line| line.starts_with("| `cart-"));
    let mut arrows = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        arrows.insert(name, cells[2].to_owned());
    }
    let names: BTreeSet<String> = arrows.keys().cloned().collect();
    let short = |word: &str| format!("cart-{}", word.trim());
    arrows
        .into_iter()
        .map(|(name, cell)| {
            let allowed = match cell.as_str() {
                "–" => BTreeSet::new(),
                "all" => names.clone(),
                list => list.split(',').map(short).collect(),
            };
            (name, allowed)
        })
        .collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|package| (package["name"].as_str().unwrap(), package))
}

fn shipped_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let dependencies = package["dependencies"].as_array().unwrap();
    let shipped = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
    shipped.map(|dependency| dependency["name"].as_str().unwrap())
}

#[test]
fn crate_arrows_match_the_architecture() {
    let allowed = allowed_arrows();
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    for (name, package) in packages(&metadata) {
        if !name.starts_with("cart-") || name == "cart-tests" || package["source"].is_string() {
            continue;
        }
        let row =
            allowed.get(name).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        for dependency in shipped_dependencies(package).filter(|name| name.starts_with("cart-")) {
            assert!(row.contains(dependency), "{name} may not use {dependency}");
        }
        seen.insert(name.to_owned());
    }
    assert_eq!(seen, allowed.into_keys().collect());
}

#[test]
fn only_nn_sees_candle() {
    let metadata = metadata();
    for (name, package) in packages(&metadata) {
        if package["source"].is_string() || name == "cart-nn" {
            continue;
        }
        let candle: Vec<_> =
            shipped_dependencies(package).filter(|name| name.starts_with("candle")).collect();
        assert!(candle.is_empty(), "{name} depends on {candle:?}");
    }
}

#[test]
fn licences_are_allowed() {
    let deny = include_str!("../../deny.toml");
    let list = deny.split("allow = [").nth(1).unwrap().split(']').next().unwrap();
    let allowed: BTreeSet<&str> = list
        .split(',')
        .map(|item| item.trim().trim_matches('"'))
        .filter(|item| !item.is_empty())
        .collect();
    let metadata = metadata();
    for (name, package) in packages(&metadata) {
        let expression = package["license"].as_str().unwrap_or("");
        // Of alternatives one has to be allowed; of licences that hold together all.
        let acceptable = expression.replace('/', " OR ").replace(['(', ')'], " ");
        let acceptable = acceptable
            .split(" OR ")
            .any(|option| option.split(" AND ").all(|licence| allowed.contains(licence.trim())));
        assert!(acceptable, "{name} has the licence `{expression}`");
    }
}
