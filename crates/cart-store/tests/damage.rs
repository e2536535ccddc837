//! Damage: what verify, fsck and gc say about it.
#![allow(clippy::unwrap_used, reason = "parts of tests")]

mod cartridges;

use std::path::Path;

use cart_format::DType;
use cart_format::limits::SEGMENT;
use cart_store::{
    Cartridge, Damage, DamageKind, FsckOptions, FsckProblem, FsckReport, GcError, GcOptions,
    OpenError, Silent, SourceRange, Store, VerifyError, VerifyOptions,
};
use cartridges::{blob_path, flip, manifest_of, noise, pack};

fn open(store: &Store, text: &str) -> Cartridge {
    store.open_cartridge(&store.resolve(text).unwrap()).unwrap()
}

fn damage(store: &Store, whole: bool) -> Vec<Damage> {
    match open(store, "a").verify(&VerifyOptions { threads: None, whole }, &Silent) {
        Ok(_) => vec![],
        Err(VerifyError::Damaged { damage, .. }) => damage,
        Err(error) => panic!("{error}"),
    }
}

fn fsck(store: &Store) -> FsckReport {
    store.fsck(&FsckOptions::default(), &Silent).unwrap()
}

#[test]
fn an_intact_cartridge_says_what_was_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let long = 2 * SEGMENT as usize + 100;
    pack(&store, "a", &[("long", noise(long, 1)), ("s", noise(10, 2)), ("e", vec![])], 0);
    for threads in [Some(1), Some(3), None] {
        let options = VerifyOptions { threads, whole: false };
        let verified = open(&store, "a").verify(&options, &Silent).unwrap();
        let report = verified.report();
        assert_eq!((report.blobs, report.segments), (3, 3));
        assert_eq!(report.bytes, long as u64 + 10);
        let options = VerifyOptions { threads, whole: true };
        let verified = open(&store, "a").verify(&options, &Silent).unwrap();
        assert_eq!(verified.report().bytes, 2 * long as u64 + 10);
    }
    let verified = open(&store, "a").verify(&VerifyOptions::default(), &Silent).unwrap();
    for (name, tensor) in &verified.manifest().model.tensors {
        let mapped = verified.map(&tensor.blob).unwrap();
        assert_eq!(mapped.len() as u64, tensor.shape[0], "{name}");
        assert_eq!(verified.read(&tensor.blob, u64::MAX).unwrap(), mapped.as_ref());
        assert!(mapped.is_empty() || verified.read(&tensor.blob, 9).is_err());
    }
}

/// Blocks of 210 bytes do not end where segments do: the scale of the block on the border is in the
/// second segment, its codes begin in the first.
#[test]
fn a_scale_that_is_no_number_is_named_and_is_no_damage() {
    const BLOCKS: usize = SEGMENT as usize / 210 + 20;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let border = SEGMENT as usize / 210;
    for (bad, expected) in [
        (vec![], None),
        (vec![border], Some(border)),
        (vec![border + 3], Some(border + 3)),
        (vec![border + 1, border, border - 1], Some(border - 1)),
    ] {
        let mut blocks = vec![0x5a; BLOCKS * 210];
        bad.iter().for_each(|block| blocks[block * 210 + 208..][..2].fill(0xff));
        let floats = 1.5_f32.to_le_bytes().repeat(100);
        let _guard = store.hold().unwrap();
        let sources = [blocks, floats].map(SourceRange::bytes);
        let taken = store.ingest(&sources, &Silent).unwrap();
        let mut manifest = manifest_of(&[("blocks", &taken[0]), ("floats", &taken[1])]);
        for (tensor, (dtype, shape)) in manifest
            .model
            .tensors
            .values_mut()
            .zip([(DType::Q6_K, vec![BLOCKS as u64, 256]), (DType::F32, vec![100])])
        {
            (tensor.dtype, tensor.shape) = (dtype, shape);
        }
        let id = store.put_manifest(&manifest).unwrap();
        for threads in [Some(1), Some(4)] {
            let options = VerifyOptions { threads, whole: false };
            let verified = open(&store, &id.hex()).verify(&options, &Silent).unwrap();
            let finite = &verified.report().finite;
            assert_eq!((finite.tensors, finite.bytes), (2, BLOCKS as u64 * 210 + 400));
            let first = finite.first.as_ref().map(|first| (first.tensor.as_str(), &first.position));
            let expected = expected.map(|block| vec![block as u64, 0]);
            assert_eq!(first, expected.as_ref().map(|position| ("blocks", position)));
            assert_eq!(verified.check_finite().is_err(), expected.is_some());
        }
    }
}

