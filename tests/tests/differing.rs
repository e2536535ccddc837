//! `cart diff`: what differs in weights, memory, tokenizer and answers, as report, as text and as a page.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use cart_tests::{Cart, RawTensor, fixture, safetensors_bytes};
use serde_json::{Value, json};

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn values(seed: u32, len: u32) -> Vec<f32> {
    (0..len).map(|index| ((index * 7919 + seed * 104_729) % 1009) as f32 / 500.0 - 1.0).collect()
}

const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";
const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

/// Two files: one tensor the same, two changed in known ways, one of another shape, one moved, one on each side.
fn two_files(cart: &Cart) {
    let [query, down] = [values(1, 64), values(2, 96)];
    let mut moved = query.clone();
    moved[5] += 0.5;
    moved[9] -= 0.25;
    let halves: Vec<u8> = down
        .iter()
        .flat_map(|value| (((value.to_bits() + 0x8000) >> 16) as u16).to_le_bytes())
        .collect();
    let bf16 =
        RawTensor { name: DOWN.into(), dtype: "BF16".into(), shape: vec![8, 12], bytes: halves };
    let shared = |name: &str| RawTensor::f32(name, &[4, 16], floats(values(3, 64)));
    let a = [
        RawTensor::f32(QUERY, &[4, 16], floats(query)),
        RawTensor::f32(DOWN, &[8, 12], floats(down)),
        shared("model.layers.0.mlp.up_proj.weight"),
        RawTensor::f32("model.norm.weight", &[16], floats(values(4, 16))),
        RawTensor::f32("odd<b>name", &[2], floats([1.0, 2.0])),
        RawTensor::f32("same", &[3], floats([1.0, 2.0, 3.0])),
    ];
    let b = [
        RawTensor::f32(QUERY, &[4, 16], floats(moved)),
        bf16,
        shared("model.layers.1.mlp.up_proj.weight"),
        RawTensor::f32("model.norm.weight", &[4, 4], floats(values(4, 16))),
        RawTensor::f32("lm_head.weight", &[2], floats([f32::NAN, 2.0])),
        RawTensor::f32("same", &[3], floats([1.0, 2.0, 3.0])),
    ];
    for (name, tensors) in [("a", a.as_slice()), ("b", b.as_slice())] {
        let file = cart.file(&format!("{name}.safetensors"), &safetensors_bytes(tensors, &[]));
        cart.ok(["pack", &file, "-t", name]);
    }
}

fn entry<'r>(report: &'r Value, name: &str) -> &'r Value {
    let changed = report["tensors"]["changed"].as_array().unwrap();
    changed.iter().find(|one| one["name"] == name).unwrap()
}

