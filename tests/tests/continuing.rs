//! A session that is saved by one process and continued by another.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;

use cart_format::{BasisId, json};
use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const PROMPT: &str = "One day, Anna went to the river. She saw a small boat there, and in the boat";

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

fn ids(report: &Value) -> Vec<u64> {
    report["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn another_process_goes_on_with_the_same_tokens() {
    let cart = tiny();
    for (kv, first) in [("f16", "0"), ("f16", "9"), ("f32", "9"), ("q8", "9")] {
        let run = |count: &str| {
            cart.json(["run", "tiny", "-p", PROMPT, "-n", count, "--kv", kv, "--ignore-eos"])
        };
        let whole = ids(&run("40"));
        let begun = cart.json([
            "run",
            "tiny",
            "-p",
            PROMPT,
            "-n",
            first,
            "--kv",
            kv,
            "--ignore-eos",
            "--save",
            "tale",
            "--with-session",
        ]);
        let prompt = begun["prompt_ids"].as_array().unwrap().len();
        let first: usize = first.parse().unwrap();
        let positions = begun["saved"]["session"]["positions"].as_u64().unwrap() as usize;
        assert_eq!(positions, prompt + first.saturating_sub(1), "{kv}");
        let left = (40 - first).to_string();
        let rest = cart.json(["run", "tale", "--resume", "-n", &left, "--ignore-eos"]);
        assert_eq!([ids(&begun), ids(&rest)].concat(), whole, "{kv} after {first}");
        cart.ok(["verify", "tale"]);
        let file = cart.path(&format!("tale-{kv}-{first}.cart"));
        cart.ok(["export", "tale", "-o", &file]);
        let from_file = cart.json(["run", &file, "--resume", "-n", &left, "--ignore-eos"]);
        assert_eq!(ids(&from_file), ids(&rest));
    }
}

#[test]
fn a_session_goes_on_with_more_text_and_is_saved_again() {
    let cart = tiny();
    let save = ["--save", "tale", "--with-session"];
    cart.json([&["run", "tiny", "-p", PROMPT, "-n", "4", "--ignore-eos"][..], &save].concat());
    let before = cart.manifest("tale")["session"]["positions"].as_u64().unwrap();
    let more = ["run", "tale", "--resume", "-p", " there was a cat.", "-n", "4", "--ignore-eos"];
    let report = cart.json([&more[..], &save].concat());
    assert!(report["saved"]["session"]["positions"].as_u64().unwrap() > before + 4);
    cart.json(["run", "tale", "--resume", "-n", "4"]);
}

#[test]
fn what_can_not_be_continued_is_refused() {
    let cart = tiny();
    let none = cart.run(["run", "tiny", "--resume", "-n", "4"]).expect_code(1);
    assert!(none.stderr.contains("no saved session"), "{}", none.stderr);
    for arguments in [
        &["run", "tiny", "-n", "4"][..],
        &["run", "tiny", "-p", "Hello", "--save", "x"],
        &["run", "tiny", "-p", "Hello", "--with-session"],
        &["run", "tiny", "--resume", "--kv", "f16"],
        &["run", "tiny", "--resume", "--memory"],
        &["run", "tiny", "-p", "Hello", "--kv", "f8"],
    ] {
        cart.run(arguments.iter().copied()).expect_code(2);
    }
}

/// The table of page 35 §2, written out.
#[test]
fn the_spec_says_how_a_basis_is_made() {
    let cart = tiny();
    let save = ["--save", "tale", "--with-session"];
    cart.json([&["run", "tiny", "-p", PROMPT, "-n", "1"][..], &save].concat());
    let manifest = cart.manifest("tale");
    assert_eq!(manifest["cart"], "1.1");
    let document = json!({
        "procedure": 1,
        "architecture": manifest["model"]["architecture"],
        "tensors": manifest["model"]["tensors"],
        "tokenizer": manifest["tokenizer"]["document"],
    });
    let page = include_str!("../../spec/35-session.md");
    let (_, rest) = page.split_once("<!-- basis").unwrap();
    let (table, _) = rest.split_once("<!-- /basis").unwrap();
    let listed = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let fields: BTreeSet<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(listed.collect::<BTreeSet<_>>(), fields);
    let bytes = json::to_canonical(&document).unwrap();
    assert_eq!(manifest["session"]["basis"], BasisId::of(&bytes).hex());
}
