//! Deltas of low rank: PEFT adapters, extracted factors, and both in a running server.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;

use cart_tests::{
    Cart, Chance, RawTensor, Server, damage, fixture, models, read_safetensors, safetensors_bytes,
};
use serde_json::{Value, json};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn tensors(file: &Path) -> BTreeMap<String, RawTensor> {
    let (tensors, _) = read_safetensors(&std::fs::read(file).unwrap());
    tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

/// The tensors of a cartridge.
fn exported(cart: &Cart, name: &str) -> BTreeMap<String, RawTensor> {
    let file = cart.path("exported.safetensors");
    cart.ok(["export", name, "--as", "safetensors", "-o", &file, "--force"]);
    tensors(Path::new(&file))
}

/// Writes an adapter of some modules, with factors of this size.
fn adapter(folder: &Path, modules: &[(&str, [u64; 2])], size: f32) {
    let mut chance = Chance::new(5);
    let mut list = Vec::new();
    for (module, [out, input]) in modules {
        for (factor, shape) in [("lora_A", [2, *input]), ("lora_B", [*out, 2])] {
            let mut value = || (chance.below(2001) as f32 / 1000.0 - 1.0) * size;
            let bytes = (0..shape[0] * shape[1]).flat_map(|_| value().to_le_bytes()).collect();
            let name = format!("base_model.model.{module}.{factor}.weight");
            list.push(RawTensor::f32(&name, &shape, bytes));
        }
    }
    std::fs::create_dir_all(folder).unwrap();
    let config =
        json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"] });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), safetensors_bytes(&list, &[]))
        .unwrap();
}

#[test]
fn adapters_become_what_peft_merges() {
    let cart = Cart::new();
    let base = cart.json(["pack", &fixture("adapters/base"), "-t", "base"]);
    let before = exported(&cart, "base");
    for (name, added, replaced) in [("plain", 4, 0), ("patterned", 14, 0), ("whole", 3, 3)] {
        let folder = fixture(&format!("adapters/{name}"));
        let report = cart.json(["apply", "base", &folder, "-t", name]);
        assert_eq!(report["base"], base["manifest"]);
        let low_rank = &report["low_rank"];
        assert_eq!((&low_rank["added"], &low_rank["replaced"]), (&json!(added), &json!(replaced)));
        let ours = exported(&cart, name);
        let theirs = tensors(&Path::new(&folder).join("merged.safetensors"));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        let mut changed = 0;
        for (tensor, theirs) in &theirs {
            let ours = &ours[tensor];
            assert_eq!(ours.shape, theirs.shape);
            changed += u64::from(ours.bytes != before[tensor].bytes);
            let pairs = floats(&ours.bytes).into_iter().zip(floats(&theirs.bytes));
            // Sums of at most four products, each below ten: a few roundings of f32.
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-6, "{name}, {tensor}: {worst}");
        }
        assert_eq!(changed, added + replaced);
        // By way of a file it is the same.
        let file = cart.path(&format!("{name}.cart"));
        let made = cart.json(["delta", "base", "--adapter", &folder, "-o", &file]);
        assert_eq!((&made["factored"], &made["replaced"]), (&json!(added), &json!(replaced)));
        let again = cart.json(["apply", "base", &file]);
        assert_eq!(again["manifest"], report["manifest"]);
        assert_eq!(again["new_blobs"], 0);
        let said = cart.refused(["run", &file, "-p", "x"]);
        assert!(said.contains("cart apply BASE"), "{said}");
    }
    cart.ok(["verify", "plain", "patterned", "whole"]);
    assert_eq!(cart.json(["log", "plain"])["commits"].as_array().unwrap().len(), 2);
}

