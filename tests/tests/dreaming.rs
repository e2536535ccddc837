//! `cart memory dream`: what says the same becomes one, everything is still known, and a bad dream leaves
//! no trace.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write as _;

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const OWNERS: [&str; 10] = ["Ann", "Tom", "Eva", "Bob", "Ida", "Max", "Lea", "Jon", "Mia", "Kai"];
const THINGS: [&str; 10] =
    ["dog", "cat", "boat", "house", "horse", "mill", "bird", "garden", "car", "shop"];

/// What is said of the nth thing, without its end.
fn fact(n: usize) -> String {
    format!("The {} of {} is number {}", THINGS[n], OWNERS[n], 37 * n + 11)
}

/// A store with `tiny:twice`, which was told ten facts, each once with a full stop and once with an
/// exclamation mark, and links what follows each other.
fn twice() -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let mut lines = String::new();
    for n in 0..10 {
        for (end, energy) in [('.', 0.9), ('!', 0.8)] {
            let line = json!({"text": format!("{}{end}", fact(n)), "energy": energy});
            writeln!(lines, "{line}").unwrap();
        }
    }
    let facts = cart.file("facts.jsonl", lines.as_bytes());
    let settings = cart.file("settings.json", br#"{"graph": {}}"#);
    let import = ["memory", "import", "tiny", &facts, "--settings", &settings];
    cart.json(import.into_iter().chain(["--save", "tiny:twice"]));
    cart
}

fn ltm(cart: &Cart, reference: &str) -> Vec<Value> {
    let shown = cart.json(["memory", "show", reference, "--ltm"]);
    shown["slots"].as_array().unwrap().clone()
}

/// What each fact's question finds first in long-term memory.
fn found(cart: &Cart, reference: &str) -> Vec<String> {
    let first = |n| {
        let asked = cart.json(["memory", "reflect", reference, "-p", &fact(n), "-k", "1"]);
        asked["reflection"]["known"][0]["text"].as_str().unwrap().to_owned()
    };
    (0..10).map(first).collect()
}

#[test]
fn what_was_told_twice_is_kept_once_and_found_as_before() {
    let cart = twice();
    let before = cart.content();
    let dream = ["memory", "dream", "tiny:twice", "--link", "0.15"];
    let tried = cart.json(dream.into_iter().chain(["--dry-run"]));
    assert_eq!(tried["saved"], Value::Null);
    assert_eq!(cart.content(), before, "a dry run changed something");

    let dreamt = cart.json(dream.into_iter().chain(["--save", "tiny:rested"]));
    let (report, saved) = (&dreamt["dream"], &dreamt["saved"]);
    assert_eq!((report, &dreamt["memory_id_after"]), (&tried["dream"], &tried["memory_id_after"]));
    assert_eq!(report["accepted"], true, "{dreamt}");
    assert_eq!((&report["slots_before"], &report["slots_after"]), (&json!(20), &json!(10)));
    assert_eq!((&report["before"]["probes"], &report["after"]["recall"]), (&json!(40), &json!(1)));
    assert_eq!(saved["memory_id"], dreamt["memory_id_after"]);
    assert_ne!(dreamt["memory_id"], dreamt["memory_id_after"]);
    let shown = cart.json(["memory", "show", "tiny:rested"]);
    assert_eq!(shown["memory_id"], saved["memory_id"]);

    // What is worth more stays: the one with the full stop.
    let kept = ltm(&cart, "tiny:rested");
    assert_eq!(kept.len(), 10);
    for merged in report["merged"].as_array().unwrap() {
        assert!(merged["text"].as_str().unwrap().ends_with('!'), "{merged}");
        let slot = kept.iter().find(|slot| slot["slot"] == merged["kept"]).unwrap();
        assert_eq!((&slot["count"], &slot["energy"]), (&json!(2), &json!(f64::from(0.9_f32))));
    }
    for (n, (old, new)) in
        found(&cart, "tiny:twice").iter().zip(found(&cart, "tiny:rested")).enumerate()
    {
        assert!(old.starts_with(&fact(n)), "{old}");
        assert_eq!(new, format!("{}.", fact(n)));
    }

    // What attends to each other is linked, and links are rehearsed.
    let graph = cart.json(["memory", "graph", "tiny:rested"]);
    let long: Vec<&Value> = kept.iter().map(|slot| &slot["slot"]).collect();
    let links = graph["links"].as_array().unwrap();
    let among = links.iter().filter(|link| long.contains(&&link["from"])).count();
    assert!(among > 0 && report["new_links"] == among, "{dreamt} {graph}");
    assert!(report["rehearsed"].as_u64().unwrap() > 0, "{dreamt}");

    // It is history, to be undone and repeated.
    let log = cart.json(["log", "tiny:rested"]);
    assert_eq!(
        (&log["commits"][0]["recipe"], &log["commits"][1]["recipe"]),
        (&json!("memory-dream"), &json!("memory-import"))
    );
    let again = cart.json(dream.into_iter().chain(["--save", "tiny:twice"]));
    assert_eq!(again["saved"]["manifest"], saved["manifest"]);
    assert_eq!(ltm(&cart, "tiny:twice"), kept);
    cart.ok(["verify", "tiny:twice"]);
    // A second dream finds nothing that is said twice.
    let second = cart.json(["memory", "dream", "tiny:rested", "--dry-run"]);
    assert_eq!(second["dream"]["merged"], json!([]));
}