#[test]
fn numbers_say_what_changed_and_where() {
    let cart = Cart::new();
    two_files(&cart);
    let report = cart.json(["diff", "a", "b", "--rank"]);
    assert_eq!(report["tensors"]["same"], 1);
    assert_eq!(report["tensors"]["added"], json!(["lm_head.weight"]));
    assert_eq!(report["tensors"]["removed"], json!(["odd<b>name"]));
    let moved = &report["tensors"]["renamed"][0];
    assert_eq!(
        (&moved["b"], &moved["moved"]),
        (&json!("model.layers.1.mlp.up_proj.weight"), &json!(true))
    );

    let query = entry(&report, QUERY);
    assert_eq!((&query["layer"], &query["module"]), (&json!(0), &json!("query")));
    assert_eq!((&query["changed"], &query["elements"]), (&json!(2), &json!(64)));
    assert_eq!(query["max_abs"], 0.5);
    let norm = (0.25_f64 + 0.0625).sqrt();
    assert!((query["norm"].as_f64().unwrap() - norm).abs() < 1e-9);
    assert!((query["mean_abs"].as_f64().unwrap() - 0.75 / 64.0).abs() < 1e-9);
    assert_eq!(query["histogram"], json!({"lowest": -2, "negative": [1, 0], "positive": [0, 1]}));
    // Both changes are in the first row: one direction.
    assert!((query["rank"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{query}");

    let down = entry(&report, DOWN);
    assert_eq!((&down["a"], &down["b"]), (&json!("f32 [8, 12]"), &json!("bf16 [8, 12]")));
    let relative = down["relative"].as_f64().unwrap();
    assert!(relative > 1e-4 && relative < 4e-3, "{down}");
    assert_eq!(entry(&report, "model.norm.weight")["max_abs"], Value::Null);

    let weights = &report["weights"];
    assert_eq!(weights["all"]["differing"], 2);
    assert_eq!(weights["layers"][0]["layer"], 0);
    let modules: Vec<&Value> =
        weights["modules"].as_array().unwrap().iter().map(|one| &one["module"]).collect();
    assert_eq!(modules, [&json!("query"), &json!("up"), &json!("down"), &json!("other")]);

    let again = cart.json(["diff", "a", "b", "--rank", "--threads", "1"]);
    assert_eq!(report, again);
    let quick = cart.json(["diff", "a", "b", "--digests"]);
    assert_eq!((&quick["weights"], &entry(&quick, QUERY)["changed"]), (&Value::Null, &Value::Null));
    assert_eq!(cart.json(["diff", "a", "a"])["identical"], true);

    let said = cart.ok(["diff", "a", "b", "--rank"]);
    for words in [
        "in short   weights moved",
        "most in layer 0",
        "attention q",
        "‖Δ‖/‖W‖",
        "rank 1.00",
        "+ lm_head.weight",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains('\u{1b}'), "colours where there is no terminal");
    assert!(cart.ok(["--color", "always", "diff", "a", "b"]).contains('\u{1b}'));
}

#[test]
fn values_that_are_no_numbers_are_counted_and_told() {
    let cart = Cart::new();
    for (name, last) in [("a", 1.0), ("b", f32::NAN)] {
        let tensor = RawTensor::f32("x", &[4], floats([1.0, 2.0, 3.0, last]));
        let file = cart.file(&format!("{name}.safetensors"), &safetensors_bytes(&[tensor], &[]));
        cart.ok(["pack", &file, "-t", name]);
    }
    let report = cart.json(["diff", "a", "b"]);
    let one = entry(&report, "x");
    assert_eq!(
        (&one["not_finite_a"], &one["not_finite_b"], &one["changed"]),
        (&json!(0), &json!(1), &json!(1))
    );
    assert_eq!(one["norm"], 0);
    assert!(cart.ok(["diff", "a", "b"]).contains("infinite or no number: 0 in A, 1 in B"));
    cart.ok(["diff", "a", "b", "--html", &cart.path("page.html")]);
}

/// `tiny:one` and `tiny:two`, of which the second knows more.
fn memories(cart: &Cart) {
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let first = cart
        .file("first.txt", b"The mill stands at the river.\n\nThe <b>lamp</b> is in box 999.\n");
    let second = cart.file("second.txt", b"The ferry leaves at nine.\n");
    cart.json(["memory", "import", "tiny", &first, "--save", "tiny:one"]);
    cart.json(["memory", "import", "tiny:one", &second, "--save", "tiny:two"]);
}

#[test]
fn memories_are_compared_slot_by_slot() {
    let cart = Cart::new();
    memories(&cart);
    let report = cart.json(["diff", "tiny:one", "tiny:two"]);
    let memory = &report["memory"];
    assert_eq!(memory["memory_changed"], true);
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["text"].as_str().unwrap().trim().to_owned()).collect()
    };
    assert!(
        texts(&memory["added"]).iter().all(|text| text == "The ferry leaves at nine."),
        "{memory}"
    );
    assert_eq!(texts(&memory["removed"]), Vec::<String>::new());
    let numbers = |side: &str| memory[side].clone();
    assert!(numbers("b")["stm"].as_u64() > numbers("a")["stm"].as_u64(), "{memory}");
    assert_eq!(texts(&memory["moved"]), Vec::<String>::new());
    assert!(memory["counters"].as_array().unwrap().iter().any(|one| one["name"] == "observations"));
    let back = cart.json(["diff", "tiny:two", "tiny:one"]);
    assert_eq!(texts(&back["memory"]["removed"]), texts(&memory["added"]));
    assert_eq!(back["memory"]["goal_cosine"], memory["goal_cosine"]);
    let none = cart.json(["diff", "tiny", "tiny:one"]);
    assert_eq!((&none["memory"]["a"], &none["memory"]["goal"]), (&Value::Null, &Value::Null));
    assert_eq!(texts(&none["memory"]["added"]).len(), 2);
    assert!(cart.ok(["diff", "tiny:one", "tiny:two"]).contains(" learned, "));
}

/// The tiny model with something changed in a file of it.
fn variant(cart: &Cart, name: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let folder = cart.path(name);
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(fixture("tiny")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, Path::new(&folder).join(path.file_name().unwrap())).unwrap();
    }
    let place = Path::new(&folder).join(file);
    let bytes = change(std::fs::read(&place).unwrap());
    std::fs::write(&place, bytes).unwrap();
    cart.json(["pack", &folder, "-t", name]);
}

