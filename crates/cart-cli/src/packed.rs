//! Packed files, as commands meet them: what they are, and the base that a delta needs.

use std::path::Path;

use cart_format::{CommitId, ManifestId, Recipe};
use cart_store::{Cartridge, PackedFile, Progress as _, ResolveError, Store, Unpacked, Verified};
use thiserror::Error;

use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, NewCommit};
use crate::progress::Bar;

/// A base that is not at hand.
#[derive(Debug, Error)]
#[error(
    "{file} is what turns cartridge {base} into another, and {base} is not in the store: {source}"
)]
struct BaseAway {
    file: String,
    base: ManifestId,
    source: ResolveError,
}

/// The packed file at a path; none if it is something else, or nothing.
pub(crate) fn open(path: &Path) -> Result<Option<PackedFile>, Failure> {
    if !PackedFile::is_likely(path).unwrap_or(false) {
        return Ok(None);
    }
    PackedFile::open(path).map(Some).map_err(Failure::refused)
}

/// The base that a file needs, from the store; none if it needs none.
pub(crate) fn base(store: &Store, file: &PackedFile) -> Result<Option<Cartridge>, Failure> {
    let Some(base) = file.packed().base else { return Ok(None) };
    let found = store.resolve(&base.hex()).and_then(|found| store.open_cartridge(&found));
    found.map(Some).map_err(|source| {
        let file = file.path().display().to_string();
        let hint = "get the base and pack it, or name it: cart apply BASE FILE";
        Failure::refused_with(BaseAway { file, base, source }, hint)
    })
}

/// Takes a packed file into the store, with its base from there.
pub(crate) fn unpack(
    context: &Context,
    store: &Store,
    file: &PackedFile,
) -> Result<Unpacked, Failure> {
    let base = base(store, file)?.map(|base| history::verify(context, base)).transpose()?;
    unpack_onto(context, store, file, base.as_ref())
}

/// Takes a packed file into the store, whose blobs of the base are there.
pub(crate) fn unpack_onto(
    context: &Context,
    store: &Store,
    file: &PackedFile,
    base: Option<&Verified>,
) -> Result<Unpacked, Failure> {
    let bar = Bar::new(context, "unpacking");
    bar.total(0);
    store.unpack(file, base, &bar).map_err(Failure::refused)
}

/// The cartridge of a packed file, taken into the store.
pub(crate) fn cartridge(context: &Context, file: &PackedFile) -> Result<Cartridge, Failure> {
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let unpacked = unpack(context, &store, file)?;
    let commit = match unpacked.commit {
        Some(commit) => commit,
        None => nameless(&store, file, unpacked.manifest)?,
    };
    drop(held);
    context.remark(&format!(
        "note: {} was unpacked into the store; `cart gc` collects it unless it gets a name",
        file.path().display()
    ));
    store.cartridge(commit).map_err(Failure::refused)
}

/// A commit for content that came without one.
fn nameless(store: &Store, file: &PackedFile, manifest: ManifestId) -> Result<CommitId, Failure> {
    let kind = if file.packed().base.is_some() { "apply" } else { "import" };
    let new = NewCommit {
        manifest,
        parents: Vec::new(),
        recipe: Recipe::new(kind).with("tool", history::tool()),
        message: String::new(),
        probes: Vec::new(),
    };
    history::commit(store, new, None)
}
