//! Agents that were told different things become one that knows all of it, whoever is merged with whom first.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

/// A store with a model, and what is told to it under names.
fn told(agents: &[(&str, &str, &[&str])]) -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    for (name, from, texts) in agents {
        tell(&cart, from, texts, name);
    }
    cart
}

fn tell(cart: &Cart, from: &str, texts: &[&str], name: &str) {
    let mut lines = String::new();
    for (place, text) in texts.iter().enumerate() {
        let energy = 0.9 - 0.01 * place as f64;
        writeln!(lines, "{}", json!({"text": text, "energy": energy})).unwrap();
    }
    let file = cart.file("told.jsonl", lines.as_bytes());
    cart.json(["memory", "import", from, &file, "--save", name]);
}

fn memory(cart: &Cart, reference: &str) -> Value {
    cart.manifest(reference)["memory"].clone()
}

fn texts(cart: &Cart, reference: &str) -> BTreeSet<String> {
    let shown = cart.json(["memory", "show", reference]);
    let slots = shown["slots"].as_array().unwrap();
    slots.iter().map(|slot| slot["text"].as_str().unwrap().to_owned()).collect()
}

const ANN: &[&str] = &["Ann lives in Oslo.", "The mill is old.", "Tom has a red boat."];
const BEN: &[&str] = &["Ann lives in Lima.", "Eva has a horse.", "The mill is old."];
const CAT: &[&str] = &["Ann lives in Rome.", "Ida has a garden."];

#[test]
fn every_order_and_grouping_of_three_agents_gives_one_memory() {
    let cart = told(&[("ann", "tiny", ANN), ("ben", "tiny", BEN), ("cat", "tiny", CAT)]);
    let merge =
        |a: &str, b: &str, name: &str| cart.json(["merge", a, b, "-t", name, "--seed", "1"]);
    let first = merge("ann", "ben", "ab");
    let join = &first["memory"]["join"];
    assert_eq!(first["memory"]["from"], json!(["ann", "ben"]));
    assert_eq!((&join["memories"], &join["merged"]), (&json!(2), &json!(1)));
    assert_eq!(join["contradictions"].as_array().unwrap().len(), 1, "{join}");
    for (a, b, name) in [
        ("ben", "cat", "bc"),
        ("cat", "ann", "ca"),
        ("ab", "cat", "one"),
        ("ann", "bc", "two"),
        ("ben", "ca", "three"),
        ("bc", "ab", "four"),
        ("cat", "one", "five"),
    ] {
        merge(a, b, name);
    }
    for name in ["two", "three", "four", "five"] {
        assert_eq!(memory(&cart, name), memory(&cart, "one"), "{name}");
        assert_eq!(cart.manifest(name)["cart"], "1.2");
    }
    let said: BTreeSet<String> = [ANN, BEN, CAT].concat().iter().map(ToString::to_string).collect();
    assert_eq!(texts(&cart, "one"), said);
    let replayed = cart.json(["merge", "--replay", "one"]);
    assert_eq!(replayed["equal"], true);
    cart.ok(["verify", "one"]);
    cart.ok(["fsck"]);
    // What it was joined from stays while it is needed, and travels with it.
    let file = cart.path("one.cart");
    cart.ok(["export", "one", "-o", &file]);
    for name in ["ann", "ben", "cat", "ab", "bc", "ca", "two", "three", "four", "five"] {
        cart.ok(["rm", name]);
    }
    cart.ok(["gc", "--grace", "0"]);
    cart.ok(["verify", "one", &file]);
}

#[test]
fn contradictions_are_settled_as_asked_and_a_refusal_leaves_nothing() {
    let cart = told(&[("ann", "tiny", ANN), ("ben", "tiny", BEN)]);
    let before = cart.content();
    let refused =
        cart.run(["merge", "ann", "ben", "-t", "x", "--contradictions", "refuse"]).expect_code(1);
    assert!(refused.stderr.contains("Ann lives in Lima."), "{}", refused.stderr);
    let plan = cart.json(["merge", "ann", "ben", "--dry-run"]);
    let pair = &plan["memory"]["join"]["contradictions"][0];
    let both: BTreeSet<&str> =
        ["holds", "other"].into_iter().map(|side| pair[side].as_str().unwrap()).collect();
    assert_eq!(both, BTreeSet::from(["Ann lives in Lima.", "Ann lives in Oslo."]));
    assert_eq!((cart.content(), &pair["ended"]), (before, &json!(false)));

    // Both said it first of three, with the same energy; a fourth makes it older.
    tell(&cart, "ann", &["Max sells bread."], "ann");
    for (policy, ended) in [("keep-both", false), ("newest", true), ("highest-energy", true)] {
        let merged = cart.json(["merge", "ann", "ben", "-t", "both", "--contradictions", policy]);
        let pair = &merged["memory"]["join"]["contradictions"][0];
        assert_eq!(pair["ended"], ended, "{policy}");
        if policy == "newest" {
            assert_eq!(pair["holds"], "Ann lives in Lima.");
        }
        let found = cart.json(["memory", "show", "both"]);
        let slots = found["slots"].as_array().unwrap();
        let slot = slots.iter().find(|slot| slot["text"] == pair["other"]).unwrap();
        assert_eq!(slot["until"].is_null(), !ended, "{slot}");
        assert_eq!(cart.json(["merge", "--replay", "both"])["equal"], true);
    }
}

