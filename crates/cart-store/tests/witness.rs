//! What a witness sees of a cartridge that is verified.
#![allow(clippy::unwrap_used, reason = "parts of tests")]

mod cartridges;

use std::collections::BTreeMap;
use std::sync::Mutex;

use cart_format::BlobId;
use cart_format::limits::SEGMENT;
use cart_store::{
    BlobLocation, Cartridge, Interest, Silent, Store, VerifyError, VerifyOptions, Witness,
};
use cartridges::{blob_path, flip, noise, pack};

/// Notes what it sees of some blobs.
#[derive(Default)]
struct Notes {
    wanted: BTreeMap<BlobId, Interest>,
    pieces: Mutex<BTreeMap<BlobId, BTreeMap<u64, Vec<u8>>>>,
    matched: Mutex<Vec<(BlobId, u64)>>,
}

impl Witness for Notes {
    fn interest(&self, blob: &BlobId) -> Interest {
        self.wanted.get(blob).copied().unwrap_or_default()
    }

    fn see(&self, blob: &BlobId, at: u64, bytes: &[u8]) {
        let mut pieces = self.pieces.lock().unwrap();
        let before = pieces.entry(*blob).or_default().insert(at, bytes.to_vec());
        assert!(before.is_none(), "bytes {at} of {blob} are shown twice");
    }

    fn matched(&self, blob: &BlobId, location: &BlobLocation) {
        self.matched.lock().unwrap().push((*blob, location.len));
    }
}

fn open(store: &Store) -> Cartridge {
    store.open_cartridge(&store.resolve("a").unwrap()).unwrap()
}

/// Grains that divide nothing, one larger than a buffer, and one larger than is read at once.
#[test]
fn every_byte_is_shown_once_in_whole_grains() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let long = noise(2 * SEGMENT as usize + 100, 1);
    let short = noise(3_000_000, 2);
    let tensors = [("long", long.clone()), ("other", noise(1000, 3)), ("short", short.clone())];
    let packed = pack(&store, "a", &tensors, 0);
    let (long_id, short_id) = (packed.blobs[0], packed.blobs[2]);
    for (threads, whole, grain) in [
        (1, false, 10_880),
        (2, true, 777),
        (3, false, 300_001),
        (2, false, 9_000_000),
        (1, true, 0),
    ] {
        let pieces = Interest::Pieces { grain };
        let wanted = BTreeMap::from([(long_id, pieces), (short_id, pieces)]);
        let notes = Notes { wanted, ..Notes::default() };
        let options = VerifyOptions { threads: Some(threads), whole };
        open(&store).verify_before(&options, &Silent, &notes).unwrap();
        let seen = notes.pieces.into_inner().unwrap();
        assert_eq!(seen.len(), 2);
        for (blob, bytes) in [(long_id, &long), (short_id, &short)] {
            assert_eq!(&seen[&blob].values().flatten().copied().collect::<Vec<u8>>(), bytes);
            let ends = seen[&blob].iter().map(|(at, piece)| at + piece.len() as u64);
            let broken = |end: &u64| {
                let at_border = end.is_multiple_of(SEGMENT) || *end == bytes.len() as u64;
                !at_border && !end.is_multiple_of(grain as u64)
            };
            let readable = (1..4_000_000).contains(&grain);
            assert!(!readable || ends.filter(broken).count() == 0, "grain {grain}");
        }
        assert!(notes.matched.into_inner().unwrap().is_empty());
    }
}

#[test]
fn only_a_blob_whose_every_digest_matched_is_reported_as_matched() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let long = 2 * SEGMENT as usize + 100;
    let tensors = [("long", noise(long, 1)), ("other", noise(1000, 2)), ("short", noise(5000, 3))];
    let packed = pack(&store, "a", &tensors, 0);
    let (long_id, short_id) = (packed.blobs[0], packed.blobs[2]);
    let verify = || {
        let wanted = BTreeMap::from([(long_id, Interest::Whole), (short_id, Interest::Whole)]);
        let notes = Notes { wanted, ..Notes::default() };
        let verified = open(&store).verify_before(&VerifyOptions::default(), &Silent, &notes);
        let mut matched = notes.matched.into_inner().unwrap();
        matched.sort_by_key(|&(_, len)| len);
        (verified, matched)
    };
    let (verified, matched) = verify();
    assert!(verified.is_ok());
    assert_eq!(matched, [(short_id, 5000), (long_id, long as u64)]);

    flip(&blob_path(&store, &long_id), SEGMENT + 7);
    let (verified, matched) = verify();
    assert!(matches!(verified, Err(VerifyError::Damaged { damage, .. }) if damage.len() == 1));
    assert_eq!(matched, [(short_id, 5000)]);

    flip(&blob_path(&store, &short_id), 7);
    let (verified, matched) = verify();
    assert!(matches!(verified, Err(VerifyError::Damaged { damage, .. }) if damage.len() == 2));
    assert!(matched.is_empty());
}