#[test]
fn an_adapter_of_transformers_fits_the_same_model_from_gguf() {
    let cart = Cart::new();
    let hf = fixture("logits/llama3");
    cart.ok(["pack", &hf, "-t", "hf"]);
    cart.ok(["pack", &fixture("gguf/llama3.gguf"), "-t", "gguf"]);
    let shape = |tensor: &str| {
        let shape = &exported(&cart, "hf")[tensor].shape;
        [shape[0], shape[1]]
    };
    let modules = ["q_proj", "k_proj", "v_proj"].map(|part| {
        let module = format!("model.layers.1.self_attn.{part}");
        let shape = shape(&format!("{module}.weight"));
        (module, shape)
    });
    let modules: Vec<(&str, [u64; 2])> =
        modules.iter().map(|(module, shape)| (module.as_str(), *shape)).collect();
    let folder = cart.scratch().join("adapter");
    adapter(&folder, &modules, 0.5);
    let mut texts = Vec::new();
    for name in ["hf", "gguf"] {
        let tuned = format!("{name}:tuned");
        cart.ok(["apply", name, folder.to_str().unwrap(), "-t", &tuned, "--keep-float"]);
        texts.push((exported(&cart, name), exported(&cart, &tuned)));
    }
    let [(hf, hf_tuned), (gguf, gguf_tuned)] = texts.try_into().unwrap();
    for (theirs, ours) in [("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v")] {
        let (theirs, ours) =
            (format!("model.layers.1.self_attn.{theirs}.weight"), format!("blk.1.{ours}.weight"));
        let rows = |of: &BTreeMap<String, RawTensor>, name: &str| -> Vec<Vec<f32>> {
            let tensor = &of[name];
            let values = floats(&widened(tensor));
            values.chunks(tensor.shape[1] as usize).map(<[f32]>::to_vec).collect()
        };
        // Where the converter put each row; the tuned ones must be in the same places.
        let (from, to) = (rows(&hf, &theirs), rows(&gguf, &ours));
        let (tuned, found) = (rows(&hf_tuned, &theirs), rows(&gguf_tuned, &ours));
        let apart = |a: &[f32], b: &[f32]| -> f32 {
            a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        for (at, row) in to.iter().enumerate() {
            let nearest =
                |a: &usize, b: &usize| apart(&from[*a], row).total_cmp(&apart(&from[*b], row));
            let place = (0..from.len()).min_by(nearest).unwrap();
            assert!(apart(&from[place], row) < 1e-3, "{ours} row {at}");
            assert!(apart(&tuned[place], &found[at]) < 4e-3, "{ours} row {at}");
            assert!(apart(&tuned[place], &from[place]) > 1e-2, "{ours} row {at} did not change");
        }
    }
}

/// The values of a float tensor as f32.
fn widened(tensor: &RawTensor) -> Vec<u8> {
    let word = |pair: &[u8; 2]| u32::from(u16::from_le_bytes(*pair));
    let half = |bits: u32| {
        let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, bits & 1023);
        let size = match exponent {
            0 => fraction as f32 * 2_f32.powi(-24),
            _ => (1024 + fraction) as f32 * 2_f32.powi(exponent as i32 - 25),
        };
        if sign == 1 { -size } else { size }
    };
    let pairs = tensor.bytes.as_chunks::<2>().0.iter();
    match tensor.dtype.as_str() {
        "F32" => tensor.bytes.clone(),
        "BF16" => pairs.flat_map(|pair| (word(pair) << 16).to_le_bytes()).collect(),
        "F16" => pairs.flat_map(|pair| half(word(pair)).to_le_bytes()).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn factors_of_a_difference_say_what_they_leave_out() {
    let cart = Cart::new();
    let folder = cart.scratch().join("model");
    models::drawn_llama(&folder, 64, 1);
    cart.ok(["pack", folder.to_str().unwrap(), "-t", "base"]);
    let lora = cart.scratch().join("lora");
    let module = "model.layers.0.self_attn.q_proj";
    adapter(&lora, &[(module, [64, 64])], 0.3);
    let tuned = cart.json(["apply", "base", lora.to_str().unwrap(), "-t", "tuned"]);
    // What two factors made, two factors give back, up to rounding.
    let file = cart.path("two.cart");
    let report = cart.json(["delta", "base", "tuned", "--rank", "2", "-o", &file]);
    assert_eq!(report["target"], tuned["manifest"]);
    assert_eq!((&report["rank"], &report["factored"]), (&json!(2), &json!(1)));
    assert!(report["relative_error"].as_f64().unwrap() < 1e-5, "{report}");
    let applied = cart.json(["apply", "base", &file, "-t", "near"]);
    assert_eq!(applied["low_rank"]["target"], tuned["manifest"]);
    let (near, exact) = (exported(&cart, "near"), exported(&cart, "tuned"));
    let name = format!("{module}.weight");
    for (a, b) in floats(&near[&name].bytes).iter().zip(floats(&exact[&name].bytes)) {
        assert!((a - b).abs() < 1e-5);
    }
    // One factor leaves something out, and both commands say how much.
    let files: Vec<Vec<u8>> = ["1", "2", "3"]
        .iter()
        .map(|threads| {
            let file = cart.path(&format!("{threads}.cart"));
            cart.ok(["delta", "base", "tuned", "--rank", "1", "-o", &file, "--threads", threads]);
            std::fs::read(file).unwrap()
        })
        .collect();
    assert!(files[0] == files[1] && files[0] == files[2], "threads show in the file");
    let file = cart.path("1.cart");
    let said = cart.json(["apply", "base", &file, "-t", "one"]);
    let error = said["low_rank"]["relative_error"].as_f64().unwrap();
    assert!((0.01..0.99).contains(&error), "{said}");
    assert_eq!(said["low_rank"]["exact"], false);
    let (one, base) = (exported(&cart, "one"), exported(&cart, "base"));
    let norm = |a: &BTreeMap<String, RawTensor>, b: &BTreeMap<String, RawTensor>| -> f64 {
        let pairs = floats(&a[&name].bytes).into_iter().zip(floats(&b[&name].bytes));
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let found = norm(&exact, &one) / norm(&exact, &base);
    assert!((found - error).abs() < 1e-4, "{found} {error}");
    let said = cart.ok(["apply", "base", &file]);
    assert!(said.contains("% of the change is left out"), "{said}");
    let all = cart.json(["apply", "base", &file, "--threads", "1"]);
    assert_eq!(all["manifest"], cart.json(["inspect", "one"])["manifest"]);
}

#[test]
fn quantized_tensors_are_quantized_again_or_left_float() {
    let cart = Cart::new();
    let mut bytes = models::small_gguf();
    let first = cart.file("m.gguf", &bytes);
    let end = bytes.len();
    (0..30).for_each(|at| bytes[end - 33 + at] ^= 0x12);
    let second = cart.file("n.gguf", &bytes);
    cart.ok(["pack", &first, "-t", "first"]);
    cart.ok(["pack", &second, "-t", "second"]);
    let file = cart.path("d.cart");
    let report = cart.json(["delta", "first", "second", "--rank", "1", "-o", &file]);
    assert_eq!(report["tensors"][0]["name"], "quantized.weight");
    let again = cart.json(["apply", "first", &file, "-t", "again"]);
    assert_eq!(again["low_rank"]["quantized_again"], 1);
    assert!(again["low_rank"]["quantization_error"].as_f64().unwrap() < 0.02, "{again}");
    let float = cart.json(["apply", "first", &file, "-t", "float", "--keep-float"]);
    assert_eq!(float["low_rank"]["quantized_again"], 0);
    let dtype =
        |name: &str| cart.manifest(name)["model"]["tensors"]["quantized.weight"]["dtype"].clone();
    assert_eq!((dtype("again"), dtype("float")), (json!("q8_0"), json!("f32")));
}

#[test]
fn adapters_and_factors_that_do_not_fit_are_refused_and_change_nothing() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("adapters/base"), "-t", "base"]);
    let drawn = cart.scratch().join("drawn");
    models::drawn_llama(&drawn, 32, 1);
    cart.ok(["pack", drawn.to_str().unwrap(), "-t", "other"]);
    let file = cart.path("plain.cart");
    cart.ok(["delta", "base", "--adapter", &fixture("adapters/plain"), "-o", &file]);
    let before = cart.content();
    let refused = |base: &str, delta: &str, expected: &str| {
        let said = cart.refused(["apply", base, delta, "-t", "x"]);
        assert!(said.contains(expected), "{expected}: {said}");
    };
    refused("base", &fixture("adapters/dora"), "use_dora");
    refused("other", &fixture("adapters/plain"), "made for another model");
    refused("other", &file, "goes with base");
    refused("base", &fixture("adapters/base"), "no adapter_config.json");
    let folder = cart.scratch().join("a");
    let path = folder.to_str().unwrap();
    adapter(&folder, &[("model.layers.9.self_attn.q_proj", [16, 16])], 0.1);
    refused("base", path, "`model.layers.9.self_attn.q_proj.weight`, which the base lacks");
    adapter(&folder, &[("model.layers.0.self_attn.q_proj", [16, 8])], 0.1);
    refused("base", path, "makes [16, 8]");
    adapter(&folder, &[("model.layers.0.self_attn.q_proj", [16, 16])], f32::NAN);
    refused("base", path, "not finite");
    adapter(&folder, &[("model.layers.0.self_attn.q_proj", [16, 16])], 1e30);
    refused("base", path, "not finite");
    adapter(&folder, &[("model.layers.0.self_attn.q_proj", [16, 16])], 0.1);
    let config = folder.join("adapter_config.json");
    for (from, to, expected) in [
        ("\"r\":2", "\"r\":3", "the rank that its factors have"),
        ("LORA", "LOHA", "peft_type"),
        ("{", "[", "JSON"),
    ] {
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replacen(from, to, 1)).unwrap();
        refused("base", path, expected);
        std::fs::write(&config, text).unwrap();
    }
    std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    refused("base", path, "adapter_model.safetensors");
    let len = std::fs::metadata(&file).unwrap().len();
    for place in [9, 300, len / 2, len - 1] {
        damage::flip_bit(&file, place, 3);
        assert!(!cart.refused(["apply", "base", &file, "-t", "x"]).is_empty());
        damage::flip_bit(&file, place, 3);
    }
    for (arguments, code) in [
        (&["base", "other", "--rank", "2"][..], 1),
        (&["base", "base", "--rank", "2"], 1),
        (&["base", "other", "--rank", "0"], 2),
        (&["base"], 2),
        (&["base", "other", "--adapter", path], 2),
    ] {
        let all = [&["delta"], arguments, &["-o", "x.cart"]].concat();
        cart.run(&all).expect_code(code);
    }
    assert_eq!(cart.content(), before);
    cart.ok(["apply", "base", &file, "-t", "x"]);
}

