//! Bad input: a clear error, exit code 1 (2 for arguments), and the store as it was.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};

use cart_tests::{Cart, Chance, RawTensor, fixture, models, safetensors_bytes};
use serde_json::{Value, json};

/// A store with something in it, so that "as it was" says something.
fn cart_with_content() -> Cart {
    let cart = Cart::new();
    let model = cart.file("content.safetensors", &models::small_safetensors(3, 77));
    cart.ok(["pack", &model, "-t", "content"]);
    cart
}

/// Packs what must be refused; returns the message.
fn refused(cart: &Cart, path: &str) -> String {
    let before = cart.content();
    let said = cart.refused(["pack", path, "-t", "bad"]);
    assert_eq!(cart.content(), before, "{path} left something");
    assert!(cart.json(["ls", "bad"])["cartridges"].as_array().unwrap().is_empty());
    said
}

/// A copy of a folder of `fixtures/`.
fn folder(cart: &Cart, fixture_name: &str) -> PathBuf {
    let to = cart.scratch().join("folder");
    let _ = std::fs::remove_dir_all(&to);
    models::copy_folder(Path::new(&fixture(fixture_name)), &to);
    to
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn folders_with_something_missing() {
    let cart = cart_with_content();
    let name = "logits/llama-f32-sharded";
    let at = |file: &str| folder(&cart, name).join(file);
    let shard = "model-00002-of-00002.safetensors";
    let path = folder(&cart, name).to_str().unwrap().to_owned();

    std::fs::remove_file(at(shard)).unwrap();
    let said = refused(&cart, &path);
    assert!(said.contains(shard), "{said}");

    edit(&at("model.safetensors.index.json"), |index| {
        index["weight_map"]["model.norm.weight"] = json!("model-00001-of-00002.safetensors");
    });
    let said = refused(&cart, &path);
    assert!(said.contains("model.norm.weight"), "{said}");

    edit(&at("model.safetensors.index.json"), |index| {
        index["weight_map"]["one.too.many"] = json!(shard);
    });
    let said = refused(&cart, &path);
    assert!(said.contains("one.too.many"), "{said}");

    edit(&at("model.safetensors.index.json"), |index| {
        index["weight_map"]["model.norm.weight"] = json!("../model-00002-of-00002.safetensors");
    });
    let said = refused(&cart, &path);
    assert!(said.contains(".."), "{said}");

    let empty = cart.scratch().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&cart, empty.to_str().unwrap());
    let said = refused(&cart, &cart.path("nowhere"));
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn a_folder_with_a_name_in_two_shards() {
    let cart = cart_with_content();
    let path = folder(&cart, "logits/llama-f32-sharded");
    let tensors = models::small_tensors(2, 5);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for shard in shards {
        std::fs::write(path.join(shard), safetensors_bytes(&tensors, &[])).unwrap();
    }
    edit(&path.join("model.safetensors.index.json"), |index| {
        index["weight_map"] = json!({ "layer.0": shards[0], "layer.1": shards[1] });
    });
    let said = refused(&cart, path.to_str().unwrap());
    assert!(said.contains("layer."), "{said}");
}

#[test]
fn a_tokenizer_of_another_size() {
    let cart = cart_with_content();
    let path = folder(&cart, "tiny");
    let tokenizer = path.join("tokenizer.json");
    let original = std::fs::read(&tokenizer).unwrap();
    edit(&tokenizer, |document| {
        document["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 1_000_000, "content": "<|far|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        }));
    });
    let said = refused(&cart, path.to_str().unwrap());
    assert!(said.contains("tokenizer"), "{said}");
    std::fs::write(&tokenizer, b"{}").unwrap();
    refused(&cart, path.to_str().unwrap());
    std::fs::write(&tokenizer, &original[..original.len() / 2]).unwrap();
    refused(&cart, path.to_str().unwrap());
    std::fs::write(&tokenizer, original).unwrap();
    cart.ok(["pack", path.to_str().unwrap(), "-t", "good"]);
    // The same, with the tokenizer given beside a model that has none.
    let other = fixture("logits/llama-f32-tied");
    let said = cart.refused(["pack", &other, "--tokenizer", tokenizer.to_str().unwrap()]);
    assert!(said.contains("tokenizer"), "{said}");
}

