//! `cart memory migrate`: what one model was told, another one recalls; nothing of a slot is lost but its
//! vectors, and a map that loses too much is refused.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write as _;
use std::path::Path;

use cart_tests::models::drawn_llama;
use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const OWNERS: [&str; 6] = ["Anna", "Tom", "Mia", "Ben", "Rosa", "Leo"];
const THINGS: [&str; 6] = ["boat", "key", "map", "barn", "dog", "hat"];

fn fact(n: usize) -> String {
    let (owner, thing) = (OWNERS[n % 6], THINGS[n / 6]);
    format!("The {thing} of {owner} is in box {}.", 13 * n + 7)
}

/// A store with `tiny:told`, which was told 36 facts and links what follows each other, and `other`, a model of
/// another width.
fn told() -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let folder = cart.path("drawn");
    drawn_llama(Path::new(&folder), 64, 5);
    cart.json(["pack", &folder, "-t", "other"]);
    let mut lines = String::new();
    for n in 0..36 {
        let line = json!({"text": fact(n), "energy": 0.9, "tags": ["fact"], "gate": 0.25});
        writeln!(lines, "{line}").unwrap();
    }
    let facts = cart.file("facts.jsonl", lines.as_bytes());
    let settings = cart.file("settings.json", br#"{"graph": {}}"#);
    let import = ["memory", "import", "tiny", &facts, "--settings", &settings];
    cart.json(import.into_iter().chain(["--save", "tiny:told"]));
    cart
}

/// What a memory holds, without tokens.
fn entries(cart: &Cart, reference: &str) -> Vec<Value> {
    let lines = cart.ok(["memory", "export", reference, "-o", "-"]);
    let mut entries: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for entry in &mut entries {
        entry["token_ids"] = Value::Null;
    }
    entries
}

#[test]
fn what_one_model_was_told_another_recalls_with_everything_but_vectors_kept() {
    let cart = told();
    let before = cart.content();
    let migrate = ["memory", "migrate", "tiny:told", "--to", "other"];
    let tried = cart.json(migrate.into_iter().chain(["--dry-run"]));
    assert_eq!(tried["saved"], Value::Null);
    assert_eq!(cart.content(), before, "a dry run changed something");

    let done = cart.json(migrate.into_iter().chain(["--save", "other:told"]));
    let migration = &done["migration"];
    assert_eq!(migration, &tried["migration"]);
    assert_eq!((&migration["from_dim"], &migration["to_dim"]), (&json!(128), &json!(64)));
    assert_ne!(migration["from_space"], migration["to_space"]);
    assert_eq!(done["saved"]["memory_id"], done["memory_id_after"]);
    let recall = &migration["recall"];
    assert_eq!((&recall["queries"], &recall["texts"]), (&json!(36), &json!(36)), "{recall}");
    // What the other model finds is what was asked for; what it finds first, drawn weights decide as they like.
    assert!(recall["own_after"].as_f64() > Some(0.9), "{recall}");
    assert!(recall["at_10"].as_f64() > Some(0.4), "{recall}");
    assert!(migration["goal_norm"].as_f64() > Some(0.0), "{migration}");
    assert!(migration["goal_explained"].as_f64() > Some(0.9), "{migration}");

    // The weights are those of the other model, and the memory is the one that was told.
    let diff = cart.json(["diff", "other", "other:told"]);
    assert_eq!(diff["tensors"]["changed"], json!([]));
    let kept = entries(&cart, "other:told");
    assert!(kept.len() >= 36);
    assert_eq!(kept, entries(&cart, "tiny:told"));
    let links = |reference| cart.json(["memory", "graph", reference])["links"].clone();
    assert_eq!(links("other:told"), links("tiny:told"));
    let counters = |reference: &str| {
        let shown = cart.json(["memory", "show", reference]);
        (shown["memory"]["counters"].clone(), shown["memory"]["goal_norm"].clone())
    };
    assert_eq!(counters("other:told").0, counters("tiny:told").0);
    cart.ok(["verify", "other:told"]);
    assert_eq!(cart.json(["log", "other:told"])["commits"][0]["recipe"], "memory-migrate");
    let asked = cart.json(["memory", "recall", "other:told", "-p", &fact(7), "-k", "1"]);
    assert!(asked.to_string().contains(&fact(7)), "{asked}");
    // It can be told more, and goes on.
    let more = cart.file("more.txt", b"The lamp of Nora is in box 999.");
    cart.json(["memory", "import", "other:told", &more, "--save", "other:more"]);
}