/// Bytes that are not the cartridge's say nothing about its weights, and what is not there was not
/// looked at.
#[test]
fn only_bytes_that_verified_are_looked_through_for_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let floats = |value: f32, count: usize| value.to_le_bytes().repeat(count);
    let long = SEGMENT as usize / 4 + 50;
    let tensors =
        [("long", floats(3.5, long)), ("gone", floats(2.5, 20)), ("good", floats(1.5, 10))];
    let packed = pack(&store, "bytes", &tensors, 0);
    let of_bytes = open(&store, "bytes");
    let mut manifest = of_bytes.manifest().clone();
    for tensor in manifest.model.tensors.values_mut() {
        (tensor.dtype, tensor.shape) = (DType::F32, vec![tensor.shape[0] / 4]);
    }
    let id = store.put_manifest(&manifest).unwrap();
    let report = || match open(&store, &id.hex()).verify(&VerifyOptions::default(), &Silent) {
        Err(VerifyError::Damaged { report, .. }) => *report,
        other => panic!("{other:?}"),
    };
    std::fs::remove_file(blob_path(&store, &packed.blobs[1])).unwrap();
    let missing = report();
    assert_eq!((missing.blobs, missing.bytes), (3, 4 * (long as u64 + 10)));
    assert_eq!((missing.finite.tensors, missing.finite.bytes), (2, 4 * (long as u64 + 10)));
    // 3.5 is 0x40600000; the flipped bits make it 0xffffffff.
    let path = blob_path(&store, &packed.blobs[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SEGMENT as usize + 8..][..4].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let damaged = report();
    assert_eq!(damaged.finite.first, None, "what is damaged was looked through");
    assert_eq!((damaged.finite.tensors, damaged.finite.bytes), (1, 40));
}

#[test]
fn every_place_of_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let shared = noise(300, 3);
    let tensors = [
        ("long", noise(3 * SEGMENT as usize, 1)),
        ("cut", noise(200, 2)),
        ("tied.a", shared.clone()),
        ("tied.b", shared),
        ("gone", noise(400, 4)),
        ("good", noise(500, 5)),
    ];
    let packed = pack(&store, "a", &tensors, 0);
    let path = |index: usize| blob_path(&store, &packed.blobs[index]);
    flip(&path(0), SEGMENT + 5);
    flip(&path(0), 3 * SEGMENT - 1);
    std::fs::write(path(1), noise(199, 2)).unwrap();
    flip(&path(2), 299);
    std::fs::remove_file(path(4)).unwrap();
    let found = damage(&store, false);
    let of = |tensor: &str| -> Vec<DamageKind> {
        let named = |one: &&Damage| one.uses.iter().any(|place| place.contains(tensor));
        found.iter().filter(named).map(|one| one.kind.clone()).collect()
    };
    assert!(
        matches!(
            of("`long`")[..],
            [
                DamageKind::Segment { segment: 1, start: SEGMENT, .. },
                DamageKind::Segment { segment: 2, .. },
            ]
        ),
        "{found:?}"
    );
    assert_eq!(of("`cut`"), [DamageKind::Size { found: 199, expected: 200 }]);
    assert!(matches!(of("`tied.a`")[..], [DamageKind::Digest { .. }]));
    assert_eq!(of("`tied.a`"), of("`tied.b`"));
    assert_eq!(of("`gone`"), [DamageKind::Missing]);
    assert_eq!(found.len(), 5);
    assert_eq!(damage(&store, true).len(), 6, "the whole digest of `long` as well");
    let error = open(&store, "a").verify(&VerifyOptions::default(), &Silent).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("segment 1 (bytes 16777216..33554432) differs"), "{text}");
    let problems = fsck(&store).problems;
    let blobs = problems.iter().filter(|one| matches!(one, FsckProblem::Blob(_))).count();
    assert_eq!(blobs, 6, "cut is of a wrong size and of a wrong digest: {problems:?}");
}

