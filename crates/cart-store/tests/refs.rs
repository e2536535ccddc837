//! Names: compare-and-swap, logs, and how cartridges are found.
#![allow(clippy::unwrap_used, reason = "parts of tests")]

mod cartridges;

use std::collections::BTreeMap;

use cart_format::{CommitId, ManifestId};
use cart_store::{
    ObjectError, RefError, RefName, ResolveError, Resolved, Silent, Store, VerifyOptions,
};
use cartridges::{Packed, noise, pack};
use proptest::prelude::*;

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

fn three_commits(store: &Store) -> Vec<Packed> {
    (0..3).map(|seed| pack(store, "seed", &[("t", noise(100, seed))], seed)).collect()
}

#[test]
fn a_ref_moves_only_from_where_it_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let [a, b, c] = &three_commits(&store)[..] else { panic!() };
    let smol = name("smol");
    store.update_ref(&smol, None, a.commit, 10, "one").unwrap();
    store.update_ref(&smol, Some(a.commit), b.commit, 20, "two").unwrap();
    let error = store.update_ref(&smol, Some(a.commit), c.commit, 30, "late").unwrap_err();
    assert!(
        matches!(&error, RefError::Conflict { found, .. } if *found == Some(b.commit)),
        "{error}"
    );
    assert!(matches!(
        store.update_ref(&smol, None, c.commit, 30, ""),
        Err(RefError::Conflict { .. })
    ));
    assert_eq!(store.read_ref(&smol).unwrap(), Some(b.commit));
    store.delete_ref(&smol, b.commit, 40, "gone").unwrap();
    assert!(matches!(store.delete_ref(&smol, b.commit, 41, ""), Err(RefError::Absent { .. })));
    assert_eq!(store.read_ref(&smol).unwrap(), None);
    let log = store.log(&smol).unwrap();
    let told: Vec<_> = log.iter().map(|entry| (entry.time, entry.message.as_str())).collect();
    assert_eq!(told, [(10, "one"), (20, "two"), (40, "gone")]);
}

#[test]
fn names_with_slashes_and_names_that_are_prefixes_live_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let commit = three_commits(&store)[0].commit;
    for text in ["a", "a/b", "a:b", "a/b:c", "a/b/c"] {
        store.update_ref(&name(text), None, commit, 0, "").unwrap();
    }
    let found: Vec<String> =
        store.list_refs().unwrap().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(found, ["a:b", "a:latest", "a/b:c", "a/b:latest", "a/b/c:latest", "seed:latest"]);
}

#[test]
fn a_ref_can_not_point_to_what_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let packed = pack(&store, "a", &[("t", noise(100, 1))], 0);
    let nowhere = CommitId::of(b"nowhere");
    assert!(matches!(
        store.update_ref(&name("b"), None, nowhere, 0, ""),
        Err(RefError::Incomplete { .. })
    ));
    std::fs::remove_file(cartridges::blob_path(&store, &packed.blobs[0])).unwrap();
    let error = store.update_ref(&name("b"), None, packed.commit, 0, "").unwrap_err();
    let RefError::Incomplete { source, .. } = error else { panic!("{error}") };
    assert!(matches!(*source, ObjectError::BlobAbsent { blob, .. } if blob == packed.blobs[0]));
    assert_eq!(store.read_ref(&name("b")).unwrap(), None);
}

