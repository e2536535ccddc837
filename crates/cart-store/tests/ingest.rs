//! Taking bytes in.
#![allow(clippy::unwrap_used, reason = "parts of tests")]

mod cartridges;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cart_format::limits::SEGMENT;
use cart_format::{BlobId, SegmentId};
use cart_store::{
    FileError, FsckOptions, IngestError, Ingested, Progress, Silent, SourceRange, Store,
    digest_source,
};
use cartridges::{blob_path, noise};

fn clean(store: &Store) {
    let report = store.fsck(&FsckOptions { whole: true, threads: None }, &Silent).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

/// Sizes around every edge: empty, buffer, segment.
fn sizes() -> Vec<usize> {
    let segment = SEGMENT as usize;
    vec![0, 1, 63, 64, 65, 131_072, 262_144, 262_145, segment, segment + 1, 2 * segment + 12_345]
}

fn check(bytes: &[u8], found: &Ingested, store: &Store) {
    assert_eq!(found.blob, BlobId::of(bytes));
    let segments: Vec<SegmentId> = bytes.chunks(SEGMENT as usize).map(SegmentId::of).collect();
    let expected = if bytes.len() as u64 > SEGMENT { segments } else { vec![] };
    assert_eq!(found.entry.segments, expected);
    assert_eq!(found.entry.size, bytes.len() as u64);
    assert!(std::fs::read(blob_path(store, &found.blob)).unwrap() == bytes);
}

#[test]
fn what_is_stored_is_what_was_given_at_every_size_and_from_files_and_memory() {
    let dir = tempfile::tempdir().unwrap();
    let contents: Vec<_> =
        sizes().into_iter().zip(7..).map(|(len, seed)| noise(len, seed)).collect();
    let path = dir.path().join("all");
    let mut file = File::create(&path).unwrap();
    contents.iter().for_each(|bytes| file.write_all(bytes).unwrap());
    let (file, shared): (_, Arc<Path>) = (Arc::new(File::open(&path).unwrap()), path.into());
    let mut offset = 0;
    let mut ranges = Vec::new();
    for bytes in &contents {
        ranges.push(SourceRange::range(&file, &shared, offset, bytes.len() as u64));
        offset += bytes.len() as u64;
    }
    let from_memory: Vec<_> = contents.iter().cloned().map(SourceRange::bytes).collect();
    for (sources, name) in [(ranges, "files"), (from_memory, "memory")] {
        let store = Store::open_or_create(dir.path().join(name)).unwrap();
        for again in [false, true] {
            let taken = store.ingest(&sources, &Silent).unwrap();
            for (bytes, found) in contents.iter().zip(&taken) {
                check(bytes, found, &store);
                assert_eq!(found.new_bytes, if again { 0 } else { bytes.len() as u64 });
            }
        }
        for (source, bytes) in sources.iter().zip(&contents) {
            assert_eq!(digest_source(source, &Silent).unwrap(), BlobId::of(bytes));
        }
        clean(&store);
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn thread_counts_give_the_same() {
    let sources: Vec<_> =
        sizes().into_iter().map(|len| SourceRange::bytes(noise(len, 3))).collect();
    let mut results = Vec::new();
    for threads in [1, 2, 7] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        results.push(pool.install(|| store.ingest(&sources, &Silent)).unwrap());
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn a_changed_tensor_adds_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let mut contents: Vec<_> = (0..20).map(|seed| noise(5000, seed)).collect();
    let sources = |contents: &[Vec<u8>]| -> Vec<_> {
        contents.iter().cloned().map(SourceRange::bytes).collect()
    };
    store.ingest(&sources(&contents), &Silent).unwrap();
    // One that differs where the stored ones are sampled, and one that does not.
    contents[3][2500] ^= 1;
    contents[9][0] ^= 1;
    let taken = store.ingest(&sources(&contents), &Silent).unwrap();
    let new: Vec<usize> = (0..20).filter(|&index| taken[index].new_bytes > 0).collect();
    assert_eq!(new, [3, 9]);
    taken.iter().zip(&contents).for_each(|(found, bytes)| check(bytes, found, &store));
}

#[test]
fn the_same_bytes_twice_in_one_call_are_new_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let source = SourceRange::bytes(noise(1000, 1));
    let taken = store.ingest(&[source.clone(), source], &Silent).unwrap();
    assert_eq!(taken.iter().map(|one| one.new_bytes).sum::<u64>(), 1000);
    clean(&store);
}

#[test]
fn a_file_that_was_cut_is_refused_and_nothing_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let path = dir.path().join("model");
    std::fs::write(&path, noise(500_000, 1)).unwrap();
    let whole = SourceRange::whole(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(400_000).unwrap();
    let other = SourceRange::bytes(noise(100, 2));
    let error = store.ingest(&[other, whole], &Silent).unwrap_err();
    assert!(matches!(error, IngestError::File(FileError::Short { .. })), "{error}");
    assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

/// Counts, and changes the source after so many bytes.
struct Meddler<'a> {
    seen: AtomicU64,
    path: &'a Path,
    at: u64,
}

impl Progress for Meddler<'_> {
    fn add(&self, bytes: u64) {
        if self.seen.fetch_add(bytes, Ordering::Relaxed) >= self.at {
            let file = File::options().write(true).open(self.path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xAB; 4096], 0).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xCD; 4096], 900_000).unwrap();
        }
    }
}

