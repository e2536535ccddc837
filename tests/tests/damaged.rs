//! Damage is found wherever it is, and named.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use cart_tests::{Cart, Chance, damage, fixture, models, read_safetensors, safetensors_bytes};
use serde_json::Value;

/// A cart with a model of several blobs, called `m`; also as a `.cart` file, whose path is
/// returned.
fn packed() -> (Cart, String) {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::small_safetensors(8, 3));
    let file = cart.path("m.cart");
    cart.ok(["pack", &model, "-t", "m", "-o", &file]);
    (cart, file)
}

/// Verifies with exit code 1; the damage that is listed.
fn damage_of(cart: &Cart, reference: &str) -> Vec<Value> {
    let report = cart.json_with_code(1, ["verify", reference]);
    assert_eq!(report["intact"], false);
    report["cartridges"][0]["damage"].as_array().unwrap().clone()
}

#[test]
fn a_bit_flipped_in_a_blob_is_named() {
    let (cart, _) = packed();
    let manifest = cart.manifest("m");
    let mut chance = Chance::new(1);
    for (id, entry) in manifest["blobs"].as_object().unwrap() {
        let (path, size) = (cart.blob(id), entry["size"].as_u64().unwrap());
        let uses: Vec<&str> = {
            let tensors = manifest["model"]["tensors"].as_object().unwrap().iter();
            tensors.filter(|(_, tensor)| tensor["blob"] == **id).map(|(name, _)| name.as_str())
        }
        .collect();
        for _ in 0..6 {
            let (byte, bit) = (chance.below(size), chance.below(8) as u8);
            damage::flip_bit(&path, byte, bit);
            let found = damage_of(&cart, "m");
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (&found[0]["blob"], &found[0]["kind"]),
                (&id.as_str().into(), &"digest".into())
            );
            let named = found[0]["uses"].to_string();
            for tensor in &uses {
                assert!(named.contains(&format!("`{tensor}`")), "{named} does not name {tensor}");
            }
            let said = cart.run(["verify", "m"]).expect_code(1).stdout;
            assert!(said.contains("DAMAGED"), "{said}");
            damage::flip_bit(&path, byte, bit);
        }
    }
    cart.ok(["verify", "m"]);
}

#[test]
fn a_cartridge_that_cannot_be_opened_does_not_keep_the_others_from_being_verified() {
    let (cart, file) = packed();
    let names = ["none", "m", "nowhere.cart", &file];
    let report = cart.json_with_code(1, ["verify"].into_iter().chain(names));
    assert_eq!(report["intact"], false);
    let outcomes = report["cartridges"].as_array().unwrap();
    for (outcome, name) in outcomes.iter().zip(names) {
        assert_eq!(outcome["ref"], name);
    }
    let opened = |outcome: &Value| (outcome["error"].is_null(), outcome["manifest"].is_string());
    let intact: Vec<bool> = outcomes.iter().map(|one| one["intact"] == true).collect();
    assert_eq!(intact, [false, true, false, true]);
    for (outcome, intact) in outcomes.iter().zip(&intact) {
        assert_eq!(opened(outcome), (*intact, *intact), "{outcome}");
        assert_eq!(outcome["bytes"].as_u64() > Some(0), *intact, "{outcome}");
    }
    let done = cart.run(["verify"].into_iter().chain(names)).expect_code(1);
    let lines: Vec<&str> = done.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!((lines[0], lines[2]), ("UNREADABLE none", "UNREADABLE nowhere.cart"));
    assert!(lines[1].starts_with("intact m ") && lines[3].starts_with("intact "), "{lines:?}");
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("error:")).count(), 2);
}

#[test]
fn a_bit_flipped_in_a_large_blob_is_named_by_segment() {
    let cart = Cart::new();
    let model = cart.file("large.safetensors", &models::segmented_safetensors());
    let file = cart.path("large.cart");
    cart.ok(["pack", &model, "-t", "large", "-o", &file]);
    let manifest = cart.manifest("large");
    let blob = manifest["model"]["tensors"]["large"]["blob"].as_str().unwrap();
    let entry = &manifest["blobs"][blob];
    assert_eq!(entry["segments"].as_array().unwrap().len(), 3);
    let size = entry["size"].as_u64().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let payload = offset_of(&bytes, "large");
    let places = [0, models::SEGMENT - 1, models::SEGMENT, 2 * models::SEGMENT + 5, size - 1];
    for place in places {
        for (path, offset, reference) in
            [(cart.blob(blob), 0, "large"), (Path::new(&file).to_owned(), payload, file.as_str())]
        {
            damage::flip_bit(&path, offset + place, 5);
            let found = damage_of(&cart, reference);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0]["kind"], "segment");
            assert_eq!(found[0]["segment"], place / models::SEGMENT);
            assert_eq!(found[0]["start"], place / models::SEGMENT * models::SEGMENT);
            assert_eq!(found[0]["uses"][0], "tensor `large`");
            let said = cart.run(["verify", reference]).expect_code(1).stdout;
            let segment = format!("segment {}", place / models::SEGMENT);
            assert!(said.contains("`large`") && said.contains(&segment), "{said}");
            damage::flip_bit(&path, offset + place, 5);
        }
    }
    cart.ok(["verify", "large", &file, "--whole"]);
}

