//! What turns one cartridge into another, and cartridges packed alone.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;

use cart_tests::{
    Cart, Chance, RawTensor, damage, models, safetensors_bytes, with_small_file_system,
};
use serde_json::{Value, json};

/// Values like those of weights, some of them changed a little by another seed.
fn weights(name: &str, shape: &[u64], seed: u64, change: Option<u64>) -> RawTensor {
    let mut chance = Chance::new(seed);
    let mut other = change.map(Chance::new);
    let even = |chance: &mut Chance| chance.below(20_001) as f32 / 1e4 - 1.0;
    let bytes = (0..shape.iter().product()).flat_map(|_| {
        let value = even(&mut chance) * even(&mut chance) * 0.1;
        let added = other.as_mut().map_or(0.0, |other| even(other) * 1e-5);
        (value + added).to_le_bytes()
    });
    RawTensor::f32(name, shape, bytes.collect())
}

/// A model, and what came of it: a tensor changed a little, one changed throughout, one gone, one new, one
/// with more rows, one of another type.
fn pair(cart: &Cart) -> [Value; 2] {
    let same = weights("same", &[40, 64], 1, None);
    let base = [
        same.clone(),
        weights("nudged", &[600, 1024], 2, None),
        weights("other", &[64, 64], 3, None),
        weights("gone", &[8, 8], 4, None),
        weights("grown", &[30, 64], 5, None),
        weights("retyped", &[4, 4], 6, None),
    ];
    let mut retyped = weights("retyped", &[4, 2], 6, None);
    retyped.bytes.resize(4 * 8, 1);
    let target = [
        same,
        weights("nudged", &[600, 1024], 2, Some(20)),
        weights("other", &[64, 64], 30, None),
        weights("new", &[8, 8], 40, None),
        weights("grown", &[33, 64], 5, None),
        retyped,
    ];
    let mut reports = Vec::new();
    for (name, tensors) in [("base", base), ("target", target)] {
        let bytes = safetensors_bytes(&tensors, &[("format", "pt")]);
        let file = cart.file(&format!("{name}.safetensors"), &bytes);
        reports.push(cart.json(["pack", &file, "-t", name, "-m", name]));
    }
    reports.try_into().unwrap()
}

/// A store that has the base alone.
fn receiver(sender: &Cart) -> Cart {
    let cart = Cart::new();
    let file = sender.path("base.cart");
    sender.ok(["export", "base", "-o", &file, "--force"]);
    cart.ok(["pack", &file, "-t", "base"]);
    cart
}

#[test]
fn a_delta_gives_the_exact_cartridge_and_its_commit() {
    let cart = Cart::new();
    let [base, target] = pair(&cart);
    let mut files = BTreeSet::new();
    for threads in ["1", "2", "3"] {
        let file = cart.path(&format!("{threads}.cart"));
        let report = cart.json(["delta", "base", "target", "-o", &file, "--threads", threads]);
        assert_eq!(report["base"], base["manifest"]);
        assert_eq!(report["manifest"], target["manifest"]);
        assert_eq!(report["commit"], target["commit"]);
        assert_eq!(report["shared_blobs"], 1);
        assert!(report["chunks"]["difference"].as_u64().unwrap() >= 3, "{report}");
        assert!(report["share"].as_f64().unwrap() < 0.5, "{report}");
        files.insert(std::fs::read(&file).unwrap());
    }
    assert_eq!(files.len(), 1, "the number of threads shows in the file");

    let delta = cart.path("1.cart");
    let inspected = cart.json(["inspect", &delta, "--tensors"]);
    assert_eq!(inspected["manifest"], target["manifest"]);
    assert_eq!(inspected["packed"]["base"], base["manifest"]);
    assert_eq!(inspected["tensor_list"].as_array().unwrap().len(), 6);
    assert!(cart.ok(["inspect", &delta]).contains("base       sha256:"));

    let other = receiver(&cart);
    let verified = other.json(["verify", &delta]);
    assert_eq!(verified["cartridges"][0]["packed"]["unpacked_blobs"], 6, "the base is there");
    let verified = Cart::new().json(["verify", &delta]);
    assert_eq!(verified["cartridges"][0]["packed"]["unpacked_blobs"], 0, "the base is not there");
    assert_eq!(verified["intact"], true);
    let out = other.path("made.cart");
    let applied = other.json(["apply", "base", &delta, "-t", "made", "-o", &out]);
    assert_eq!(applied["manifest"], target["manifest"]);
    assert_eq!(applied["commit"], target["commit"]);
    assert_eq!((&applied["unpacked_blobs"], &applied["new_blobs"]), (&json!(6), &json!(6)));
    other.ok(["verify", "made", &out, "--whole"]);
    assert_eq!(other.manifest("made"), cart.manifest("target"));
    assert_eq!(other.json(["log", "made"])["commits"][0]["message"], "target");
    assert_eq!(other.json(["apply", "base", &delta])["new_blobs"], 0);

    // Where the base is in the store it need not be named; where it is a file, it can be.
    let third = receiver(&cart);
    assert_eq!(third.json(["pack", &delta, "-t", "made"])["manifest"], target["manifest"]);
    let fourth = Cart::new();
    let applied = fourth.json(["apply", &cart.path("base.cart"), &delta, "-t", "made"]);
    assert_eq!(applied["manifest"], target["manifest"]);
    fourth.ok(["verify", "made"]);
    // A packed file is as good as a name, where its base is at hand.
    assert_eq!(third.json(["diff", "made", &delta])["identical"], true);
    // Back again, and from a cartridge to itself.
    for (from, to) in [("target", "base"), ("base", "base")] {
        let file = cart.path("other.cart");
        cart.ok(["delta", from, to, "-o", &file, "--force"]);
        assert_eq!(cart.json(["apply", from, &file])["manifest"], base["manifest"]);
    }
}

