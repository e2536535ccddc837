//! Weights in other types.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

/// The type of each tensor.
fn dtype<'m>(manifest: &'m Value, tensor: &str) -> &'m str {
    manifest["model"]["tensors"][tensor]["dtype"].as_str().unwrap()
}

fn perplexity(cart: &Cart, name: &str) -> f64 {
    let text = fixture("tiny/config.json");
    cart.json(["eval", name, "--text", &text])["perplexity"].as_f64().unwrap()
}

#[test]
fn a_quantized_cartridge_is_smaller_says_what_it_lost_and_runs() {
    let cart = tiny();
    let before = perplexity(&cart, "tiny");
    let mut bytes = u64::MAX;
    for (name, most, shift) in [("q8_0", 0.01, 0.02), ("q5_1", 0.04, 0.1), ("q4_0", 0.15, 0.6)] {
        let made = cart.json(["quantize", "tiny", "--type", name, "-t", name]);
        // Of four layers: seven matrices each, the embedding, and a head where there is one.
        assert!(made["written"].as_u64().unwrap() >= 29, "{made}");
        assert!(made["after_bytes"].as_u64().unwrap() < bytes, "{made}");
        bytes = made["after_bytes"].as_u64().unwrap();
        let relative = made["error"]["relative"].as_f64().unwrap();
        assert!(relative > 0.0 && relative < most, "{name}: {made}");
        assert!(made["error"]["most"].as_f64().unwrap() >= relative, "{made}");
        cart.ok(["verify", name]);
        let after = perplexity(&cart, name);
        assert!((after / before).ln().abs() < shift, "{name}: {before} {after}");
        let manifest = cart.manifest(name);
        assert_eq!(dtype(&manifest, "model.layers.0.self_attn.q_proj.weight"), name);
        assert_eq!(dtype(&manifest, "model.layers.0.input_layernorm.weight"), "f16");
    }
    // The same on one thread, and its history says how it came about.
    let again = cart.json(["quantize", "tiny", "--type", "q4_0", "-t", "again", "--threads", "1"]);
    assert_eq!(again["manifest"], cart.json(["inspect", "q4_0"])["manifest"]);
    let log = cart.ok(["log", "q4_0"]);
    assert!(log.contains("quantize") && log.contains("import"), "{log}");
}

/// Values that lie on a type's grid are on it still when they are quantized again.
#[test]
fn there_and_back_changes_nothing_more() {
    let cart = tiny();
    cart.ok(["quantize", "tiny", "--type", "q8_0", "-t", "small"]);
    let wide = cart.json(["quantize", "small", "--type", "f32", "-t", "wide"]);
    assert_eq!(wide["error"], Value::Null);
    cart.ok(["quantize", "wide", "--type", "q8_0", "-t", "back"]);
    let [small, back] = ["small", "back"].map(|name| cart.manifest(name)["model"].clone());
    assert_eq!(small["tensors"], back["tensors"]);
    // What has the type already is taken as it is.
    let same = cart.json(["quantize", "small", "--type", "q8_0", "-t", "same"]);
    assert_eq!((&same["written"], &same["before"]), (&json!(0), &same["after"]));
}

#[test]
fn tensors_by_name_have_a_type_of_their_own() {
    let cart = tiny();
    let made = cart.json([
        "quantize",
        "tiny",
        "--type",
        "q4_1",
        "--except",
        "embed_tokens=q8_0",
        "--except",
        "*.0.*=bf16",
        "--except",
        "layers.0.mlp.down=keep",
        "-t",
        "mixed",
    ]);
    let types: Vec<&String> = made["after"].as_object().unwrap().keys().collect();
    assert_eq!(types, ["bf16", "f16", "q4_1", "q8_0"]);
    let manifest = cart.manifest("mixed");
    assert_eq!(dtype(&manifest, "model.embed_tokens.weight"), "q8_0");
    assert_eq!(dtype(&manifest, "model.layers.0.self_attn.k_proj.weight"), "bf16");
    assert_eq!(dtype(&manifest, "model.layers.0.mlp.down_proj.weight"), "f16");
    assert_eq!(dtype(&manifest, "model.layers.1.mlp.down_proj.weight"), "q4_1");
    assert!(!cart.ok(["run", "mixed", "-p", "One day", "-n", "4"]).is_empty());
}

#[test]
fn what_cannot_be_written_so_is_refused_before_anything_is() {
    let cart = tiny();
    let before = cart.content();
    let refused = |words: &[&str], said: &str| {
        let asked = ["quantize", "tiny", "-t", "other"].iter().chain(words);
        let found = cart.refused(asked);
        assert!(found.contains(said), "{found}");
    };
    refused(&["--type", "q4_k"], "cart does not write q4_k; allowed: f32, f16, bf16, q4_0");
    refused(&["--type", "q8_0", "--except", "nobody=keep"], "no tensor's name fits `nobody`");
    let missing = cart.refused(["quantize", "none", "--type", "q8_0", "-t", "other"]);
    assert!(missing.contains("none"), "{missing}");
    for (words, said) in [
        (&["--type", "q9"][..], "q9 is no type"),
        (&["--type", "q8_0", "--except", "norm"], "FILTER=TYPE"),
        (&["--type", "q8_0", "--except", "norm=q9"], "q9 is no type"),
    ] {
        let all = ["quantize", "tiny", "-t", "other"].iter().chain(words);
        let done = cart.run(all).expect_code(2);
        assert!(done.stderr.contains(said), "{}", done.stderr);
    }
    assert!(before == cart.content());
}
