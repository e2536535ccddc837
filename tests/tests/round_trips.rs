//! What goes in comes out again, byte for byte, whatever it was.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use cart_tests::{Cart, models, read_safetensors, test_model};

/// Fails unless every file of `back` is the file of that name in `from`; returns the names.
fn same_files(from: &Path, back: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(back).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names {
        let (original, exported) = (from.join(name), back.join(name));
        assert!(std::fs::read(&original).unwrap() == std::fs::read(exported).unwrap(), "{name}");
    }
    names
}

#[test]
fn folders_come_back_file_by_file() {
    let cart = Cart::new();
    for folder in models::logits_folders() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let packed = cart.json(["pack", folder.to_str().unwrap(), "-t", name]);
        assert_eq!(packed["name"], format!("{name}:latest"));
        assert_eq!(packed["runnable"], false, "there is no tokenizer in {name}");
        let verified = cart.json(["verify", name]);
        assert_eq!(verified["cartridges"][0]["manifest"], packed["manifest"]);
        assert_eq!(verified["cartridges"][0]["bytes"], packed["bytes"]);
        let back = cart.path(&format!("back-{name}"));
        let exported = cart.json(["export", name, "--as", "hf", "-o", &back]);
        assert_eq!(exported["exact"], true);
        let files = same_files(&folder, Path::new(&back));
        assert_eq!(exported["files"], files.len());
        let has = |end: &str| files.iter().filter(|file| file.ends_with(end)).count();
        assert!(has("config.json") == 1 && has(".safetensors") >= 1, "{files:?}");
        if name.ends_with("sharded") {
            assert_eq!((has(".safetensors"), has(".safetensors.index.json")), (2, 1), "{files:?}");
        }
    }
    cart.ok(["fsck"]);
}

#[test]
fn a_lone_safetensors_file_comes_back() {
    let cart = Cart::new();
    let bytes = models::small_safetensors(12, 1);
    let file = cart.file("some name.safetensors", &bytes);
    let packed = cart.json(["pack", &file, "-t", "lone"]);
    assert_eq!((packed["tensors"].as_u64(), packed["runnable"].as_bool()), (Some(12), Some(false)));
    let back = cart.path("back.safetensors");
    assert_eq!(cart.json(["export", "lone", "--as", "safetensors", "-o", &back])["exact"], true);
    assert!(std::fs::read(&back).unwrap() == bytes);
    let manifest = cart.manifest("lone");
    assert_eq!(manifest["origin"]["files"][0]["path"], "model.safetensors");
}

#[test]
fn a_gguf_file_comes_back() {
    let cart = Cart::new();
    let bytes = models::small_gguf();
    let file = cart.file("small.gguf", &bytes);
    let packed = cart.json(["pack", &file, "-t", "small"]);
    assert_eq!(packed["tensors"], 3);
    let back = cart.path("back.gguf");
    assert_eq!(cart.json(["export", "small", "--as", "gguf", "-o", &back])["exact"], true);
    assert!(std::fs::read(&back).unwrap() == bytes);
    let tensors = &cart.manifest("small")["model"]["tensors"];
    assert_eq!(tensors["quantized.weight"]["dtype"], "q8_0");
    assert_eq!(tensors["quantized.weight"]["shape"], serde_json::json!([3, 64]));
}

#[test]
fn smollm2_comes_back() {
    let Some(model) = test_model() else { return };
    let cart = Cart::new();
    let packed = cart.json(["pack", &model, "-t", "smol", "-o", &cart.path("smol.cart")]);
    assert_eq!((packed["tensors"].as_u64(), packed["runnable"].as_bool()), (Some(272), Some(true)));
    let back = cart.path("back.gguf");
    cart.ok(["export", "smol", "--as", "gguf", "-o", &back]);
    let compared = std::process::Command::new("cmp").args([&model, &back]).status().unwrap();
    assert!(compared.success());
    let again = cart.json(["pack", &model, "--threads", "1"]);
    assert_eq!(again["manifest"], packed["manifest"]);
    assert_eq!((again["new_blobs"].as_u64(), again["new_bytes"].as_u64()), (Some(0), Some(0)));
    cart.ok(["verify", &cart.path("smol.cart"), "smol"]);
}