#[test]
fn a_missing_long_blob_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let packed = pack(&store, "a", &[("long", noise(2 * SEGMENT as usize, 1))], 0);
    std::fs::remove_file(blob_path(&store, &packed.blobs[0])).unwrap();
    assert_eq!(damage(&store, false).len(), 1);
}

#[test]
fn packing_again_heals_what_is_damaged_or_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let names = ["cut", "gone", "start", "middle", "end", "good"];
    let tensors: Vec<_> = names.into_iter().zip((1..).map(|seed| noise(30_000, seed))).collect();
    let packed = pack(&store, "a", &tensors, 0);
    let path = |index: usize| blob_path(&store, &packed.blobs[index]);
    std::fs::write(path(0), b"short").unwrap();
    std::fs::remove_file(path(1)).unwrap();
    flip(&path(2), 0);
    flip(&path(3), 15_000);
    flip(&path(4), 29_999);
    assert_eq!(damage(&store, false).len(), 5);
    pack(&store, "b", &tensors, 0);
    assert_eq!(damage(&store, false), []);
    assert!(fsck(&store).is_clean());
}

#[test]
fn fsck_names_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let a = pack(&store, "a", &[("t", noise(100, 1))], 0);
    let b = pack(&store, "b", &[("t", noise(100, 2))], 0);
    let c = pack(&store, "c", &[("t", noise(100, 3))], 0);
    assert!(fsck(&store).is_clean());
    let root = store.root();
    flip(&root.join("commits/sha256").join(a.commit.hex()), 10);
    flip(&blob_path(&store, &b.manifest.into()), 10);
    std::fs::write(root.join("refs/c/latest"), "nonsense\n").unwrap();
    std::fs::write(root.join("logs/c/latest"), "nonsense\n").unwrap();
    std::fs::write(root.join("blobs/sha256/notes.txt"), "mine").unwrap();
    flip(&blob_path(&store, &c.blobs[0]), 0);
    let report = fsck(&store);
    let texts: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let said = |needles: [&str; 2]| {
        assert!(
            texts.iter().any(|text| needles.iter().all(|needle| text.contains(needle))),
            "{needles:?} in {texts:#?}"
        );
    };
    said(["a:latest", "is damaged"]);
    said(["b:latest", "is damaged"]);
    said(["refs/c/latest", "should hold one commit id"]);
    said(["line 1", "c:latest"]);
    said(["notes.txt", "does not belong"]);
    said([&c.blobs[0].hex(), "bytes differ"]);
}

fn gc(store: &Store, now: u64, grace: u64) -> Result<cart_store::GcReport, GcError> {
    store.gc(&GcOptions { now, grace, dry_run: false })
}

#[test]
fn garbage_goes_to_the_trash_and_later_away_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let shared = noise(100, 1);
    pack(&store, "keep", &[("t", shared.clone())], 0);
    let gone = pack(&store, "gone", &[("t", shared), ("u", noise(70, 2))], 0);
    store.delete_ref(&"gone".parse().unwrap(), gone.commit, 1000, "rm").unwrap();
    std::fs::write(store.root().join("tmp/blob.1.2.tmp"), b"left").unwrap();
    // The log still names it.
    let early = gc(&store, 1050, 100).unwrap();
    assert_eq!((early.trashed_blobs, early.trashed_commits, early.temporary_files), (0, 0, 1));
    let plan = store.gc(&GcOptions { now: 1200, grace: 100, dry_run: true }).unwrap();
    assert_eq!((plan.trashed_blobs, plan.trashed_commits, plan.deleted_files), (2, 1, 0));
    assert!(blob_path(&store, &gone.blobs[1]).is_file());
    let done = gc(&store, 1200, 100).unwrap();
    assert_eq!(cart_store::GcReport { dry_run: true, ..done }, plan);
    assert!(!blob_path(&store, &gone.blobs[1]).is_file());
    assert!(blob_path(&store, &gone.blobs[0]).is_file());
    assert!(fsck(&store).is_clean());
    assert_eq!(gc(&store, 1299, 100).unwrap().deleted_files, 0);
    assert_eq!(gc(&store, 1300, 100).unwrap().deleted_files, 3);
    assert_eq!(std::fs::read_dir(store.root().join("trash")).unwrap().count(), 0);
    assert_eq!(open(&store, "keep").manifest().blobs.len(), 1);
    // What was collected can be packed again.
    pack(&store, "gone", &[("u", noise(70, 2))], 0);
    assert!(fsck(&store).is_clean());
}