#[test]
fn a_map_is_measured_on_texts_that_it_was_not_fitted_on_and_refused_where_it_loses_too_much() {
    let cart = told();
    let before = cart.content();
    let mut lines = String::new();
    for n in 0..60 {
        let (first, second) = (OWNERS[n % 6], OWNERS[(n / 6) % 6]);
        let thing = THINGS[n % 5];
        writeln!(lines, "One day, {first} went to {second} and found the {thing} in box {n}.")
            .unwrap();
    }
    let anchors = cart.file("anchors.txt", lines.as_bytes());
    let migrate = ["memory", "migrate", "tiny:told", "--to", "other", "--by", "map"];
    let migrate: Vec<&str> = migrate.into_iter().chain(["--anchors", &anchors]).collect();

    let strict = ["--threshold", "1", "--save", "other:lost"];
    let refused = cart.json_with_code(1, migrate.iter().copied().chain(strict));
    let (migration, map) = (&refused["migration"], &refused["migration"]["map"]);
    assert_eq!((&migration["accepted"], &refused["saved"]), (&json!(false), &Value::Null));
    // 24 of 36 texts of the memory and 60 others.
    assert_eq!((&map["texts"], &map["held_out_texts"]), (&json!(84), &json!(12)), "{map}");
    assert!(map["own_weight"].as_f64() > Some(10.0), "{map}");
    assert!(map["pairs"].as_u64() > Some(500), "{map}");
    assert_eq!(migration["recall"]["queries"], 12);
    let said = cart.run(migrate.iter().copied().chain(strict)).expect_code(1).stdout;
    assert!(said.contains("under the threshold of 1; nothing was saved"), "{said}");
    assert_eq!(cart.content(), before);

    let done =
        cart.json(migrate.iter().copied().chain(["--threshold", "0", "--save", "other:moved"]));
    assert_eq!(done["migration"]["recall"], migration["recall"]);
    assert!(map["r2"].as_f64() > Some(0.2), "{map}");
    assert!(migration["recall"]["at_10"].as_f64() > Some(0.4), "{migration}");
    assert_eq!(entries(&cart, "other:moved"), entries(&cart, "tiny:told"));
    cart.ok(["verify", "other:moved"]);
}

#[test]
fn what_cant_be_migrated_is_refused_with_what_to_do() {
    let cart = told();
    let migrate = |reference, to| ["memory", "migrate", reference, "--to", to, "--dry-run"];
    let said = cart.refused(migrate("tiny:told", "tiny"));
    assert!(said.contains("it can be used there as it is"), "{said}");
    let said = cart.refused(migrate("tiny", "other"));
    assert!(
        said.contains("tiny remembers nothing") && said.contains("cart memory import"),
        "{said}"
    );
    cart.refused(migrate("tiny:told", "nobody"));
    let few = cart.file("few.txt", b"The hat of Ida is red. The dog of Kai is old.");
    cart.json(["memory", "import", "tiny", &few, "--save", "tiny:few"]);
    let said = cart.refused(migrate("tiny:few", "other").into_iter().chain(["--by", "map"]));
    assert!(said.contains("2 different texts") && said.contains("needs 30"), "{said}");
    cart.ok(migrate("tiny:few", "other"));

    let empty = cart.file("empty.txt", b"\n \n");
    let anchors =
        |path| migrate("tiny:told", "other").into_iter().chain(["--by", "map", "--anchors", path]);
    let said = cart.refused(anchors(&empty));
    assert!(said.contains("has no texts"), "{said}");
    cart.refused(anchors("nowhere.txt"));
    for wrong in
        [&["--threshold", "0.5"][..], &["--by", "map", "--threshold", "1.5"], &["--save", "x"]]
    {
        let wrong = migrate("tiny:told", "other").into_iter().chain(wrong.iter().copied());
        cart.run(wrong).expect_code(2);
    }
}
