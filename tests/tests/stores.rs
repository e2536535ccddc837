//! Stores that can't be used, can't be written, or are used by others at the same time.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use cart_tests::{Cart, models, with_small_file_system};

#[test]
fn a_folder_that_is_no_store_is_left_alone() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    let precious = cart.file("store/diary.txt", b"dear diary");
    for command in [vec!["pack", &model, "-t", "m"], vec!["ls"], vec!["gc"], vec!["verify", "m"]] {
        let said = cart.refused(&command);
        assert!(said.contains("is not a store") && said.contains("--store"), "{said}");
    }
    assert_eq!(std::fs::read(precious).unwrap(), b"dear diary");
    assert_eq!(std::fs::read_dir(cart.store()).unwrap().count(), 1);
}

#[test]
fn a_store_that_is_a_file_is_refused() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    cart.file("store", b"");
    for command in [vec!["pack", &model], vec!["ls"], vec!["fsck"]] {
        let said = cart.refused(&command);
        assert!(said.contains("store"), "{said}");
    }
    let below = cart.path("store/below");
    cart.refused(["pack", &model, "--store", &below]);
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    cart.ok(["pack", &model, "-t", "m"]);
    let content = cart.content();
    cart.file("store/cart-store.json", br#"{"version":"2.0"}"#);
    for command in [vec!["pack", &model, "-t", "n"], vec!["verify", "m"], vec!["gc"], vec!["fsck"]]
    {
        let said = cart.refused(&command);
        assert!(said.contains("2.0") && said.contains("update cart"), "{said}");
    }
    assert_eq!(cart.content(), content);
    cart.file("store/cart-store.json", br#"{"version":"1.7"}"#);
    cart.ok(["verify", "m"]);
    cart.file("store/cart-store.json", b"{");
    assert!(cart.refused(["verify", "m"]).contains("cart-store.json"));
}

#[test]
fn reading_from_a_store_that_is_not_there_does_not_make_one() {
    let cart = Cart::new();
    for command in [vec!["verify", "m"], vec!["inspect", "m"], vec!["log", "m"], vec!["fsck"]] {
        let said = cart.refused(&command);
        assert!(said.contains("no store"), "{command:?}: {said}");
    }
    assert!(!cart.store().exists());
}

#[test]
fn a_manifest_of_a_newer_version_is_refused_by_its_version_or_feature() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(2, 1));
    cart.ok(["pack", &model, "-t", "m"]);
    let manifest = cart.ok(["inspect", "--manifest", "m"]);
    let newer = manifest.replacen("\"cart\":\"1.0\"", "\"cart\":\"2.0\"", 1);
    let critical = manifest.replacen(
        "\"cart\":\"1.0\"",
        "\"cart\":\"1.9\",\"critical\":[\"memory-graph\"]",
        1,
    );
    for (document, word) in [(newer, "2.0"), (critical, "memory-graph")] {
        let id = put_manifest(&cart, &document);
        let said = cart.refused(["verify", &id]);
        assert!(said.contains(word) && said.contains("update cart"), "{said}");
    }
    let later = manifest.replacen("\"cart\":\"1.0\"", "\"cart\":\"1.9\"", 1);
    cart.ok(["verify", &put_manifest(&cart, &later)]);
}

/// Puts a document where manifests are, under a commit that is named by the returned id.
fn put_manifest(cart: &Cart, document: &str) -> String {
    let id = cart_format::ManifestId::of(document.as_bytes());
    std::fs::write(cart.blob(&id.hex()), document).unwrap();
    let commit = cart_format::Commit::new(id, 1, cart_format::Recipe::new("import"));
    let bytes = commit.to_bytes().unwrap();
    let commit_id = cart_format::CommitId::of(&bytes).hex();
    std::fs::write(cart.store().join("commits/sha256").join(&commit_id), bytes).unwrap();
    commit_id
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let cart = Cart::new();
    let small = cart.file("small.safetensors", &models::small_safetensors(3, 1));
    let large = cart.file("large.safetensors", &models::segmented_safetensors());
    let folder = cart.scratch().join("full");
    std::fs::create_dir(&folder).unwrap();
    let script = format!(
        r#"
        export CART_STORE="$DIR/store"
        "$CART" --quiet pack '{small}' -t small
        before=$(find "$DIR/store" -type f | sort | xargs sha256sum)
        for try in 1 2; do
            code=0
            "$CART" pack '{large}' -t large 2>"$DIR/said" || code=$?
            cat "$DIR/said"
            test $code = 1
            rm "$DIR/said"
        done
        "$CART" --quiet fsck
        "$CART" --quiet verify small
        "$CART" gc --grace 0 >/dev/null
        test "$before" = "$(find "$DIR/store" -type f | sort | xargs sha256sum)"
        code=0; "$CART" export small -o "$DIR/out/none.cart" 2>/dev/null || code=$?; test $code = 1
        head -c 100000000 /dev/zero > "$DIR/filler" 2>/dev/null || true
        code=0; "$CART" export small -o "$DIR/out.cart" 2>&1 || code=$?; test $code = 1
        test ! -e "$DIR/out.cart"
        code=0; "$CART" tag small other 2>&1 || code=$?; test $code = 1
        rm "$DIR/filler"
        "$CART" --quiet fsck
        "$CART" --quiet export small -o "$DIR/out.cart"
        "$CART" --quiet verify "$DIR/out.cart"
        "#
    );
    let Some(said) = with_small_file_system(&folder, "8m", &script) else { return };
    assert!(said.matches("no space left").count() >= 3, "{said}");
}

