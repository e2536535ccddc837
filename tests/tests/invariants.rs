//! What ARCHITECTURE.md says must always hold: each invariant names tests, and they are there.
//! Those about the source itself are here.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every `.rs` file under a folder, with what is in it.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder}");
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The lines of a crate's source that are neither tests nor comments, with the file's name.
fn shipped_lines(folder: &str) -> Vec<(String, String)> {
    let files = sources(folder);
    let shipped = files.iter().filter(|(path, _)| !path.ends_with("crash_tests.rs"));
    shipped
        .flat_map(|(path, text)| {
            let file = path.file_name().unwrap().to_str().unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines();
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            code.map(move |line| (file.to_owned(), line.to_owned()))
        })
        .collect()
}

/// The functions under `#[test]`, those of `proptest!` included.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in sources("crates").into_iter().chain(sources("tests")) {
        for after in text.split("#[test]").skip(1) {
            let line = after.lines().find(|line| line.trim_start().starts_with("fn "));
            let name = line.and_then(|line| line.trim_start()[3..].split(['(', '<']).next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("\n## Invariants\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let tests = tests();
    let mut numbers = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, what, held_by] = cells[..] else { panic!("{row}") };
        numbers.push(number.parse::<usize>().unwrap());
        assert!(what.len() > 20, "{row}");
        let named: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "invariant {number} names no test");
        for name in named {
            assert!(tests.contains(name), "invariant {number}: there is no test `{name}`");
        }
    }
    assert!(numbers.len() >= 20, "{numbers:?}");
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}

#[test]
fn verify_is_the_only_maker_of_verified() {
    let made: Vec<_> = shipped_lines("crates")
        .into_iter()
        .filter(|(_, line)| line.contains("Verified {") && !line.contains("struct Verified"))
        .filter(|(_, line)| !line.starts_with("impl"))
        // What gives one away has not made it.
        .filter(|(_, line)| !["-> Verified {", "-> &Verified {"].iter().any(|it| line.contains(it)))
        .collect();
    assert!(made.len() == 1 && made[0].0 == "verify.rs", "{made:?}");
    let lines = shipped_lines("crates/cart-engine/src");
    let loads: Vec<_> = lines.iter().filter(|(_, line)| line.contains("pub fn load(")).collect();
    assert_eq!(loads.len(), 1, "{loads:?}");
    assert!(loads[0].1.contains("&Verified"), "an engine loads what is verified: {loads:?}");
}

#[test]
fn only_the_publisher_changes_files_of_a_store() {
    let changes = [
        "fs::rename",
        "fs::write",
        "fs::remove_",
        "fs::create_dir",
        "fs::hard_link",
        "fs::copy(",
        "fs::set_permissions",
        "File::create",
        "OpenOptions::new",
    ];
    // Locks are empty files; an export's folder is outside the store; faults are for tests.
    let others = ["lock.rs", "export.rs", "faults.rs"];
    let mut by_publisher = 0;
    for (file, line) in shipped_lines("crates/cart-store/src") {
        if changes.iter().any(|change| line.contains(change)) {
            let allowed = file == "publish.rs" || others.contains(&file.as_str());
            assert!(allowed, "{file}: {line}");
            by_publisher += usize::from(file == "publish.rs");
        }
    }
    assert!(by_publisher > 5, "{by_publisher}");
}

#[test]
fn format_and_memory_know_no_files_clock_or_chance() {
    let outside = [
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant",
        "RandomState",
        "rand::",
        "std::io::Read",
        "std::thread",
    ];
    for folder in ["crates/cart-format/src", "crates/cart-memory/src"] {
        for (file, line) in shipped_lines(folder) {
            let found = outside.iter().find(|outside| line.contains(**outside));
            assert!(found.is_none(), "{folder}/{file}: {line}");
        }
    }
}