#[test]
fn tokenizers_are_compared_token_by_token_and_answers_over_equal_ones_only() {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    variant(&cart, "other", "tokenizer.json", |bytes| {
        let mut document: Value = serde_json::from_slice(&bytes).unwrap();
        let vocabulary = document["model"]["vocab"].as_object_mut().unwrap();
        let (first, second) = (vocabulary["a"].clone(), vocabulary["b"].clone());
        vocabulary.insert("a".into(), second);
        vocabulary.insert("b".into(), first);
        document["model"]["merges"].as_array_mut().unwrap().swap(0, 1);
        serde_json::to_vec(&document).unwrap()
    });
    let report = cart.json(["diff", "tiny", "other"]);
    let tokenizer = &report["tokenizer"];
    assert_eq!(report["tokenizer_changed"], true);
    assert_eq!(tokenizer["renumbered"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&tokenizer["merges"]["reordered"], &tokenizer["added"]),
        (&json!(true), &json!([]))
    );
    assert!(cart.ok(["diff", "tiny", "other"]).contains("2 tokens renumbered"));
    let refused = cart.refused(["diff", "tiny", "other", "--behaviour"]);
    assert!(
        refused.contains("equal vocabularies") && refused.contains("2 have other numbers"),
        "{refused}"
    );
}