/// Where a tensor's bytes are in a safetensors file.
fn offset_of(file: &[u8], name: &str) -> u64 {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) + 8;
    let (parts, _) = read_safetensors(file);
    let before = parts.iter().take_while(|part| part.name != name);
    header + before.map(|part| part.bytes.len() as u64).sum::<u64>()
}

#[test]
fn a_bit_flipped_anywhere_in_a_cart_file_is_found() {
    let (cart, file) = packed();
    let size = std::fs::metadata(&file).unwrap().len();
    let bytes = std::fs::read(&file).unwrap();
    let mut chance = Chance::new(2);
    let mut places: Vec<u64> = (0..60).map(|_| chance.below(size)).collect();
    // The length, the JSON, the spaces after it, manifest, commit, padding, and the last byte.
    let manifest = offset_of(&bytes, "cart.manifest");
    let pad = offset_of(&bytes, "cart.pad.1");
    places.extend([0, 3, 9, 200, manifest - 1, manifest, offset_of(&bytes, "cart.commit")]);
    places.extend([pad, size - 1]);
    for place in places {
        let bit = chance.below(8) as u8;
        damage::flip_bit(&file, place, bit);
        let done = cart.run(["--json", "verify", &file]);
        assert_eq!(done.code, Some(1), "bit {bit} of byte {place}: {done:?}");
        let report = done.report();
        let said = report.to_string();
        // Either the file as such is refused, or the damage is listed by tensor.
        let listed = report["cartridges"][0]["damage"][0]["uses"][0].is_string();
        assert!(report["cartridges"][0]["error"].is_string() || listed, "{said}");
        damage::flip_bit(&file, place, bit);
    }
    cart.ok(["verify", &file]);
}

#[test]
fn a_cart_file_that_is_cut_or_goes_on_is_refused() {
    let (cart, file) = packed();
    let whole = std::fs::read(&file).unwrap();
    let size = whole.len() as u64;
    for len in [0, 1, 7, 8, 9, 100, 4095, 4096, 4200, size / 2, size - 1, size + 1, size + 4096] {
        damage::set_len(&file, len);
        let said = cart.refused(["verify", &file]);
        assert!(said.len() > 20, "{len}: {said}");
        cart.refused(["pack", &file, "-t", "taken"]);
        std::fs::write(&file, &whole).unwrap();
    }
    assert!(cart.json(["ls", "taken"])["cartridges"].as_array().unwrap().is_empty());
    cart.ok(["verify", &file]);
    cart.ok(["fsck"]);
}

/// What a reader of heads refuses, and what it is called: `fixtures/v1/invalid`.
#[test]
fn every_invalid_cart_file_is_refused_by_verify_and_by_pack() {
    let cart = Cart::new();
    cart.ok(["pack", &cart.file("m.safetensors", &models::small_safetensors(2, 3)), "-t", "m"]);
    let before = cart.content();
    let mut cases = 0;
    for entry in std::fs::read_dir(fixture("v1/invalid")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(folder.join("input.cart")) else { continue };
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let words = expected["message_contains"].as_str().unwrap();
        let file = cart.file("bad.cart", &bytes);
        for command in [vec!["verify", &file], vec!["pack", &file, "-t", "bad"]] {
            let said = cart.refused(&command);
            assert!(said.contains(words), "{folder:?}, {command:?}: {said}");
        }
        assert_eq!(cart.content(), before, "{folder:?} left something");
        cases += 1;
    }
    assert!(cases >= 25, "{cases}");
}