#[test]
fn a_source_that_changes_while_it_is_read_gives_no_wrong_blob() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let contents = noise(20_000_000, 5);
    for (at, stored_before) in [(0, false), (300_000, false), (0, true), (19_900_000, true)] {
        let store = Store::open_or_create(dir.path().join(format!("{at}{stored_before}"))).unwrap();
        std::fs::write(&path, &contents).unwrap();
        let source = [SourceRange::whole(&path).unwrap()];
        if stored_before {
            // Then it is hashed first, and written only if that finds it to be new.
            let mut similar = contents.clone();
            similar[0] ^= 1;
            store.ingest(&[SourceRange::bytes(similar)], &Silent).unwrap();
        }
        let meddler = Meddler { seen: AtomicU64::new(0), path: &path, at };
        let taken = store.ingest(&source, &meddler).unwrap();
        let stored = std::fs::read(blob_path(&store, &taken[0].blob)).unwrap();
        check(&stored, &taken[0], &store);
        clean(&store);
    }
}

/// Cancels after so many bytes.
struct Patience(AtomicU64);

impl Progress for Patience {
    fn cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) <= 1
    }
}

#[test]
fn a_cancelled_intake_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let sources: Vec<_> = (0..8).map(|seed| SourceRange::bytes(noise(2_000_000, seed))).collect();
    let error = store.ingest(&sources, &Patience(AtomicU64::new(5))).unwrap_err();
    assert!(matches!(error, IngestError::Cancelled));
    assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

/// The same tensors, packed by whoever runs this.
fn pack_shared(root: &Path, name: &str) -> cartridges::Packed {
    let store = Store::open_or_create(root).unwrap();
    let tensors: Vec<_> = (0..24).map(|seed| noise(150_000, seed)).collect();
    let names: Vec<String> = (0..24).map(|index| format!("t{index}")).collect();
    let tensors: Vec<_> = names.iter().map(String::as_str).zip(tensors).collect();
    cartridges::pack(&store, name, &tensors, 1)
}

#[test]
fn threads_and_processes_pack_the_same_content_into_one_store_at_once() {
    if let Some(root) = std::env::var_os("CART_TEST_PACK_INTO") {
        pack_shared(Path::new(&root), &std::env::var("CART_TEST_PACK_NAME").unwrap());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let this = "threads_and_processes_pack_the_same_content_into_one_store_at_once";
    let process = |name: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact"])
            .env("CART_TEST_PACK_INTO", dir.path())
            .env("CART_TEST_PACK_NAME", name)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut processes = [process("a"), process("b")];
    let root = dir.path();
    let packed: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            ["c", "d"].map(|name| scope.spawn(move || pack_shared(root, name))).into();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(packed[0], packed[1]);
    let store = Store::open(root).unwrap();
    let refs = store.list_refs().unwrap();
    let names: Vec<&str> = refs.iter().map(|(name, _)| name.name()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(refs.iter().all(|(_, commit)| *commit == packed[0].commit));
    assert_eq!(std::fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 25);
    clean(&store);
}
