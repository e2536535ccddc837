//! Every operation, with a fault at its first effect, its second, …, and an audit of what is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::{Commit, CommitId, DType, Manifest, Recipe, TensorEntry, TensorName};

use crate::faults::{Effect, Fault, Faults};
use crate::publish::Publisher;
use crate::verify::VerifyOptions;
use crate::{FsckOptions, GcOptions, RefName, Silent, SourceRange, Store};

type Failure = Box<dyn std::error::Error>;

fn name() -> RefName {
    "smol".parse().unwrap()
}

/// Packs a version of a model with three tensors, of which one changes with the version.
fn pack(store: &Store, version: u8) -> Result<CommitId, Failure> {
    let _guard = store.hold()?;
    let contents = [vec![1; 5000], vec![2; 300_000], vec![version; 70_000]];
    let sources = contents.map(SourceRange::bytes);
    let mut manifest = Manifest::new();
    for (index, taken) in store.ingest(&sources, &Silent)?.into_iter().enumerate() {
        let entry =
            TensorEntry { dtype: DType::U8, shape: vec![taken.entry.size], blob: taken.blob };
        manifest.model.tensors.insert(TensorName::new(format!("t{index}"))?, entry);
        manifest.blobs.insert(taken.blob, taken.entry);
    }
    let manifest = store.put_manifest(&manifest)?;
    let old = store.read_ref(&name())?;
    let mut commit = Commit::new(manifest, u64::from(version), Recipe::new("test"));
    commit.parents.extend(old);
    let commit = store.put_commit(&commit)?;
    store.update_ref(&name(), old, commit, u64::from(version), "packed")?;
    Ok(commit)
}

/// An operation on the store in a folder, and the folder before it.
struct Scenario {
    what: &'static str,
    before: fn(&Path),
    run: fn(&Store) -> Result<(), Failure>,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { what: "first pack", before: |_| (), run: |store| pack(store, 7).map(drop) },
    Scenario { what: "pack", before: with_history, run: |store| pack(store, 7).map(drop) },
    Scenario {
        what: "delete",
        before: with_history,
        run: |store| {
            let now = store.read_ref(&name())?.expect("it was made before");
            Ok(store.delete_ref(&name(), now, 50, "gone")?)
        },
    },
    Scenario {
        what: "gc",
        before: |root| {
            with_history(root);
            let store = Store::open(root).unwrap();
            let now = store.read_ref(&name()).unwrap().unwrap();
            store.delete_ref(&name(), now, 3, "gone").unwrap();
            let other = pack(&store, 9).unwrap();
            assert_eq!(store.read_ref(&name()).unwrap(), Some(other));
        },
        run: |store| Ok(store.gc(&GcOptions { now: 100, grace: 0, dry_run: false }).map(drop)?),
    },
];

fn with_history(root: &Path) {
    let store = Store::open_or_create(root).unwrap();
    pack(&store, 1).unwrap();
    pack(&store, 2).unwrap();
}

/// Copies a folder: quicker than making the store again, which waits for the disk.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Runs a scenario with faults. Returns how it ended.
fn run(scenario: &Scenario, root: &Path, faults: &Arc<Faults>) -> Result<(), Failure> {
    let publisher = Publisher::with_faults(Arc::clone(faults));
    let store = Store::open_or_create_with(root, publisher)?;
    (scenario.run)(&store)
}

fn state(root: &Path) -> Option<CommitId> {
    Store::open(root).ok().and_then(|store| store.read_ref(&name()).unwrap())
}

