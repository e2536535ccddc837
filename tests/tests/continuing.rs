//! A session that is saved by one process and continued by another.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;

use cart_format::{BasisId, json};
use cart_tests::{Cart, Server, fixture};
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
fn a_saved_session_is_shown_and_compared() {
    let cart = tiny();
    let save = ["--save", "tale", "--with-session"];
    let made = cart.json([&["run", "tiny", "-p", PROMPT, "-n", "4"][..], &save].concat());
    let saved = &made["saved"]["session"];
    let seen = cart.json(["inspect", "tale"])["session"].clone();
    assert_eq!((&seen["positions"], &seen["bytes"]), (&saved["positions"], &saved["bytes"]));
    assert_eq!(seen["fits"], true);
    assert_eq!(cart.json(["inspect", "tiny"])["session"], Value::Null);
    assert!(cart.ok(["inspect", "tale"]).contains("session    "));

    let diff = cart.json(["diff", "tiny", "tale"]);
    let session = &diff["session"];
    assert_eq!((&session["changed"], &session["a"]), (&true.into(), &Value::Null));
    assert_eq!(session["b"], seen);
    assert!(cart.ok(["diff", "tiny", "tale"]).contains("session    none → "));
    assert_eq!(cart.json(["diff", "tale", "tale"])["session"]["changed"], false);
}

#[test]
fn a_chat_saves_its_session_where_it_was_told_to() {
    let cart = tiny();
    let lines = "My name is Vera.\n/save talk\n/quit\n";
    cart.run_with_stdin(["chat", "tiny", "-n", "4", "--with-session"], lines).expect_code(0);
    let said = cart.json(["run", "talk", "--resume", "-p", " there", "-n", "4", "--ignore-eos"]);
    assert_eq!(said["token_ids"].as_array().unwrap().len(), 4);
    assert!(said["prompt_ids"].as_array().unwrap().len() > 8, "{said}");
    let bare = lines.replace("talk", "bare");
    let done = cart.run_with_stdin(["chat", "tiny", "-n", "4"], &bare).expect_code(1);
    assert!(done.stderr.contains("no memory to save"), "{}", done.stderr);
}

#[test]
fn a_chat_goes_on_after_a_save_that_was_refused() {
    let cart = tiny();
    let names = cart.ok(["ls"]);
    let chat = ["chat", "tiny", "-n", "4", "--with-session"];
    let early = cart.run_with_stdin(chat, "/save talk\n/quit\n").expect_code(1);
    assert!(early.stderr.contains("before the first answer"), "{}", early.stderr);
    assert!(early.stderr.contains("without --with-session"), "{}", early.stderr);
    assert_eq!(early.stdout, "not saved\n");
    assert_eq!(cart.ok(["ls"]), names, "something was saved");

    let lines = "/save talk\nMy name is Vera.\n/save ???\n/save talk\n/quit\n";
    let later = cart.run_with_stdin(chat, lines).expect_code(0);
    assert_eq!(later.stdout.matches("not saved\n").count(), 2, "{}", later.stdout);
    assert!(later.stdout.contains("saved talk:latest  sha256:"), "{}", later.stdout);
    cart.json(["run", "talk", "--resume", "-p", " there", "-n", "2", "--ignore-eos"]);
    let cleared = "Hello.\n/clear\n/save gone\n";
    let done = cart.run_with_stdin(chat, cleared).expect_code(1);
    assert!(done.stderr.contains("before the first answer"), "{}", done.stderr);
}

#[test]
fn a_server_counts_what_it_keeps() {
    let cart = tiny();
    let save = ["--save", "tale", "--with-session"];
    cart.json([&["run", "tiny", "-p", PROMPT, "-n", "4"][..], &save].concat());
    let bytes = cart.json(["inspect", "tale"])["session"]["bytes"].clone();
    let server = Server::start(&cart, "tale");
    let prompt = PROMPT.repeat(20);
    for _ in 0..2 {
        server.post_json("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 2 }));
    }
    let (_, metrics) = server.get("/metrics");
    for wanted in [
        "cart_prefix_cache_lookups_total{outcome=\"hit\"} 1\n",
        "cart_prefix_cache_lookups_total{outcome=\"miss\"} 1\n",
        &format!("cart_saved_session_bytes {bytes}\n"),
    ] {
        assert!(metrics.contains(wanted), "{wanted} in\n{metrics}");
    }
    assert!(!metrics.contains("cart_prefix_cache_bytes 0\n"), "{metrics}");
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