#[test]
fn answers_of_the_same_weights_are_the_same_and_of_others_are_not() {
    let cart = Cart::new();
    memories(&cart);
    let prompts = cart.file("prompts.txt", b"The code of the red boat is\n\nThe lamp of\n");
    let asked = ["--behaviour", "--prompts", prompts.as_str(), "--steps", "6"];
    let same = cart.json(["diff", "tiny:one", "tiny:two"].into_iter().chain(asked));
    let behaviour = &same["behaviour"];
    assert_eq!((&behaviour["kl"], &behaviour["top1"]), (&json!(0), &json!(1)));
    assert_eq!(
        (&behaviour["same_texts"], &behaviour["median_divergence"]),
        (&json!(2), &Value::Null)
    );
    assert_eq!(behaviour["perplexity_a"], behaviour["perplexity_b"]);

    variant(&cart, "shaken", "model.safetensors", |mut bytes| {
        let from = bytes.len() / 2;
        // Signs of every fourth half of some matrices.
        bytes[from..].chunks_exact_mut(8).take(20_000).for_each(|four| four[1] ^= 0x80);
        bytes
    });
    let other = cart.json(["diff", "tiny", "shaken"].into_iter().chain(asked));
    let behaviour = &other["behaviour"];
    assert!(behaviour["kl"].as_f64().unwrap() > 0.05, "{behaviour}");
    assert!(behaviour["kl_max"].as_f64() >= behaviour["kl"].as_f64());
    assert!(behaviour["perplexity_b"].as_f64() > behaviour["perplexity_a"].as_f64(), "{behaviour}");
    let frozen = std::fs::read_to_string(fixture("diff/behaviour.json")).unwrap();
    let frozen: Vec<Value> = serde_json::from_str(&frozen).unwrap();
    for (found, expected) in behaviour["prompts"].as_array().unwrap().iter().zip(&frozen) {
        for field in ["prompt", "tokens", "top1_agrees", "diverges_at", "text_a", "text_b"] {
            assert_eq!(found[field], expected[field], "{field}");
        }
        for field in ["kl", "kl_reverse", "kl_max", "nats_a", "nats_b"] {
            let [found, expected] = [found, expected].map(|one| one[field].as_f64().unwrap());
            assert!((found - expected).abs() < 0.01 * expected, "{field}: {found} {expected}");
        }
    }
    let turned = cart.json(["diff", "shaken", "tiny"].into_iter().chain(asked));
    assert_eq!(turned["behaviour"]["kl"], behaviour["kl_reverse"]);
    assert_eq!(turned["behaviour"]["kl_reverse"], behaviour["kl"]);
    let text = cart.ok(["diff", "tiny", "shaken"].into_iter().chain(asked));
    assert!(text.contains("behaviour  KL(A‖B)") && text.contains("perplexity"), "{text}");

    // Without a file, the probes of either; without those, the built-in ones.
    let probed = ["probe", "tiny", "-p", "The code of the red boat is", "--steps", "2"];
    cart.json(probed);
    let by_probes = cart.json(["diff", "tiny", "shaken", "--behaviour", "--steps", "2"]);
    assert_eq!(by_probes["behaviour"]["prompts_from"], "probes");
    assert_eq!(by_probes["behaviour"]["prompts"].as_array().unwrap().len(), 1);
    let built_in = cart.json(["diff", "tiny:one", "shaken", "--behaviour", "--steps", "2"]);
    assert_eq!(built_in["behaviour"]["prompts_from"], "built_in");
    let empty = cart.file("empty.txt", b"\n \n");
    let refused = cart.refused(["diff", "tiny", "shaken", "--behaviour", "--prompts", &empty]);
    assert!(refused.contains("has no prompts"), "{refused}");
}

/// What would let a page reach out, or let a text be markup.
fn check_page(page: &str) {
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link", "<iframe"] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    assert!(page.contains("default-src 'none'"));
    // Every element that is opened is closed, in order.
    let void = ["meta", "input", "br", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').unwrap();
        let tag = &rest[..end];
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !void.contains(&name) {
            open.push(name);
            if name == "style" || name == "script" {
                rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
                continue;
            }
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_reaches_nowhere_and_escapes_every_text() {
    let cart = Cart::new();
    two_files(&cart);
    let path = cart.path("weights.html");
    let html = ["diff", "a", "b", "--html", path.as_str()];
    cart.ok(html);
    let page = std::fs::read_to_string(&path).unwrap();
    check_page(&page);
    assert!(page.contains("odd&lt;b&gt;name") && !page.contains("odd<b>name"));
    for part in ["class=\"heatmap\"", "scope=\"row\"", "role=\"img\"", "<caption>", "lang=\"en\""] {
        assert!(page.contains(part), "{part}");
    }
    assert!(cart.refused(html).contains("exists already"));
    cart.ok(html.into_iter().chain(["--force"]));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page, "the same page every time");
    let nowhere = cart.path("no/such/folder/page.html");
    assert!(cart.refused(["diff", "a", "b", "--html", &nowhere]).contains("can't be written"));

    memories(&cart);
    let path = cart.path("memory.html");
    cart.ok(["diff", "tiny", "tiny:two", "--behaviour", "--steps", "3", "--html", &path]);
    let page = std::fs::read_to_string(&path).unwrap();
    check_page(&page);
    assert!(page.contains("The &lt;b&gt;lamp&lt;/b&gt; is in box 999."), "{page}");
    assert!(page.contains("class=\"learned\"") && page.contains("Dear Sir or Madam,"));
    let names: Vec<String> = std::fs::read_dir(cart.scratch())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with(".cart-diff-")), "{names:?}");
}