#[test]
fn quantized_tensors_tokenizers_and_memories_go_along() {
    let cart = Cart::new();
    let gguf = cart.file("m.gguf", &models::small_gguf());
    let mut bytes = models::small_gguf();
    let end = bytes.len();
    bytes[end - 40] ^= 5;
    let changed = cart.file("n.gguf", &bytes);
    let first = cart.scratch().join("first");
    models::drawn_llama(&first, 64, 1);
    let second = cart.scratch().join("second");
    models::drawn_llama(&second, 64, 2);
    let template = r#"{"chat_template": "{{ messages[0].content }}"}"#;
    std::fs::write(second.join("tokenizer_config.json"), template).unwrap();
    for (name, path) in [
        ("quantized", gguf.as_str()),
        ("requantized", changed.as_str()),
        ("first", first.to_str().unwrap()),
        ("second", second.to_str().unwrap()),
    ] {
        cart.ok(["pack", path, "-t", name]);
    }
    cart.ok(["run", "first", "-p", "a fox", "-n", "4", "--memory", "--save", "told"]);
    assert!(!cart.manifest("told")["memory"].is_null());
    for (from, to) in [
        ("quantized", "requantized"),
        ("first", "second"),
        ("first", "told"),
        ("told", "second"),
        ("quantized", "told"),
    ] {
        let file = cart.path("d.cart");
        let report = cart.json(["delta", from, to, "-o", &file, "--force"]);
        let other = Cart::new();
        let base = cart.path("base.cart");
        cart.ok(["export", from, "-o", &base, "--force"]);
        other.ok(["apply", &base, &file, "-t", "made"]);
        assert_eq!(other.manifest("made"), cart.manifest(to), "{from} to {to}: {report}");
        other.ok(["verify", "made"]);
    }
    let file = cart.path("memory.cart");
    let report = cart.json(["delta", "first", "told", "-o", &file]);
    assert!(report["file_bytes"].as_u64().unwrap() < 60_000, "{report}");
    let said = cart.ok(["run", &file, "-p", "a fox", "-n", "2"]);
    assert_eq!(said, cart.ok(["run", "told", "-p", "a fox", "-n", "2"]));
}

#[test]
fn a_cartridge_packed_alone_comes_back() {
    let cart = Cart::new();
    let [_, target] = pair(&cart);
    let file = cart.path("whole.cart");
    let report = cart.json(["export", "target", "-o", &file, "--compress"]);
    assert_eq!(report["form"], "packed");
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert_eq!(report["bytes"], bytes);
    assert!(bytes * 100 < target["bytes"].as_u64().unwrap() * 95, "{bytes} of {target}");
    let other = Cart::new();
    let verified = other.json(["verify", &file]);
    assert_eq!(verified["cartridges"][0]["packed"]["unpacked_blobs"], target["blobs"]);
    let packed = other.json(["pack", &file, "-t", "back"]);
    assert_eq!((&packed["manifest"], &packed["commit"]), (&target["manifest"], &target["commit"]));
    other.ok(["verify", "back"]);
    let said = other.refused(["apply", "back", &file]);
    assert!(said.contains("whole cartridge") && said.contains("cart pack"), "{said}");
    cart.refused_with_code(2, ["export", "target", "-o", &file, "--as", "hf", "--compress"]);
}

#[test]
fn a_wrong_base_and_what_is_no_delta_are_refused_by_what_they_are() {
    let cart = Cart::new();
    let [base, target] = pair(&cart);
    let delta = cart.path("d.cart");
    cart.ok(["delta", "base", "target", "-o", &delta]);
    let before = cart.content();
    let said = cart.refused(["apply", "target", &delta, "-t", "x"]);
    for id in [&base["manifest"], &target["manifest"]] {
        assert!(said.contains(id.as_str().unwrap()), "{said}");
    }
    let file = cart.file("m.safetensors", &models::small_safetensors(2, 3));
    let said = cart.refused(["apply", "base", &file, "-t", "x"]);
    assert!(said.contains("is no delta"), "{said}");
    let said = cart.refused(["apply", "base", "nowhere.cart", "-t", "x"]);
    assert!(said.contains("no such file"), "{said}");
    let said = cart.refused(["delta", "base", "target", "-o", &delta]);
    assert!(said.contains("--force"), "{said}");
    let said = cart.refused(["delta", "base", "target", "-o", "nowhere/d.cart"]);
    assert!(said.contains("there is no folder"), "{said}");
    assert_eq!(cart.content(), before);
    let other = Cart::new();
    let said = other.refused(["pack", &delta, "-t", "x"]);
    assert!(
        said.contains(base["manifest"].as_str().unwrap()) && said.contains("cart apply"),
        "{said}"
    );
}