#[test]
fn history_is_kept_and_a_grace_of_zero_deletes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let first = pack(&store, "a", &[("t", noise(10, 1))], 1);
    let second = pack(&store, "a", &[("t", noise(10, 2))], 2);
    let none = gc(&store, 1000, 0).unwrap();
    assert_eq!((none.kept_commits, none.kept_blobs, none.trashed_blobs), (2, 4, 0));
    store.delete_ref(&"a".parse().unwrap(), second.commit, 3, "").unwrap();
    let all = gc(&store, 1000, 0).unwrap();
    assert_eq!((all.trashed_commits, all.trashed_blobs, all.deleted_files), (2, 4, 6));
    assert!(!blob_path(&store, &first.blobs[0]).exists());
    assert!(store.log(&"a".parse().unwrap()).unwrap().len() == 3);
    assert!(fsck(&store).is_clean());
}

#[test]
fn an_unreadable_root_stops_the_collection() {
    let damage: [fn(&Store, &cartridges::Packed); 5] = [
        |store, packed| flip(&store.root().join("commits/sha256").join(packed.commit.hex()), 5),
        |store, packed| flip(&blob_path(store, &packed.manifest.into()), 5),
        |store, packed| std::fs::remove_file(blob_path(store, &packed.manifest.into())).unwrap(),
        |store, _| std::fs::write(store.root().join("refs/a/latest"), "").unwrap(),
        |store, _| std::fs::write(store.root().join("logs/a/latest"), "?\n").unwrap(),
    ];
    for (index, damage) in damage.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let packed = pack(&store, "a", &[("t", noise(10, 1))], 0);
        let gone = pack(&store, "gone", &[("t", noise(10, 2))], 0);
        store.delete_ref(&"gone".parse().unwrap(), gone.commit, 1, "").unwrap();
        damage(&store, &packed);
        let error = gc(&store, 1000, 0).unwrap_err();
        assert!(error.to_string().starts_with("nothing was collected"), "{index}: {error}");
        assert!(blob_path(&store, &gone.blobs[0]).is_file(), "{index}");
    }
}

#[test]
fn folders_that_are_not_a_store_of_this_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    assert!(matches!(Store::open(&path), Err(OpenError::Absent { .. })));
    Store::open_or_create(&path).unwrap();
    Store::open_or_create(&path).unwrap();
    std::fs::write(path.join("cart-store.json"), r#"{"version":"2.0"}"#).unwrap();
    for opened in [Store::open(&path), Store::open_or_create(&path)] {
        let error = opened.unwrap_err();
        assert!(matches!(error, OpenError::Newer { .. }));
        assert!(error.to_string().contains("version 2.0"), "{error}");
    }
    std::fs::write(path.join("cart-store.json"), r#"{"version":"1.7"}"#).unwrap();
    Store::open(&path).unwrap();
    std::fs::write(path.join("cart-store.json"), "?").unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Marker { .. })));
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("letter.txt"), "dear").unwrap();
    assert!(matches!(Store::open_or_create(&other), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    let file = Path::new(&other).join("letter.txt");
    assert!(Store::open_or_create(file).is_err());
}