#[test]
fn safetensors_files_that_lie() {
    let cart = cart_with_content();
    let whole = models::small_safetensors(3, 1);
    let header_len = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(whole[8..8 + header_len].to_vec()).unwrap();
    let with_header = |text: &str| {
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.as_bytes());
        file.extend(&whole[8 + header_len..]);
        file
    };
    let twice = header.replacen("\"layer.1\"", "\"layer.0\"", 1);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("seven bytes", whole[..7].to_vec()),
        ("only the header", whole[..8 + header_len].to_vec()),
        ("cut in the header", whole[..60].to_vec()),
        ("cut by a byte", whole[..whole.len() - 1].to_vec()),
        ("a byte too long", [&whole[..], b"x"].concat()),
        ("a huge header", [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()),
        (
            "a header of 64 MiB and 1",
            [&((64_u64 << 20) + 1).to_le_bytes()[..], &whole[8..]].concat(),
        ),
        ("a name twice", with_header(&twice)),
        (
            "overlap",
            with_header(&header.replacen("\"data_offsets\":[256,", "\"data_offsets\":[252,", 1)),
        ),
        ("no such type", with_header(&header.replacen("F32", "F31", 1))),
        ("not json", with_header(&header.replacen('{', "[", 1))),
        ("a control character", with_header(&header.replacen("layer.1", "layer\\n1", 1))),
        ("a name that climbs", with_header(&header.replacen("layer.1", "../layer", 1))),
        (
            "a negative shape",
            with_header(&header.replacen("\"shape\":[4,16]", "\"shape\":[-4,16]", 1)),
        ),
        (
            "a shape that overflows",
            with_header(&header.replacen("[4,16]", "[4294967296,4294967296]", 1)),
        ),
        ("nine axes", with_header(&header.replacen("[4,16]", "[4,16,1,1,1,1,1,1,1]", 1))),
    ];
    for (how, bytes) in cases {
        assert!(bytes != whole, "{how} changes nothing");
        let path = cart.file("bad.safetensors", &bytes);
        let said = refused(&cart, &path);
        assert!(said.contains("bad.safetensors"), "{how}: {said}");
    }
}

#[test]
fn gguf_files_that_lie() {
    let cart = cart_with_content();
    let whole = models::small_gguf();
    let place = |bytes: &[u8], text: &str| {
        bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let key = place(&whole, "general.architecture");
    let name = place(&whole, "half.weight");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no magic", with(0, b"GGUX")),
        ("version 9", with(4, &9_u32.to_le_bytes())),
        ("big-endian", with(4, &3_u32.to_be_bytes())),
        ("a tensor too many", with(8, &4_u64.to_le_bytes())),
        ("2⁶³ tensors", with(8, &(1_u64 << 63).to_le_bytes())),
        ("2⁶³ keys", with(16, &(1_u64 << 63).to_le_bytes())),
        ("a key without end", with(key - 8, &u64::MAX.to_le_bytes())),
        ("no such value type", with(key + "general.architecture".len(), &99_u32.to_le_bytes())),
        ("a name twice", with(name, b"norm.weight")),
        ("no such tensor type", with(name + 11 + 4 + 16, &999_u32.to_le_bytes())),
        ("nine axes", with(name + 11, &9_u32.to_le_bytes())),
        ("an axis that overflows", with(name + 11 + 4, &u64::MAX.to_le_bytes())),
        ("an offset beyond the end", with(name + 11 + 4 + 16 + 4, &(1_u64 << 40).to_le_bytes())),
        ("an offset between", with(name + 11 + 4 + 16 + 4, &33_u64.to_le_bytes())),
        ("cut in the head", whole[..100].to_vec()),
        ("cut in the data", whole[..whole.len() - 64].to_vec()),
        ("only the magic", whole[..4].to_vec()),
    ];
    for (how, bytes) in cases {
        let path = cart.file("bad.gguf", &bytes);
        let said = refused(&cart, &path);
        assert!(said.contains("bad.gguf"), "{how}: {said}");
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let cart = cart_with_content();
    let mut chance = Chance::new(9);
    for (name, whole) in
        [("m.safetensors", models::small_safetensors(3, 1)), ("m.gguf", models::small_gguf())]
    {
        let head = whole.len().min(400) as u64;
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=chance.below(3) {
                let at = chance.below(head) as usize;
                bytes[at] = chance.next_u64() as u8;
            }
            let path = cart.file(name, &bytes);
            // A changed letter of a name may still be a good file.
            let done = cart.run(["--json", "pack", &path]);
            assert!(matches!(done.code, Some(0 | 1)), "{done:?}");
            done.report();
        }
    }
}

