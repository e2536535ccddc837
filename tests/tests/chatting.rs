//! Talking in the terminal: what lines that begin with `/` do.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use cart_tests::{Cart, fixture};

/// A store with a small model, `tiny`.
fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

fn said(cart: &Cart, words: &[&str], lines: &str) -> String {
    let words = [&["chat", "tiny", "-n", "6"], words].concat();
    cart.run_with_stdin(words, lines).expect_code(0).stdout
}

/// The id of the memory that `/save NAME` said it kept.
fn memory_id(stdout: &str, name: &str) -> String {
    let saved = stdout.split(&format!("saved {name}  sha256:")).nth(1).unwrap();
    saved.lines().nth(1).unwrap().strip_prefix("  memory ").unwrap().to_owned()
}

#[test]
fn what_is_remembered_is_asked_and_an_answer_says_why() {
    let cart = tiny();
    let lines = "/recall Vera\n/why\nMy name is Vera.\n/recall My name is Vera.\n/goal\n/clear\n\
                 My name is Vera.\n/why\n/dance\n";
    let stdout = said(&cart, &["--memory"], lines);
    assert!(stdout.starts_with("nothing is remembered yet\nthere is no answer yet\n"), "{stdout}");
    assert_eq!(stdout.matches("COSINE").count(), 1, "{stdout}");
    let why = stdout.split("MATCH").nth(1).unwrap();
    assert!(why.contains("Vera") && why.contains("tokens of it stood before the prompt"), "{why}");
    assert!(why.contains("KL divergence from the bare model"), "{why}");
    assert!(why.contains("without memory"), "{why}");
    assert!(stdout.ends_with("there is no /dance; /help lists the commands\n"), "{stdout}");

    let bare = said(&cart, &[], "Hello.\n/why\n");
    assert!(bare.ends_with("memory took no part in this answer; chat with --memory\n"), "{bare}");
}

#[test]
fn a_question_that_was_taken_back_leaves_nothing() {
    let cart = tiny();
    let lines = "/undo\nMy name is Vera.\n/save tiny:one\nThe boat is red.\n/save tiny:two\n/undo\n\
                 /save tiny:three\nThe boat is red.\n/save tiny:four\n/undo\n/undo\n/undo\n/memory\n";
    let stdout = said(&cart, &["--memory"], lines);
    let id = |name| memory_id(&stdout, name);
    assert_eq!(id("tiny:one"), id("tiny:three"));
    assert_ne!(id("tiny:one"), id("tiny:two"));
    // The conversation is the one that it was, too: the same question is remembered alike.
    assert_eq!(id("tiny:two"), id("tiny:four"));
    assert_eq!(stdout.matches("there is nothing to take back").count(), 2, "{stdout}");
    assert!(stdout.ends_with("nothing is remembered yet\n"), "{stdout}");
}

#[test]
fn another_cartridge_goes_on_with_the_conversation_and_if_asked_with_the_memory() {
    let cart = tiny();
    said(&cart, &["--memory"], "My name is Vera.\n/save tiny:vera\n");
    let stdout = said(&cart, &["--memory"], "/swap tiny:vera\n/memory\n/swap tiny\n/memory\n");
    let (vera, bare) = stdout.split_once("going on with tiny\n").unwrap();
    assert!(vera.contains("going on with tiny:vera\n") && vera.contains("Vera"), "{stdout}");
    assert_eq!(bare, "nothing is remembered yet\n");
    let stdout = said(&cart, &["--memory"], "/swap tiny:vera\n/swap tiny carry\n/memory\n");
    let (_, carried) = stdout.split_once("going on with tiny, with the memory so far\n").unwrap();
    assert!(carried.contains("Vera"), "{stdout}");

    let done = cart.run_with_stdin(["chat", "tiny", "-n", "2"], "/swap nowhere\nHello.\n/swap\n");
    let done = done.expect_code(0);
    assert!(done.stderr.contains("nowhere"), "{done:?}");
    assert!(done.stdout.ends_with("/swap REF [replace|carry]: which cartridge?\n"), "{done:?}");
}

#[test]
fn a_line_that_ends_with_a_backslash_goes_on() {
    let cart = tiny();
    said(&cart, &["--memory"], "The boat\\\nis red.\n/save tiny:boat\n");
    let shown = cart.json(["memory", "show", "tiny:boat"]);
    let slots = shown["slots"].as_array().unwrap();
    let of = |source: &str| {
        let slots = slots.iter().filter(|slot| slot["source"] == source);
        slots.map(|slot| slot["text"].as_str().unwrap()).collect::<Vec<_>>()
    };
    // Two lines of one message, and one answer.
    assert_eq!((of("user"), of("assistant").len()), (vec!["is red.", "The boat"], 1), "{shown}");
}

#[test]
fn from_a_pipe_one_interrupt_ends_it() {
    let cart = tiny();
    let mut child = cart
        .command(["chat", "tiny", "-n", "6"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Hello.\n").unwrap();
    // An answer has begun, so nothing is being loaded any more.
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // Its stdin stays open.
    assert!(!child.wait().unwrap().success());
}