#[test]
fn a_cart_file_goes_both_ways() {
    let from = Cart::new();
    let folder = &models::logits_folders()[2];
    let file = from.path("model.cart");
    let packed = from.json(["pack", folder.to_str().unwrap(), "-t", "model", "-o", &file]);
    let exported = from.path("again.cart");
    from.ok(["export", "model", "-o", &exported]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes == std::fs::read(&exported).unwrap(), "the same commit gives the same file");

    let to = Cart::new();
    let taken = to.json(["pack", &file, "-t", "copy"]);
    for field in ["manifest", "commit", "tensors", "blobs", "bytes"] {
        assert_eq!(taken[field], packed[field], "{field}");
    }
    let back = to.path("back.cart");
    to.ok(["export", "copy", "-o", &back]);
    assert!(bytes == std::fs::read(&back).unwrap());
    to.ok(["fsck"]);
    let folder_back = to.path("folder");
    to.ok(["export", "copy", "--as", "hf", "-o", &folder_back]);
    same_files(folder, Path::new(&folder_back));
}

#[test]
fn a_cart_file_needs_no_store() {
    let cart = Cart::new();
    let file = cart.path("model.cart");
    let folder = models::logits_folders()[0].to_str().unwrap().to_owned();
    let packed = cart.json(["pack", &folder, "-o", &file]);
    let elsewhere = Cart::new();
    let verified = elsewhere.json(["verify", &file]);
    assert_eq!(verified["cartridges"][0]["manifest"], packed["manifest"]);
    assert_eq!(elsewhere.json(["inspect", &file])["commit"], packed["commit"]);
    let exported = elsewhere.path("folder");
    elsewhere.ok(["export", &file, "--as", "hf", "-o", &exported]);
    same_files(Path::new(&folder), Path::new(&exported));
    assert!(!elsewhere.store().exists(), "reading a file made a store");
}

#[test]
fn a_cart_file_is_safetensors_as_the_spec_says() {
    let cart = Cart::new();
    let tensors = models::small_tensors(9, 5);
    let model = cart.file("m.safetensors", &cart_tests::safetensors_bytes(&tensors, &[]));
    let file = cart.path("m.cart");
    let packed = cart.json(["pack", &model, "-o", &file]);
    let bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + 8;
    assert_eq!(header % 4096, 0);
    let (parts, metadata) = read_safetensors(&bytes);
    assert_eq!(metadata["manifest"], packed["manifest"].as_str().unwrap());
    assert_eq!(metadata["commit"], packed["commit"].as_str().unwrap());
    assert_eq!(parts[0].name, "cart.manifest");
    let mut at = header;
    for part in &parts {
        let padding = part.name.starts_with("cart.pad.");
        assert!(padding || at % 64 == 0, "{} starts at {at}", part.name);
        assert!(!padding || part.bytes.iter().all(|&byte| byte == 0));
        at += part.bytes.len() as u64;
    }
    assert_eq!(at, bytes.len() as u64);
    for tensor in &tensors {
        assert!(parts.contains(tensor), "{} is not in the file as it was", tensor.name);
    }
}

#[test]
fn an_export_does_not_overwrite_unless_told_to() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    cart.ok(["pack", &model, "-t", "m"]);
    let there = cart.file("there.cart", b"precious");
    let said = cart.refused(["export", "m", "-o", &there]);
    assert!(said.contains("there.cart") && said.contains("--force"), "{said}");
    cart.refused(["pack", &model, "-o", &there]);
    cart.refused(["export", "m", "--as", "safetensors", "-o", &there]);
    assert_eq!(std::fs::read(&there).unwrap(), b"precious");
    cart.ok(["export", "m", "-o", &there, "--force"]);
    cart.ok(["verify", &there]);
}

#[test]
fn a_form_that_the_cartridge_did_not_have_is_refused() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    cart.ok(["pack", &model, "-t", "m"]);
    let out = cart.path("out");
    let said = cart.refused(["export", "m", "--as", "gguf", "-o", &out]);
    assert!(said.contains("safetensors"), "it says what it has: {said}");
    assert!(!Path::new(&out).exists());
}