#[test]
fn files_that_are_something_else() {
    let cart = cart_with_content();
    for (name, bytes) in
        [("m.cart", &b"PK\x03\x04"[..]), ("m.bin", b"hello"), ("m.pt", b"\x80\x02")]
    {
        let path = cart.file(name, bytes);
        let said = refused(&cart, &path);
        assert!(said.contains(name), "{said}");
    }
    refused(&cart, "/dev/null");
}

#[test]
fn a_model_without_a_tokenizer_is_stored_and_not_run() {
    let cart = Cart::new();
    let packed = cart.json(["pack", &fixture("logits/llama-f32-tied"), "-t", "bare"]);
    assert_eq!(packed["runnable"], false);
    assert!(packed["warnings"].to_string().contains("tokenizer"), "{packed}");
    for command in
        [vec!["run", "bare", "-p", "x"], vec!["serve", "bare", "--listen", "127.0.0.1:0"]]
    {
        let said = cart.refused(&command);
        assert!(said.contains("tokenizer"), "{said}");
    }
    let file = cart.file(
        "lone.safetensors",
        &safetensors_bytes(&[RawTensor::f32("a", &[2], vec![0; 8])], &[]),
    );
    cart.ok(["pack", &file, "-t", "lone"]);
    let said = cart.refused(["run", "lone", "-p", "x"]);
    assert!(said.contains("architecture"), "{said}");
}

#[test]
fn a_folder_without_a_config_is_stored_and_not_run() {
    let cart = Cart::new();
    let path = folder(&cart, "tiny");
    std::fs::remove_file(path.join("config.json")).unwrap();
    let packed = cart.json(["pack", path.to_str().unwrap(), "-t", "tiny"]);
    assert_eq!(packed["runnable"], false);
    assert!(packed["warnings"].to_string().contains("config.json"), "{packed}");
    let said = cart.refused(["run", "tiny", "-p", "x"]);
    assert!(said.contains("architecture"), "{said}");
}

#[test]
fn wrong_arguments_are_2() {
    let cart = Cart::new();
    let wrong: [&[&str]; 14] = [
        &[],
        &["no-such-command"],
        &["pack"],
        &["pack", "x", "--no-such-option"],
        &["verify"],
        &["export", "m"],
        &["export", "m", "-o", "x", "--as", "zip"],
        &["run", "m"],
        &["run", "m", "-p", "x", "-n", "many"],
        &["run", "m", "-p", "x", "--save", "s"],
        &["serve", "m", "--listen", "everywhere"],
        &["demo"],
        &["ls", "--threads", "0"],
        &["inspect", "m", "--manifest", "--tensors"],
    ];
    for arguments in wrong {
        let done = cart.run(arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        assert!(!done.stderr.is_empty() && done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    assert!(!cart.store().exists());
}

#[test]
fn options_out_of_range_are_2_and_say_the_range() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    for (option, value) in [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "2"),
        ("--repetition-penalty", "0"),
        ("--top-logprobs", "1000"),
        ("--stop", ""),
    ] {
        let done = cart.run(["run", "tiny", "-p", "x", "-n", "1", &format!("{option}={value}")]);
        assert_eq!(done.code, Some(2), "{option} {value}: {done:?}");
        assert!(done.stderr.contains(&option[2..5]), "{option} {value}: {}", done.stderr);
    }
}

#[test]
fn a_missing_folder_is_named_and_the_reason_given_once() {
    let cart = cart_with_content();
    let model = fixture("tiny");
    cart.ok(["pack", &model, "-t", "tiny"]);
    for (form, end) in [("hf", ""), ("safetensors", ".safetensors"), ("cart", ".cart")] {
        let to = cart.path(&format!("missing/out{end}"));
        let reference = if form == "hf" { "tiny" } else { "content" };
        let said = cart.refused(["export", reference, "--as", form, "-o", &to]);
        let folder = cart.path("missing");
        assert!(said.contains(&to) && said.contains(&format!("no folder {folder};")), "{said}");
        assert!(!said.contains("os error") && !said.contains(".tmp"), "{said}");
        assert!(!Path::new(&folder).exists());
    }
    let said = cart.refused(["pack", &model, "-o", &cart.path("missing/out.cart")]);
    assert!(said.contains("no folder"), "{said}");
    for command in [vec!["pack", "none", "-t", "x"], vec!["verify", "none.cart"]] {
        let done = cart.run(command).expect_code(1);
        assert!(done.stderr.contains("there is no such file"), "{done:?}");
        assert!(!done.stderr.contains("os error"), "{done:?}");
    }
}
