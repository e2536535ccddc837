//! Names, history, prefixes and what gc takes.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;

use cart_format::{Commit, CommitId, ManifestId, Recipe};
use cart_tests::{Cart, models};
use serde_json::Value;

/// A store with two versions of `m`, whose reports are returned.
fn two_versions(cart: &Cart) -> (Value, Value) {
    let one = cart.file("one.safetensors", &models::small_safetensors(4, 1));
    let two = cart.file("two.safetensors", &models::small_safetensors(4, 2));
    let first = cart.json(["pack", &one, "-t", "m", "-m", "the first"]);
    (first, cart.json(["pack", &two, "-t", "m", "-m", "the second"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn a_name_moves_and_its_history_stays() {
    let cart = Cart::new();
    let (first, second) = two_versions(&cart);
    let commits = cart.json(["log", "m"])["commits"].clone();
    assert_eq!(commits.as_array().unwrap().len(), 2);
    assert_eq!(
        (&commits[0]["commit"], &commits[1]["commit"]),
        (&second["commit"], &first["commit"])
    );
    assert_eq!(commits[0]["parents"][0], first["commit"]);
    assert_eq!(
        (text(&commits[0]["message"]), text(&commits[1]["message"])),
        ("the second", "the first")
    );
    assert_eq!(commits[0]["recipe"], "import");
    assert_eq!(cart.json(["log", "m", "-n", "1"])["commits"].as_array().unwrap().len(), 1);
    // The first version is still there, by every way to call it.
    let old = text(&first["manifest"]);
    for reference in
        [format!("m@sha256:{old}"), old.to_owned(), text(&first["commit"])[..12].to_owned()]
    {
        let found = cart.json(["verify", &reference]);
        assert_eq!(found["cartridges"][0]["manifest"], first["manifest"], "{reference}");
    }
    let said = cart.refused(["verify", &format!("other@sha256:{old}")]);
    assert!(said.contains("other"), "{said}");
}

#[test]
fn tags_are_given_moved_and_removed() {
    let cart = Cart::new();
    let (first, second) = two_versions(&cart);
    let old = text(&first["commit"]);
    let tagged = cart.json(["tag", old, "m:old"]);
    assert_eq!((&tagged["name"], &tagged["previous"]), (&"m:old".into(), &Value::Null));
    assert_eq!(tagged["manifest"], first["manifest"]);
    let moved = cart.json(["tag", "m", "m:old", "-m", "forget the old one"]);
    assert_eq!((&moved["previous"], &moved["commit"]), (&first["commit"], &second["commit"]));
    let names = |cart: &Cart| -> Vec<String> {
        let listed = cart.json(["ls"]);
        listed["cartridges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| text(&row["name"]).to_owned())
            .collect()
    };
    assert_eq!(names(&cart), ["m:latest", "m:old"]);
    // An unknown name among others changes nothing.
    let said = cart.refused(["rm", "m:old", "m:none"]);
    assert!(said.contains("m:none"), "{said}");
    assert_eq!(names(&cart), ["m:latest", "m:old"]);
    assert_eq!(cart.json(["rm", "m:old"])["removed"][0]["commit"], second["commit"]);
    assert_eq!(names(&cart), ["m:latest"]);
}

#[test]
fn names_that_nobody_may_give_are_wrong_arguments() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(1, 1));
    let long = "a".repeat(129);
    for name in ["", "A", "../x", "a b", "a:b:c", "a//b", ".a", "x.cart", "a:", "-a", &long] {
        let done = cart.run(["pack", &model, "-t", name]);
        assert_eq!(done.code, Some(2), "{name:?}: {done:?}");
    }
    assert!(
        !cart.store().join("refs").exists()
            || cart.json(["ls"])["cartridges"] == serde_json::json!([])
    );
}

#[test]
fn an_unknown_name_gets_the_nearest_ones() {
    let cart = Cart::new();
    two_versions(&cart);
    cart.ok(["tag", "m", "smollm"]);
    let said = cart.refused(["verify", "smolm"]);
    assert!(said.contains("smollm:latest"), "{said}");
}

#[test]
fn an_ambiguous_prefix_is_refused_with_its_candidates() {
    let cart = Cart::new();
    let (first, _) = two_versions(&cart);
    // Commits are made until two begin alike.
    let manifest: ManifestId = text(&first["manifest"]).parse().unwrap();
    let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut pair = None;
    for time in 0.. {
        let bytes = Commit::new(manifest, time, Recipe::new("import")).to_bytes().unwrap();
        let prefix = CommitId::of(&bytes).hex()[..4].to_owned();
        if let Some(other) = seen.insert(prefix.clone(), bytes.clone()) {
            pair = Some((prefix, [bytes, other]));
            break;
        }
    }
    let (prefix, documents) = pair.unwrap();
    let ids: Vec<String> = documents.iter().map(|bytes| CommitId::of(bytes).hex()).collect();
    for (id, bytes) in ids.iter().zip(&documents) {
        std::fs::write(cart.store().join("commits/sha256").join(id), bytes).unwrap();
    }
    let said = cart.refused(["verify", &prefix]);
    assert!(said.contains("ambiguous") && ids.iter().all(|id| said.contains(id)), "{said}");
    cart.ok(["verify", &ids[0]]);
    let same = ids[0].bytes().zip(ids[1].bytes()).take_while(|(a, b)| a == b).count();
    cart.ok(["verify", &ids[0][..=same]]);
    cart.refused(["verify", &ids[0][..3]]);
}

#[test]
fn gc_takes_what_no_name_reaches_after_the_grace_period() {
    let cart = Cart::new();
    let one = cart.file("one.safetensors", &models::small_safetensors(4, 1));
    let two = cart.file("two.safetensors", &models::small_safetensors(4, 2));
    let kept = cart.json(["pack", &one, "-t", "kept"]);
    let gone = cart.json(["pack", &two, "-t", "gone"]);
    let blobs = cart.blobs();
    // Named by a ref: nothing to do.
    assert_eq!(cart.json(["gc", "--grace", "0"])["trashed_blobs"], 0);
    cart.ok(["rm", "gone"]);
    // The log still names it, within the grace period.
    assert_eq!(cart.json(["gc"])["trashed_blobs"], 0);
    let back = cart.json(["tag", text(&gone["commit"]), "back"]);
    assert_eq!(back["manifest"], gone["manifest"]);
    cart.ok(["rm", "back"]);
    let planned = cart.json(["gc", "--grace", "0", "--dry-run"]);
    assert_eq!(
        (&planned["dry_run"], &planned["trashed_blobs"]),
        (&true.into(), &gone["new_blobs"].as_u64().map(|blobs| blobs + 1).into())
    );
    assert_eq!(cart.blobs(), blobs, "a dry run did something");
    let done = cart.json(["gc", "--grace", "0"]);
    assert_eq!(done["trashed_blobs"], planned["trashed_blobs"]);
    assert_eq!(done["deleted_bytes"], done["trashed_bytes"]);
    assert_eq!(std::fs::read_dir(cart.store().join("trash")).unwrap().count(), 0);
    cart.refused(["verify", text(&gone["commit"])]);
    cart.ok(["verify", "kept"]);
    cart.ok(["fsck"]);
    assert!(cart.blobs().contains(text(&kept["manifest"])));
}

#[test]
fn an_unnamed_pack_waits_in_the_trash() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(4, 1));
    let packed = cart.json(["pack", &model]);
    assert_eq!(packed["name"], Value::Null);
    cart.ok(["verify", text(&packed["manifest"])]);
    let done = cart.json(["gc"]);
    assert_eq!(
        (done["trashed_blobs"].as_u64(), done["deleted_files"].as_u64()),
        (Some(6), Some(0))
    );
    assert!(cart.blobs().is_empty());
    assert_eq!(std::fs::read_dir(cart.store().join("trash")).unwrap().count(), 7);
    // Packing again does not need the trash.
    cart.ok(["pack", &model, "-t", "m"]);
    cart.ok(["verify", "m"]);
    assert_eq!(cart.json(["gc", "--grace", "0"])["deleted_files"], 7);
    cart.ok(["verify", "m"]);
}

#[test]
fn an_unreadable_root_stops_the_collection() {
    let cart = Cart::new();
    two_versions(&cart);
    cart.ok(["tag", "m", "n"]);
    let content = cart.content();
    let path = cart.store().join("refs/n/latest");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "not an id\n").unwrap();
    let said = cart.refused(["gc", "--grace", "0"]);
    assert!(said.contains("nothing was collected"), "{said}");
    std::fs::write(&path, whole).unwrap();
    assert_eq!(cart.content(), content);
    let log = cart.store().join("logs/m/latest");
    let lines = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("garbage\n{lines}")).unwrap();
    let said = cart.refused(["gc", "--grace", "0"]);
    assert!(said.contains("line 1"), "{said}");
    std::fs::write(&log, lines).unwrap();
    assert_eq!(cart.content(), content);
}
