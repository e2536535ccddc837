//! Two become one: what is taken, what is merged, what is refused, and that it can be made again.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;

use cart_tests::{Cart, Chance, RawTensor, models, safetensors_bytes, with_small_file_system};
use serde_json::{Value, json};

/// A file of small tensors of which some were changed, each with its own change.
fn changed(seed: u64, which: &[usize]) -> Vec<u8> {
    let mut tensors = models::small_tensors(6, 1);
    for &index in which {
        let other = models::small_tensors(6, seed);
        tensors[index].bytes.clone_from(&other[index].bytes);
    }
    safetensors_bytes(&tensors, &[])
}

/// Ours changed tensors 1 and 3, theirs 2 and 3, of what both came from.
fn histories(cart: &Cart) {
    for (name, bytes) in
        [("base", changed(0, &[])), ("ours", changed(8, &[1, 3])), ("theirs", changed(9, &[2, 3]))]
    {
        let file = cart.file(&format!("{name}.safetensors"), &bytes);
        if name != "base" {
            cart.ok(["tag", "base", name]);
        }
        cart.ok(["pack", &file, "-t", name]);
    }
}

fn tensors(cart: &Cart, name: &str) -> Value {
    cart.manifest(name)["model"]["tensors"].clone()
}

#[test]
fn what_one_side_changed_is_taken_and_what_both_changed_is_asked_about() {
    let cart = Cart::new();
    histories(&cart);
    let refused = cart.run(["merge", "ours", "theirs", "-t", "both"]).expect_code(1);
    assert!(
        refused.stderr.contains("1 tensor changed on both sides: layer.3"),
        "{}",
        refused.stderr
    );
    assert!(!cart.ok(["ls"]).contains("both"));
    let plan = cart.json(["merge", "ours", "theirs", "--dry-run"]);
    assert_eq!(plan["base_from"], "history");
    assert_eq!(
        plan["counts"],
        json!({"same": 3, "ours": 1, "theirs": 1, "chosen": 0, "merged": 0, "conflicts": 1})
    );
    let conflict =
        plan["tensors"].as_array().unwrap().iter().find(|one| one["becomes"] == "conflict");
    assert_eq!(conflict.unwrap()["name"], "layer.3");
    assert_eq!(plan["result"], Value::Null);

    let merged = cart.json(["merge", "ours", "theirs", "--method", "linear", "-t", "both"]);
    assert_eq!(merged["counts"]["merged"], 1);
    assert_eq!(merged["result"]["new_blobs"], 1, "what is taken is not written again");
    let (both, ours, theirs) =
        (tensors(&cart, "both"), tensors(&cart, "ours"), tensors(&cart, "theirs"));
    assert_eq!(both["layer.1"], ours["layer.1"]);
    assert_eq!(both["layer.2"], theirs["layer.2"]);
    assert!(both["layer.3"] != ours["layer.3"] && both["layer.3"] != theirs["layer.3"]);
    for (choice, from) in [("ours", &ours), ("theirs", &theirs), ("base", &tensors(&cart, "base"))]
    {
        cart.ok(["merge", "ours", "theirs", "--on-conflict", choice, "-t", "chosen"]);
        assert_eq!(tensors(&cart, "chosen")["layer.3"], from["layer.3"]);
    }
    let log = cart.json(["log", "both"]);
    let parents =
        ["ours", "theirs"].map(|name| cart.json(["log", name])["commits"][0]["commit"].clone());
    assert_eq!(log["commits"][0]["parents"], json!(parents));
    assert_eq!(log["commits"][0]["recipe"], "merge");
    cart.ok(["verify", "both"]);
    cart.ok(["fsck"]);
}