#[test]
fn damage_anywhere_in_a_delta_is_named_and_nothing_is_taken_in() {
    let cart = Cart::new();
    pair(&cart);
    let delta = cart.path("d.cart");
    cart.ok(["delta", "base", "target", "-o", &delta]);
    let len = std::fs::metadata(&delta).unwrap().len();
    let other = receiver(&cart);
    let before = other.content();
    let mut chance = Chance::new(3);
    let places = (0..24).map(|_| chance.below(len)).chain([0, 70, 4096, len - 1]);
    for place in places.collect::<Vec<_>>() {
        damage::flip_bit(&delta, place, (place % 8) as u8);
        let said = other.refused(["apply", "base", &delta, "-t", "x"]);
        assert!(said.len() > 20, "{said}");
        let verified = other.run(["verify", &delta]).expect_code(1);
        if place >= 4096 && verified.stdout.contains("DAMAGED") {
            assert!(said.contains("packed chunk") && said.contains("tensor `"), "{said}");
            assert!(verified.stdout.contains("packed chunk"), "{}", verified.stdout);
        }
        damage::flip_bit(&delta, place, (place % 8) as u8);
    }
    let whole = std::fs::read(&delta).unwrap();
    for cut in [0, 7, 100, 4096, len - 1] {
        std::fs::write(&delta, &whole[..cut as usize]).unwrap();
        other.refused(["apply", "base", &delta, "-t", "x"]);
    }
    std::fs::write(&delta, &whole).unwrap();
    assert_eq!(other.content(), before, "a refused delta left something");
    other.ok(["apply", "base", &delta, "-t", "x"]);
    // A base that is damaged is refused before anything is made of it.
    let third = receiver(&cart);
    let blob = third.manifest("base")["model"]["tensors"]["nudged"]["blob"].clone();
    damage::flip_bit(third.blob(blob.as_str().unwrap()), 9, 1);
    let said = third.refused(["apply", "base", &delta, "-t", "x"]);
    assert!(said.contains("tensor `nudged`"), "{said}");
}

#[test]
fn a_full_disk_and_an_interrupt_leave_old_or_new() {
    let cart = Cart::new();
    pair(&cart);
    let delta = cart.path("d.cart");
    cart.ok(["delta", "base", "target", "-o", &delta]);
    let base = cart.path("base.cart");
    cart.ok(["export", "base", "-o", &base]);
    let folder = cart.scratch().join("full");
    std::fs::create_dir(&folder).unwrap();
    let script = format!(
        r#"
        export CART_STORE="$DIR/store"
        "$CART" --quiet pack '{base}' -t base
        before=$(find "$DIR/store" -type f | sort | xargs sha256sum)
        code=0; "$CART" apply base '{delta}' -t c 2>"$DIR/said" || code=$?
        cat "$DIR/said"; rm "$DIR/said"
        test $code = 1
        test "$before" = "$(find "$DIR/store" -type f | sort | xargs sha256sum)"
        head -c 1500000 /dev/zero > "$DIR/filler" || true
        code=0; "$CART" export base -o "$DIR/out.cart" --compress 2>"$DIR/said" || code=$?
        cat "$DIR/said" || true
        test $code = 1
        test "$(ls -A "$DIR")" = "$(printf 'filler\nsaid\nstore')"
        rm "$DIR/filler"
        "$CART" --quiet fsck
        "#
    );
    if let Some(said) = with_small_file_system(&folder, "4m", &script) {
        assert!(said.matches("no space left").count() >= 2, "{said}");
    }
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        for wait in 0..4 {
            let other = receiver(&cart);
            let mut applying = other.command(["apply", "base", &delta, "-t", "c"]).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(wait * 12));
            let id = rustix::process::Pid::from_child(&applying);
            let _ = rustix::process::kill_process(id, signal);
            let done = applying.wait().unwrap().success();
            let there = other.ok(["ls"]).contains("c:latest");
            assert!(there || !done);
            other.ok(["fsck"]);
            if signal == rustix::process::Signal::INT {
                assert_eq!(std::fs::read_dir(other.store().join("tmp")).unwrap().count(), 0);
            }
            let applied = other.json(["apply", "base", &delta, "-t", "c"]);
            assert_eq!(applied["name"], "c:latest");
            other.ok(["verify", "c"]);
        }
    }
}

#[test]
fn a_packed_file_is_a_safetensors_file() {
    let cart = Cart::new();
    pair(&cart);
    let delta = cart.path("d.cart");
    cart.ok(["delta", "base", "target", "-o", &delta]);
    let (tensors, metadata) =
        cart_tests::read_safetensors(&std::fs::read(Path::new(&delta)).unwrap());
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(
        names,
        ["cart.packed.data", "cart.packed.index", "cart.packed.manifest", "cart.packed.commit"]
    );
    assert_eq!(metadata["format"], "cart-packed");
}