#[test]
fn a_cart_file_that_another_tool_saved_again_is_refused_as_such() {
    let (cart, file) = packed();
    let (tensors, metadata) = read_safetensors(&std::fs::read(&file).unwrap());
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut sorted = tensors.clone();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let payloads: Vec<_> =
        tensors.iter().filter(|tensor| !tensor.name.starts_with("cart.pad.")).cloned().collect();
    for (how, bytes) in [
        ("without metadata", safetensors_bytes(&tensors, &[])),
        ("sorted", safetensors_bytes(&sorted, &metadata)),
        ("without padding", safetensors_bytes(&payloads, &metadata)),
        ("as it was", safetensors_bytes(&tensors, &metadata)),
    ] {
        let saved = cart.file("saved.cart", &bytes);
        let said = cart.refused(["verify", &saved]);
        assert!(said.contains("saved it again"), "{how}: {said}");
        let said = cart.refused(["pack", &saved, "-t", "saved"]);
        assert!(said.contains("saved it again"), "{how}: {said}");
    }
    let plain = cart.file("plain.cart", &models::small_safetensors(2, 8));
    let said = cart.refused(["verify", &plain]);
    assert!(said.contains("not a cart file"), "{said}");
}

#[test]
fn a_damaged_cart_file_is_not_taken_in() {
    let (cart, file) = packed();
    let bytes = std::fs::read(&file).unwrap();
    let other = Cart::new();
    for tensor in ["cart.manifest", "cart.commit", "layer.3"] {
        let place = offset_of(&bytes, tensor) + 2;
        damage::flip_bit(&file, place, 0);
        let said = other.refused(["pack", &file, "-t", "taken"]);
        assert!(said.contains(tensor), "{said}");
        damage::flip_bit(&file, place, 0);
    }
    assert!(other.json(["ls"])["cartridges"].as_array().unwrap().is_empty());
    other.ok(["fsck"]);
    cart.ok(["verify", &file]);
}

#[test]
fn a_missing_or_cut_blob_is_named_and_packing_again_repairs_it() {
    let (cart, _) = packed();
    let manifest = cart.manifest("m");
    let blob = |name: &str| manifest["model"]["tensors"][name]["blob"].as_str().unwrap().to_owned();
    let (missing, cut) = (blob("layer.1"), blob("layer.2"));
    std::fs::remove_file(cart.blob(&missing)).unwrap();
    make_writable(&cart.blob(&cut));
    damage::set_len(cart.blob(&cut), 7);
    let mut found = damage_of(&cart, "m");
    found.sort_by_key(|damage| damage["kind"].as_str().unwrap().to_owned());
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0]["kind"], &found[0]["blob"]), (&"missing".into(), &missing.into()));
    assert_eq!((&found[1]["kind"], &found[1]["blob"]), (&"size".into(), &cut.into()));
    for command in [vec!["export", "m", "-o", "out.cart"], vec!["run", "m", "-p", "x"]] {
        cart.refused(command);
    }
    assert!(!cart.scratch().join("out.cart").exists());
    cart.ok(["pack", &cart.path("m.safetensors"), "-t", "m"]);
    cart.ok(["verify", "m"]);
    cart.ok(["fsck"]);
}

fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn fsck_finds_what_verify_finds_and_more() {
    let (cart, _) = packed();
    let clean = cart.json(["fsck"]);
    assert_eq!(clean["problems"].as_array().unwrap().len(), 0);
    let manifest_id = cart.json(["inspect", "m"])["manifest"].as_str().unwrap().to_owned();
    let commit = cart.json(["inspect", "m"])["commit"].as_str().unwrap().to_owned();
    let tensor = cart.manifest("m")["model"]["tensors"]["layer.0"]["blob"].clone();
    let commit_path = cart.store().join("commits/sha256").join(commit);
    let reference = cart.store().join("refs/m/latest");
    for path in
        [cart.blob(tensor.as_str().unwrap()), cart.blob(&manifest_id), commit_path, reference]
    {
        let whole = std::fs::read(&path).unwrap();
        make_writable(&path);
        damage::flip_bit(&path, whole.len() as u64 / 2, 2);
        let report = cart.json_with_code(1, ["fsck"]);
        assert!(!report["problems"].as_array().unwrap().is_empty(), "{path:?}");
        let said = cart.run(["fsck"]).expect_code(1).stdout;
        assert!(said.contains("DAMAGED"), "{said}");
        std::fs::remove_file(&path).unwrap();
        assert!(cart.run(["fsck"]).code == Some(1) || path.ends_with("latest"), "{path:?} is gone");
        std::fs::write(&path, &whole).unwrap();
        cart.ok(["fsck"]);
    }
}
