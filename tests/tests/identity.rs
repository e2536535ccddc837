//! The same content has the same id; what is there already is not written again.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;

use cart_tests::{Cart, RawTensor, models, safetensors_bytes, test_model};

#[test]
fn an_id_depends_on_nothing_but_the_content() {
    let folder = &models::logits_folders()[2];
    let mut ids = BTreeSet::new();
    for (store, threads) in ["1", "2", "7"].into_iter().enumerate() {
        let cart = Cart::new();
        let elsewhere = cart.scratch().join(format!("another place {store}/deep"));
        models::copy_folder(folder, &elsewhere);
        let report =
            cart.json(["pack", elsewhere.to_str().unwrap(), "--threads", threads, "-t", "x"]);
        ids.insert(report["manifest"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.pop_first().unwrap();
    let cart = Cart::new();
    assert_eq!(cart.json(["pack", folder.to_str().unwrap()])["manifest"], *id);
    let manifest = cart.ok(["inspect", "--manifest", &id]);
    for private in [folder.to_str().unwrap(), "another place", "time", "host"] {
        assert!(!manifest.contains(private), "{private} is in the manifest");
    }
}

#[test]
fn the_ids_of_the_fixtures_do_not_move() {
    let cart = Cart::new();
    let mut lines = String::new();
    for folder in models::logits_folders() {
        let id = cart.json(["pack", folder.to_str().unwrap()])["manifest"].clone();
        let name = folder.file_name().unwrap().to_str().unwrap();
        lines.extend([name, " ", id.as_str().unwrap(), "\n"]);
    }
    insta::assert_snapshot!(lines);
}

#[test]
fn a_second_pack_writes_nothing() {
    let cart = Cart::new();
    let folder = models::logits_folders()[3].to_str().unwrap().to_owned();
    let first = cart.json(["pack", &folder, "-t", "m"]);
    assert!(first["new_blobs"].as_u64().unwrap() > 10);
    assert_eq!(first["new_bytes"], first["bytes"]);
    let blobs = cart.blobs();
    let content = cart.content();
    let second = cart.json(["pack", &folder, "-t", "m"]);
    assert_eq!((second["new_blobs"].as_u64(), second["new_bytes"].as_u64()), (Some(0), Some(0)));
    assert_eq!(second["manifest"], first["manifest"]);
    assert_eq!(second["commit"], first["commit"], "nothing changed, so there is nothing to commit");
    assert_eq!(cart.blobs(), blobs);
    assert_eq!(cart.content(), content);
}

/// Packs `tensors`, then the same with 3 of them changed; returns the new files in `blobs/`.
fn new_blobs_after_a_change(cart: &Cart, tensors: &[RawTensor]) -> BTreeSet<String> {
    let before = cart.file("before.safetensors", &safetensors_bytes(tensors, &[]));
    cart.ok(["pack", &before, "-t", "m:1"]);
    let blobs = cart.blobs();
    let mut changed = tensors.to_vec();
    for index in [0, tensors.len() / 2, tensors.len() - 1] {
        changed[index].bytes[3] ^= 1;
    }
    let after = cart.file("after.safetensors", &safetensors_bytes(&changed, &[]));
    let report = cart.json(["pack", &after, "-t", "m:2"]);
    assert_eq!(report["new_blobs"], 3);
    let manifest = report["manifest"].as_str().unwrap();
    let mut new: BTreeSet<String> = cart.blobs().difference(&blobs).cloned().collect();
    assert!(new.remove(manifest), "the manifest is among the new");
    new
}

#[test]
fn three_changed_tensors_add_three_blobs_and_a_manifest() {
    let cart = Cart::new();
    let new = new_blobs_after_a_change(&cart, &models::small_tensors(40, 9));
    assert_eq!(new.len(), 3, "{new:?}");
    let diff = cart.json(["diff", "m:1", "m:2"]);
    assert_eq!(diff["tensors"]["same"], 37);
    assert_eq!(diff["tensors"]["changed"].as_array().unwrap().len(), 3);
}

#[test]
fn three_of_the_272_tensors_of_smollm2() {
    let Some(model) = test_model() else { return };
    let cart = Cart::new();
    let packed = cart.json(["pack", &model, "-t", "smol"]);
    let manifest = cart.manifest("smol");
    // The pieces of the file say where each tensor's bytes are.
    let mut offset = 0;
    let mut places = Vec::new();
    for piece in manifest["origin"]["files"][0]["pieces"].as_array().unwrap() {
        let blob = piece["blob"].as_str();
        let size = blob.map_or_else(
            || piece["zeros"].as_u64().unwrap(),
            |blob| manifest["blobs"][blob]["size"].as_u64().unwrap(),
        );
        places.extend(blob.map(|_| (offset, size)));
        offset += size;
    }
    // The first piece is the head.
    let tensors = &places[1..];
    assert_eq!(tensors.len(), 272);
    let changed = cart.path("changed.gguf");
    std::fs::copy(&model, &changed).unwrap();
    for index in [3, 100, 271] {
        cart_tests::damage::flip_bit(&changed, tensors[index].0 + tensors[index].1 / 2, 1);
    }
    let blobs = cart.blobs();
    let report = cart.json(["pack", &changed, "-t", "smol:changed"]);
    assert_ne!(report["manifest"], packed["manifest"]);
    assert_eq!(report["new_blobs"], 3);
    assert_eq!(cart.blobs().difference(&blobs).count(), 4);
}

#[test]
fn tied_and_renamed_tensors_are_stored_once() {
    let cart = Cart::new();
    let mut tensors = models::small_tensors(3, 2);
    let mut twin = tensors[1].clone();
    twin.name = "twin".to_owned();
    tensors.push(twin);
    let first = cart.file("a.safetensors", &safetensors_bytes(&tensors, &[]));
    let packed = cart.json(["pack", &first, "-t", "a"]);
    // Three tensors and the header.
    assert_eq!((packed["tensors"].as_u64(), packed["blobs"].as_u64()), (Some(4), Some(4)));
    tensors[0].name = "renamed".to_owned();
    let second = cart.file("b.safetensors", &safetensors_bytes(&tensors, &[]));
    assert_eq!(cart.json(["pack", &second, "-t", "b"])["new_blobs"], 1, "only the header is new");
    let diff = cart.json(["diff", "a", "b"]);
    assert_eq!(diff["tensors"]["renamed"][0]["b"], "renamed");
    let back = cart.path("back.safetensors");
    cart.ok(["export", "b", "--as", "safetensors", "-o", &back]);
    assert!(Path::new(&back).exists());
}