#[test]
fn what_an_agent_has_lived_on_from_does_not_count_beside_it() {
    let cart = told(&[("ann", "tiny", ANN)]);
    tell(&cart, "ann", &["Max sells bread."], "later");
    // The tag `later` does not have `ann` in its history by itself: it is made from it.
    let merged = cart.json(["merge", "ann", "later", "-t", "both"]);
    assert_eq!(merged["memory"]["outlived"], json!(["ann"]), "{merged}");
    assert_eq!(memory(&cart, "both"), memory(&cart, "later"));
    // Nothing to join where nobody else remembers, and nothing that was not asked for.
    let alone = cart.json(["merge", "ann", "tiny", "-t", "alone"]);
    assert_eq!(alone["memory"]["join"], Value::Null);
    assert_eq!(memory(&cart, "alone"), memory(&cart, "ann"));
    cart.json(["merge", "ann", "tiny", "--memory", "none", "-t", "bare"]);
    assert_eq!(memory(&cart, "bare"), Value::Null);
}

#[test]
fn a_joined_memory_that_nothing_was_written_to_stays_joined() {
    let cart = told(&[("ann", "tiny", ANN), ("ben", "tiny", BEN)]);
    cart.json(["merge", "ann", "ben", "-t", "both"]);
    tell(&cart, "both", &["Max sells bread."], "lived");
    let lived = memory(&cart, "lived");
    assert_eq!(lived.get("parts"), None, "what lived on is one memory");
    assert_eq!(cart.manifest("lived")["cart"], "1.0");
    let merged = cart.json(["merge", "lived", "ann", "-t", "again"]);
    assert_eq!(merged["memory"]["outlived"], json!(["ann"]));
    assert_eq!(memory(&cart, "again"), lived);
}

/// The tiny model with weights that have grown a little apart, by `step`.
fn retrained(cart: &Cart, step: u8, name: &str) {
    let folder = cart.path(&format!("{name}-model"));
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(fixture("tiny")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), format!("{folder}/{}", file.file_name().display())).unwrap();
    }
    let weights = format!("{folder}/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // The low bytes of half-precision numbers: none becomes infinite.
    bytes[8 + header..].iter_mut().step_by(2).for_each(|low| *low ^= step);
    std::fs::write(&weights, bytes).unwrap();
    cart.json(["pack", &folder, "-t", name]);
}

#[test]
fn what_is_of_other_weights_is_read_by_the_result_where_that_is_asked_for() {
    let cart = told(&[]);
    retrained(&cart, 3, "apart");
    tell(&cart, "tiny", ANN, "ann");
    tell(&cart, "apart", BEN, "ben");
    let merge = |more: &[&str]| {
        let merge = ["merge", "ann", "ben", "--method", "linear", "-t", "both"];
        cart.json([&merge[..], more].concat())
    };
    let left_out = merge(&[]);
    assert_eq!(left_out["memory"]["left_out"], json!(["ann", "ben"]), "{left_out}");
    assert_eq!(memory(&cart, "both"), Value::Null);

    let merged = merge(&["--memory", "migrate", "--contradictions", "newest"]);
    assert_eq!(merged["memory"]["migrated"], json!(["ann", "ben"]));
    let join = &merged["memory"]["join"];
    assert_eq!((&join["memories"], &join["merged"]), (&json!(2), &json!(1)), "{join}");
    assert_eq!(join["contradictions"].as_array().unwrap().len(), 1);
    let said: BTreeSet<String> = [ANN, BEN].concat().iter().map(ToString::to_string).collect();
    assert_eq!(texts(&cart, "both"), said);
    // It is the result's own: it recalls with it.
    let recalled = cart.json(["memory", "recall", "both", "--prompt", "Eva has a"]);
    assert_eq!(recalled["recalled"][0]["text"], "Eva has a horse.", "{recalled}");
    cart.ok(["verify", "both"]);
    cart.ok(["fsck"]);
    assert_eq!(cart.json(["merge", "--replay", "both"])["equal"], true);
    // The parts are of the result's space, so what is merged with it later is joined with them.
    tell(&cart, "both", &["Max sells bread."], "later");
    let again = cart.json(["merge", "later", "both", "-t", "again"]);
    assert_eq!(again["memory"]["left_out"], json!([]));
    let plan = cart.json([
        "merge",
        "ann",
        "ben",
        "--method",
        "linear",
        "--memory",
        "migrate",
        "--dry-run",
    ]);
    assert_eq!(
        (&plan["memory"]["migrated"], &plan["memory"]["join"]),
        (&json!(["ann", "ben"]), &Value::Null)
    );
}