#[test]
fn a_bad_dream_is_taken_back_and_saves_nothing() {
    let cart = twice();
    let before = cart.content();
    for bad in [["--redundancy", "-1", "--overlap", "0"], ["--refine", "1", "--temperature", "10"]]
    {
        let dream = ["memory", "dream", "tiny:twice", "--save", "tiny:bad"].into_iter().chain(bad);
        let dreamt = cart.json_with_code(1, dream.clone());
        let report = &dreamt["dream"];
        assert_eq!((&report["accepted"], &dreamt["saved"]), (&json!(false), &Value::Null));
        assert!(
            report["after"]["recall"].as_f64() < report["before"]["recall"].as_f64(),
            "{dreamt}"
        );
        assert_eq!(dreamt["memory_id"], dreamt["memory_id_after"]);
        let said = cart.run(dream).expect_code(1).stdout;
        assert!(said.contains("taken back: fewer probes are answered"), "{said}");
    }
    assert_eq!(cart.content(), before);
    cart.refused(["inspect", "tiny:bad"]);
}

#[test]
fn people_see_what_became_one() {
    let cart = twice();
    let said = cart.ok(["memory", "dream", "tiny:twice", "--dry-run"]);
    assert_eq!(said.matches(&format!("{}!\n", fact(3))).count(), 1, "{said}");
    assert!(
        said.contains("20 slots before, 10 after") && said.contains("40 of 40 after"),
        "{said}"
    );
    assert!(said.ends_with("it would stand; nothing was saved\n"), "{said}");
    let said = cart.ok(["memory", "dream", "tiny:twice", "--save", "tiny:rested"]);
    assert!(said.contains("\nsaved tiny:rested  sha256:"), "{said}");
}

#[test]
fn a_dream_needs_a_memory_and_options_within_their_range() {
    let cart = twice();
    let said = cart.refused(["memory", "dream", "tiny", "--dry-run"]);
    assert!(
        said.contains("tiny remembers nothing") && said.contains("cart memory import"),
        "{said}"
    );
    let options = [["--redundancy", "1.5"], ["--tolerance", "NaN"], ["--temperature", "0"]];
    for option in options {
        let dream = ["memory", "dream", "tiny:twice", "--dry-run"].into_iter().chain(option);
        let said = cart.refused_with_code(2, dream);
        assert!(said.contains("dream option") && said.contains("allowed: "), "{said}");
    }
    for wrong in
        [&["--seed", "9007199254740992", "--dry-run"][..], &[], &["--dry-run", "--save", "x"]]
    {
        let dream = ["memory", "dream", "tiny:twice"].into_iter().chain(wrong.iter().copied());
        cart.run(dream).expect_code(2);
    }
}