#[test]
fn a_delta_goes_into_a_running_server_and_what_it_remembers_stays() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let fact = "The code of the red boat is 4821.";
    cart.ok(["run", "tiny", "-p", fact, "-n", "0", "--memory", "--save", "told"]);
    let shapes = cart.manifest("tiny");
    let tensor = "model.layers.0.self_attn.q_proj.weight";
    let shape = &shapes["model"]["tensors"][tensor]["shape"];
    let shape = [shape[0].as_u64().unwrap(), shape[1].as_u64().unwrap()];
    let folder = cart.scratch().join("lora");
    adapter(&folder, &[("model.layers.0.self_attn.q_proj", shape)], 0.05);
    let folder = folder.to_str().unwrap();
    let server = Server::start(&cart, "told");
    let before = server.get_json("/cart/state")["active"].clone();
    let report = cart.json(["swap", "--delta", folder, "-t", "tuned", "--server", server.url()]);
    assert_eq!(report["from"]["manifest"], before["manifest"]);
    assert_eq!(report["memory"], "migrate");
    assert!(report["memory_slots"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["to"]["manifest"], cart.json(["inspect", "tuned"])["manifest"]);
    let tuned = cart.manifest("tuned");
    let blob = |of: &Value| of["model"]["tensors"][tensor]["blob"].clone();
    assert_ne!(blob(&tuned), blob(&shapes));
    server.post_json("/v1/completions", &json!({ "prompt": "One day,", "max_tokens": 3 }));
    // An exact delta does too, of what runs then, and one of another base is refused.
    let file = cart.path("back.cart");
    cart.ok(["delta", "tuned", "tiny", "-o", &file]);
    let said = cart.ok(["swap", "--delta", &file, "--server", server.url(), "--memory", "migrate"]);
    assert!(said.contains("swapped to"), "{said}");
    let active = server.get_json("/cart/state")["active"]["manifest"].clone();
    assert_eq!(active, cart.json(["inspect", "tiny"])["manifest"]);
    let said = cart.refused(["swap", "--delta", &file, "--server", server.url()]);
    assert!(said.contains("goes with base"), "{said}");
    assert_eq!(server.get_json("/cart/state")["active"]["manifest"], active);
    let both = ["swap", "tiny", "--delta", &file, "--server", server.url()];
    cart.run(both).expect_code(2);
}