#[test]
fn many_threads_count_up_by_compare_and_swap_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let commits = three_commits(&store);
    let counter = name("counter");
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, commits, counter) = (&store, &commits, &counter);
            scope.spawn(move || {
                for round in 0..10 {
                    loop {
                        let old = store.read_ref(counter).unwrap();
                        let at = commits.iter().position(|one| Some(one.commit) == old);
                        let new = commits[at.map_or(0, |at| (at + 1) % 3)].commit;
                        match store.update_ref(counter, old, new, thread * 100 + round, "") {
                            Ok(()) => break,
                            Err(RefError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let log = store.log(&counter).unwrap();
    assert_eq!(log.len(), 40);
    assert!(log.windows(2).all(|pair| pair[0].new == pair[1].old));
    assert_eq!(store.read_ref(&counter).unwrap(), Some(commits[39 % 3].commit));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_store_behaves_like_a_map_with_compare_and_swap(
        steps in prop::collection::vec((0..3_usize, 0..4_usize, 0..4_usize), 1..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let commits: Vec<CommitId> = three_commits(&store).iter().map(|one| one.commit).collect();
        let names = ["a", "a/b", "a:b"].map(name);
        let mut model: BTreeMap<RefName, CommitId> = BTreeMap::new();
        let mut changes = BTreeMap::<RefName, usize>::new();
        for (time, (which, expected, new)) in steps.into_iter().enumerate() {
            let name = &names[which];
            let (expected, new) = (commits.get(expected).copied(), commits.get(new).copied());
            let matches = model.get(name).copied() == expected;
            let changed = match (expected, new) {
                (expected, Some(new)) => {
                    store.update_ref(name, expected, new, time as u64, "").is_ok()
                }
                (Some(expected), None) => {
                    store.delete_ref(name, expected, time as u64, "").is_ok()
                }
                (None, None) => continue,
            };
            prop_assert_eq!(changed, matches);
            if changed {
                *changes.entry(name.clone()).or_default() += 1;
                match new {
                    Some(new) => model.insert(name.clone(), new),
                    None => model.remove(name),
                };
            }
        }
        let found: BTreeMap<_, _> =
            store.list_refs().unwrap().into_iter().filter(|(name, _)| name.name() != "seed").collect();
        prop_assert_eq!(found, model);
        for (name, count) in changes {
            prop_assert_eq!(store.log(&name).unwrap().len(), count);
        }
    }
}

fn manifest_of(store: &Store, text: &str) -> Result<ManifestId, ResolveError> {
    let found = store.resolve(text)?;
    Ok(store.open_cartridge(&found)?.manifest_id())
}

#[test]
fn a_cartridge_is_found_by_all_that_people_call_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let old = pack(&store, "smol", &[("t", noise(100, 1))], 1);
    let new = pack(&store, "smol", &[("t", noise(100, 2))], 2);
    let other = pack(&store, "other:v1", &[("t", noise(100, 3))], 3);
    let find = |text: &str| manifest_of(&store, text).unwrap();
    assert_eq!(find("smol"), new.manifest);
    assert_eq!(find("smol:latest"), new.manifest);
    assert_eq!(find("other:v1"), other.manifest);
    assert_eq!(find(&format!("smol@sha256:{}", old.manifest)), old.manifest);
    assert_eq!(find(&old.commit.hex()), old.manifest);
    assert_eq!(find(&old.commit.hex()[..12]), old.manifest);
    assert_eq!(find(&new.manifest.hex()[..12]), new.manifest);
    let foreign = manifest_of(&store, &format!("smol@sha256:{}", other.manifest));
    assert!(matches!(foreign, Err(ResolveError::NotInHistory { .. })));
    // A blob is not a cartridge.
    let blob = manifest_of(&store, &new.blobs[0].hex()[..16]);
    assert!(matches!(blob, Err(ResolveError::Unknown { .. })));
    // A ref that was moved away from something still knows it.
    let smol = name("smol");
    store.update_ref(&smol, Some(new.commit), other.commit, 9, "moved").unwrap();
    assert_eq!(find(&format!("smol@sha256:{}", new.manifest)), new.manifest);
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let text = store.resolve("smol").unwrap_err().to_string();
    assert!(text.contains("no names yet"), "{text}");
    for known in ["smollm", "gemma", "smol:old"] {
        pack(&store, known, &[("t", noise(10, 1))], 0);
    }
    let Err(ResolveError::Unknown { nearest, .. }) = store.resolve("smol") else { panic!() };
    let nearest: Vec<String> = nearest.iter().map(ToString::to_string).collect();
    assert_eq!(nearest, ["smol:old", "smollm:latest", "gemma:latest"]);
    for bad in ["No Such", "../x", "smol:"] {
        assert!(matches!(store.resolve(bad), Err(ResolveError::Name { .. })), "{bad}");
    }
    assert!(matches!(store.resolve("smol@sha256:12"), Err(ResolveError::Digest { .. })));
}

#[test]
fn a_prefix_of_several_ids_is_refused_with_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let packed = pack(&store, "a", &[("t", noise(10, 1))], 0);
    // A file named like another commit with the same first digits.
    let hex = packed.commit.hex();
    let last = if hex.ends_with('0') { "1" } else { "0" };
    let twin = format!("{}{last}", &hex[..63]);
    std::fs::write(store.root().join("commits/sha256").join(&twin), b"x").unwrap();
    let Err(ResolveError::Ambiguous { candidates, .. }) = store.resolve(&hex[..20]) else {
        panic!()
    };
    assert_eq!(candidates.len(), 2);
    assert!(matches!(store.resolve(&hex), Ok(Resolved::Commit { .. })));
    assert!(matches!(store.resolve(&hex[..3]), Err(ResolveError::Unknown { .. })));
}

#[test]
fn a_path_to_a_cart_file_is_a_cartridge() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let packed = pack(&store, "a", &[("t", noise(1000, 1))], 0);
    let verified = store
        .open_cartridge(&store.resolve("a").unwrap())
        .unwrap()
        .verify(&VerifyOptions::default(), &Silent)
        .unwrap();
    for file in ["x.cart", "plain"] {
        let path = dir.path().join(file);
        verified.write_cart(&path, &Silent).unwrap();
        assert_eq!(manifest_of(&store, path.to_str().unwrap()).unwrap(), packed.manifest);
    }
    let missing = dir.path().join("missing.cart");
    let error = manifest_of(&store, missing.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}