#[test]
fn a_read_only_store_can_be_read_and_refuses_the_rest() {
    let cart = Cart::new();
    let model = cart.file("small.safetensors", &models::small_safetensors(3, 1));
    let folder = cart.scratch().join("frozen");
    std::fs::create_dir(&folder).unwrap();
    let out = cart.path("out.cart");
    let script = format!(
        r#"
        export CART_STORE="$DIR/store"
        "$CART" --quiet pack '{model}' -t m
        mount -o remount,ro "$DIR"
        "$CART" --quiet verify m
        "$CART" --quiet ls
        "$CART" --quiet inspect m --tensors
        "$CART" --quiet log m
        "$CART" --quiet fsck
        "$CART" --quiet export m -o '{out}'
        for command in "pack {model} -t n" "tag m n" "rm m" "gc"; do
            code=0
            "$CART" $command 2>&1 || code=$?
            test $code = 1
        done
        "$CART" --quiet verify m
        "#
    );
    let Some(said) = with_small_file_system(&folder, "8m", &script) else { return };
    assert!(said.matches("read-only").count() >= 4, "{said}");
    cart.ok(["verify", &out]);
}

fn start(cart: &Cart, arguments: &[&str]) -> Child {
    let mut command = cart.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn two_processes_pack_into_one_store_at_once() {
    let cart = Cart::new();
    let shared = models::small_tensors(30, 4);
    let mut paths = Vec::new();
    for (index, seed) in [21, 22].into_iter().enumerate() {
        let mut tensors = shared.clone();
        for (own, tensor) in models::small_tensors(10, seed).into_iter().enumerate() {
            tensors.push(cart_tests::RawTensor { name: format!("own.{own}"), ..tensor });
        }
        let name = format!("{index}.safetensors");
        paths.push(cart.file(&name, &cart_tests::safetensors_bytes(&tensors, &[])));
    }
    for round in 0..8 {
        // The same model twice, under one name and under two, and two models that share tensors.
        let names =
            [format!("a:{round}"), format!("b:{round}"), "same".to_owned(), "same".to_owned()];
        let children: Vec<Child> = names
            .iter()
            .enumerate()
            .map(|(index, name)| start(&cart, &["pack", &paths[index % 2], "-t", name]))
            .collect();
        for (child, name) in children.into_iter().zip(&names) {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // Of two that move one name at once, one may be told that it was moved meanwhile.
            let lost = name == "same" && said.contains("changed meanwhile");
            assert!(output.status.success() || lost, "{name}: {said}");
        }
        cart.ok(["fsck"]);
        for name in [&names[0], &names[1], &names[2]] {
            cart.ok(["verify", name]);
        }
    }
}

#[test]
fn gc_and_packing_at_once_lose_nothing() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(25, 6));
    for round in 0..10 {
        let name = format!("m:{round}");
        let pack = start(&cart, &["pack", &model, "-t", &name]);
        let gc = start(&cart, &["gc", "--grace", "0"]);
        for child in [pack, gc] {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || said.contains("no store"), "{said}");
        }
        cart.ok(["verify", &name]);
        cart.ok(["rm", &name]);
    }
}

#[test]
fn a_store_holds_what_the_spec_lists() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(3, 1));
    let file = cart.path("m.cart");
    cart.ok(["pack", &model, "-t", "team/m:v1", "-o", &file]);
    cart.ok(["tag", "team/m:v1", "other"]);
    cart.ok(["rm", "other"]);
    let mut files = Vec::new();
    walk(cart.store(), &mut files);
    assert!(files.len() > 8);
    for path in files {
        let path = path.strip_prefix(cart.store()).unwrap().to_str().unwrap().to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let fits = match parts[..] {
            ["blobs" | "commits", "sha256", id] => id.len() == 64,
            ["refs", name, tag] => (name, tag) == ("team+m", "v1"),
            ["cart-store.json"]
            | ["locks", ".store"]
            | ["logs" | "locks", "team+m", "v1"]
            | ["logs" | "locks", "other", "latest"] => true,
            _ => false,
        };
        assert!(fits, "spec 50 §1 has no place for {path}");
    }
    let reference = std::fs::read_to_string(cart.store().join("refs/team+m/v1")).unwrap();
    assert_eq!(reference.len(), 65);
    let marker = std::fs::read_to_string(cart.store().join("cart-store.json")).unwrap();
    assert_eq!(marker, r#"{"version":"1.0"}"#);
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}