#[test]
fn the_same_merge_gives_one_id_at_every_number_of_threads_and_when_it_is_replayed() {
    let cart = Cart::new();
    histories(&cart);
    let mut commits = BTreeSet::new();
    for method in [
        "linear",
        "slerp",
        "nuslerp",
        "karcher",
        "task_arithmetic",
        "ties",
        "dare_ties",
        "della",
        "breadcrumbs",
        "sce",
    ] {
        let mut ids = BTreeSet::new();
        for threads in ["1", "2", "1", "2"] {
            let mut arguments = vec![
                "merge",
                "ours",
                "theirs",
                "--method",
                method,
                "--seed",
                "5",
                "-t",
                "both",
                "--threads",
                threads,
            ];
            if ["ties", "dare_ties", "della", "breadcrumbs"].contains(&method) {
                arguments.extend(["-p", "density=0.5", "-p", "ours.weight=[0.3,0.9]"]);
            }
            let merged = cart.json(arguments);
            ids.insert(merged["result"]["manifest"].as_str().unwrap().to_owned());
        }
        assert_eq!(ids.len(), 1, "{method}: {ids:?}");
        let replayed = cart.json(["merge", "--replay", "both", "--threads", "2"]);
        assert_eq!(replayed["equal"], true);
        assert_eq!(Some(replayed["again"].as_str().unwrap()), ids.first().map(String::as_str));
        commits.insert(replayed["commit"].as_str().unwrap().to_owned());
    }
    assert_eq!(commits.len(), 10);
    let not_merged = cart.run(["merge", "--replay", "ours"]).expect_code(1);
    assert!(not_merged.stderr.contains("was not made by `cart merge`"), "{}", not_merged.stderr);
}