#[test]
fn after_a_fault_at_any_effect_the_store_is_old_or_new_and_works() {
    for scenario in &SCENARIOS {
        let (before, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        (scenario.before)(before.path());
        copy(before.path(), dir.path());
        let old = state(dir.path());
        let faults = Arc::new(Faults::count());
        run(scenario, dir.path(), &faults).unwrap();
        let new = state(dir.path());
        let effects = faults.seen().len();
        assert!(effects > 3, "{}: {effects}", scenario.what);
        for at in 0..effects {
            for fault in [Fault::Full, Fault::Crash] {
                replay(scenario, before.path(), (at, fault), old, new);
            }
        }
    }
}

fn replay(
    scenario: &Scenario,
    before: &Path,
    (at, fault): (usize, Fault),
    old: Option<CommitId>,
    new: Option<CommitId>,
) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    copy(before, root);
    let faults = Arc::new(Faults::at(at, fault));
    let ended = run(scenario, root, &faults);
    let case = format!("{} with {fault:?} at {at}: {ended:?}", scenario.what);
    let now = state(root);
    assert!(now == old || now == new, "{case}");
    assert!(ended.is_err() || now == new, "{case}");
    if fault == Fault::Full && !matches!(faults.seen()[at], Effect::Remove(_)) {
        let tmp = std::fs::read_dir(root.join("tmp"));
        assert!(tmp.map_or(0, Iterator::count) == 0 || scenario.what == "gc", "{case}");
    }
    // What a next process finds, and what it can do.
    let store = Store::open_or_create(root).unwrap();
    let report = store.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert!(report.is_clean(), "{case}: {:?}", report.problems);
    let log = store.log(&name()).unwrap();
    assert_eq!(log.last().and_then(|entry| entry.new), now, "{case}");
    let next = pack(&store, 8).unwrap();
    store.gc(&GcOptions { now: 1000, grace: 0, dry_run: false }).unwrap();
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{case}");
    store.cartridge(next).unwrap().verify(&VerifyOptions::default(), &Silent).unwrap();
    assert!(store.fsck(&FsckOptions::default(), &Silent).unwrap().is_clean(), "{case}");
}

/// Where an effect comes in a run.
fn last(seen: &[Effect], is: impl Fn(&Effect) -> bool) -> Option<usize> {
    seen.iter().rposition(is)
}

fn renamed_into(folder: &Path) -> impl Fn(&Effect) -> bool {
    let folder = folder.to_path_buf();
    move |effect| matches!(effect, Effect::Rename(_, to) if to.starts_with(&folder))
}

fn synced(folder: PathBuf) -> impl Fn(&Effect) -> bool {
    move |effect| *effect == Effect::SyncFolder(folder.clone())
}

/// A fault stops effects, but takes none back as a power cut does. What a power cut needs is order:
/// bytes are durable before they get a name, and names before whatever refers to them.
#[test]
fn nothing_gets_a_name_before_it_and_what_it_names_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    with_history(root);
    let faults = Arc::new(Faults::count());
    run(&SCENARIOS[1], root, &faults).unwrap();
    let seen = faults.seen();
    let mut renames = 0;
    for (at, effect) in seen.iter().enumerate() {
        let Effect::Rename(from, _) = effect else { continue };
        renames += 1;
        let before = &seen[..at];
        let write = last(before, |effect| *effect == Effect::Write(from.clone()));
        let sync = last(before, |effect| *effect == Effect::Sync(from.clone()));
        assert!(sync.is_some() && write < sync, "{effect:?}");
    }
    assert_eq!(renames, 4, "a blob, a manifest, a commit and a ref");
    let (blobs, commits) = (root.join("blobs/sha256"), root.join("commits/sha256"));
    let commit = last(&seen, renamed_into(&commits)).unwrap();
    let reference = last(&seen, renamed_into(&root.join("refs"))).unwrap();
    let last_blob = last(&seen, renamed_into(&blobs)).unwrap();
    let blobs_synced = last(&seen[..commit], synced(blobs)).unwrap();
    let commits_synced = last(&seen[..reference], synced(commits)).unwrap();
    assert!(last_blob < blobs_synced && blobs_synced < commit);
    assert!(commit < commits_synced && commits_synced < reference);
    let log = Effect::Sync(root.join("logs/smol/latest"));
    let log_synced = last(&seen[..reference], |effect| *effect == log).unwrap();
    assert!(commits_synced < log_synced);
    assert!(last(&seen, synced(root.join("refs/smol"))).unwrap() > reference);
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let dir = tempfile::tempdir().unwrap();
    with_history(dir.path());
    let error = run(&SCENARIOS[1], dir.path(), &Arc::new(Faults::at(1, Fault::Full))).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
}