#[test]
fn mergekits_yaml_is_read_and_unknown_keys_are_refused() {
    let cart = Cart::new();
    histories(&cart);
    let text = "
merge_method: ties
base_model: base
models:
  - {model: ours, parameters: {weight: 0.5, density: [0.9, 0.4]}}
  - model: theirs
    parameters:
      weight: [{filter: layer.3, value: 0.2}, {value: 0.7}]
parameters: {normalize: true, int8_mask: true}
dtype: bfloat16
";
    let file = cart.file("merge.yaml", text.as_bytes());
    let merged = cart.json(["merge", "--config", &file, "-t", "both"]);
    assert_eq!(merged["counts"]["merged"], 6);
    assert_eq!(tensors(&cart, "both")["layer.3"]["dtype"], "bf16");
    assert_eq!(cart.json(["log", "both"])["commits"][0]["parents"].as_array().unwrap().len(), 3);
    cart.ok(["merge", "--replay", "both"]);
    let exported = cart.path("theirs.cart");
    cart.ok(["export", "theirs", "-o", &exported]);
    let by_file = cart
        .file("file.yaml", text.replace("model: theirs", &format!("model: {exported}")).as_bytes());
    let again = cart.json(["merge", "--config", &by_file, "-t", "again"]);
    assert_eq!(
        again["result"]["manifest"], merged["result"]["manifest"],
        "a file is as good as a name"
    );
    for (from, to, said) in [
        ("base_model:", "base_modle:", "base_modle"),
        ("density:", "densty:", "densty"),
        ("merge_method: ties", "merge_method: tiess", "breadcrumbs_ties"),
        ("density: [0.9, 0.4]", "density: 0", "over 0, up to 1"),
        ("model: ours", "model: nobody", "nobody"),
    ] {
        let file = cart.file("wrong.yaml", text.replace(from, to).as_bytes());
        let refused = cart.run(["merge", "--config", &file, "-t", "wrong"]).expect_code(1);
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    assert!(!cart.ok(["ls"]).contains("wrong"));
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_written() {
    let cart = Cart::new();
    histories(&cart);
    let mut more = models::small_tensors(7, 1);
    cart.ok(["pack", &cart.file("more.safetensors", &safetensors_bytes(&more, &[])), "-t", "more"]);
    more.truncate(6);
    more[2] = RawTensor::f32("layer.2", &[1, 16], vec![0; 64]);
    cart.ok([
        "pack",
        &cart.file("shape.safetensors", &safetensors_bytes(&more, &[])),
        "-t",
        "shape",
    ]);
    let mut sick = models::small_tensors(6, 1);
    sick[3].bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    cart.ok(["pack", &cart.file("sick.safetensors", &safetensors_bytes(&sick, &[])), "-t", "sick"]);
    let before = cart.ok(["ls", "--json"]);
    let cases: [(&[&str], i32, &str); 9] = [
        (&["ours", "more", "-t", "x"], 1, "layer.6"),
        (&["ours", "shape", "--method", "linear", "-t", "x"], 1, "only tensors of one shape"),
        (&["ours", "sick", "--method", "linear", "-t", "x"], 1, "is not finite"),
        (&["ours", "theirs", "--base", "more", "-t", "x"], 1, "is no common ancestor"),
        (&["ours", "theirs", "--method", "linear", "-p", "weight=0", "-t", "x"], 1, "add up to 0"),
        (
            &["ours", "theirs", "--method", "ties", "-p", "density=1.5", "-t", "x"],
            1,
            "over 0, up to 1",
        ),
        (
            &["ours", "theirs", "--method", "ties", "-p", "dense=1", "-t", "x"],
            2,
            "no parameter of ties",
        ),
        (&["ours", "theirs", "--method", "tie", "-t", "x"], 2, "allowed: linear"),
        (&["ours", "theirs"], 2, "needs a name"),
    ];
    for (arguments, code, said) in cases {
        let done = cart.run([&["merge"], arguments].concat()).expect_code(code);
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
    assert_eq!(cart.ok(["ls", "--json"]), before);
    cart.ok([
        "merge",
        "ours",
        "theirs",
        "--base",
        "sick",
        "--unrelated-base",
        "--on-conflict",
        "ours",
        "--dry-run",
    ]);
}

#[test]
fn a_merge_that_is_interrupted_or_finds_no_room_leaves_nothing() {
    let cart = Cart::new();
    let large = |seed: u64| {
        let mut chance = Chance::new(seed);
        let values: Vec<u8> =
            (0..1 << 20).flat_map(|_| (chance.below(1000) as f32).to_le_bytes()).collect();
        safetensors_bytes(&[RawTensor::f32("w", &[1 << 10, 1 << 10], values)], &[])
    };
    let files = [1, 2].map(|seed| cart.file(&format!("{seed}.safetensors"), &large(seed)));
    let folder = cart.scratch().join("full");
    std::fs::create_dir(&folder).unwrap();
    let script = format!(
        r#"
        export CART_STORE="$DIR/store"
        "$CART" --quiet pack '{}' -t a
        "$CART" --quiet pack '{}' -t b
        before=$(find "$DIR/store" -type f | sort | xargs sha256sum)
        code=0; "$CART" merge a b --method linear -t c 2>"$DIR/said" || code=$?
        cat "$DIR/said"; rm "$DIR/said"
        test $code = 1
        test "$before" = "$(find "$DIR/store" -type f | sort | xargs sha256sum)"
        "$CART" --quiet fsck
        "#,
        files[0], files[1]
    );
    if let Some(said) = with_small_file_system(&folder, "10m", &script) {
        assert!(said.contains("no space left"), "{said}");
    }
    for (file, name) in files.iter().zip(["a", "b"]) {
        cart.ok(["pack", file, "-t", name]);
    }
    let mut merging =
        cart.command(["merge", "a", "b", "--method", "linear", "-t", "c"]).spawn().unwrap();
    let id = rustix::process::Pid::from_child(&merging);
    // It may be done already: then there is a whole result, else there is none.
    let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
    let done = merging.wait().unwrap().success();
    assert_eq!(cart.ok(["ls"]).contains("c:latest"), done);
    assert_eq!(std::fs::read_dir(cart.store().join("tmp")).unwrap().count(), 0);
    cart.ok(["fsck"]);
}

#[test]
fn a_merged_model_runs() {
    let cart = Cart::new();
    let folders = ["a", "b"].map(|name| cart.scratch().join(name));
    for (folder, seed) in folders.iter().zip([1, 2]) {
        models::drawn_llama(folder, 64, seed);
        let name = folder.file_name().unwrap().to_str().unwrap();
        cart.ok(["pack", folder.to_str().unwrap(), "-t", name]);
    }
    let merged =
        cart.json(["merge", "a", "b", "--method", "slerp", "-p", "t=[0.2,0.8]", "-t", "c"]);
    assert_eq!(merged["base_from"], "none");
    let done = cart.json(["run", "c", "-p", "once", "-n", "4"]);
    assert_eq!(done["manifest"], merged["result"]["manifest"]);
    // Layers of both on top of each other: four where each has two.
    let text = "{merge_method: passthrough, slices: [{sources: [{model: a, layer_range: [0, 2]}]}, {sources: [{model: b, layer_range: [0, 2]}]}]}";
    let file = cart.file("stack.yaml", text.as_bytes());
    cart.ok(["merge", "--config", &file, "-t", "stacked"]);
    assert_eq!(cart.json(["inspect", "stacked"])["layers"], 4);
    cart.ok(["run", "stacked", "-p", "once", "-n", "2"]);
}
