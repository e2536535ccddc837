//! From what people type to cartridges, agents and commits: the road that most commands share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cart_engine::{Agent, LoadOptions, Prepared};
use cart_format::{Commit, CommitId, ManifestId, Probe, Recipe};
use cart_memory::UnifiedMemory;
use cart_store::{
    CartFile, Cartridge, ObjectError, RefName, Store, Verified, VerifyOptions, is_low_rank,
};
use thiserror::Error;

use crate::context::{Context, now};
use crate::failure::Failure;
use crate::packed;
use crate::progress::Bar;

/// A file is in the way of an output.
#[derive(Debug, Error)]
#[error("{} exists already; give another path, or --force to overwrite it", path.display())]
struct Exists {
    path: PathBuf,
}

/// Where a loaded agent came from, for saving it again.
pub(crate) struct LoadedFrom {
    /// The content.
    pub(crate) manifest: ManifestId,
    /// Its commit, if it has one.
    pub(crate) commit: Option<CommitId>,
    /// Its name, if it was called by one.
    pub(crate) name: Option<RefName>,
    /// The commit's golden probes.
    pub(crate) probes: Vec<Probe>,
    /// What was loaded.
    pub(crate) verified: Verified,
    /// How long it took to find and hash it.
    pub(crate) verify: Duration,
    /// How long it took to load it.
    pub(crate) load: Duration,
    /// The file, if it was a `.cart` file.
    pub(crate) file: Option<PathBuf>,
}

impl LoadedFrom {
    /// Where a cartridge came from, of which nothing was loaded yet.
    ///
    /// * `verify`: how long it took to find and hash it
    fn of(reference: &str, verified: Verified, verify: Duration) -> Self {
        let cartridge = verified.cartridge();
        let commit = cartridge.commit();
        let path = Path::new(reference);
        Self {
            manifest: cartridge.manifest_id(),
            commit: commit.map(|(id, _)| id),
            name: reference.parse().ok(),
            probes: commit.map_or_else(Vec::new, |(_, commit)| commit.probes.clone()),
            file: is_cart_file(path).then(|| path.to_owned()),
            verified,
            verify,
            load: Duration::ZERO,
        }
    }
}

/// A commit to be made.
pub(crate) struct NewCommit {
    /// The content.
    pub(crate) manifest: ManifestId,
    /// What it was made from.
    pub(crate) parents: Vec<CommitId>,
    /// What made it.
    pub(crate) recipe: Recipe,
    /// Why, in words.
    pub(crate) message: String,
    /// Golden probes.
    pub(crate) probes: Vec<Probe>,
}

/// The tool's name and version, for recipes.
pub(crate) fn tool() -> &'static str {
    concat!("cart ", env!("CARGO_PKG_VERSION"))
}

/// Whether this is the path of a `.cart` file that is there.
pub(crate) fn is_cart_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cart") && path.is_file()
}

/// The cartridge that a REF means. A packed file is taken into the store for that.
pub(crate) fn open(context: &Context, reference: &str) -> Result<Cartridge, Failure> {
    let path = Path::new(reference);
    if path.extension().is_some_and(|extension| extension == "cart") {
        if is_low_rank(path).unwrap_or(false) {
            return Err(Failure::refused_with(
                format!("{reference} is a low-rank delta, no cartridge"),
                format!("add it to its base: cart apply BASE {reference} -t NAME"),
            ));
        }
        return match packed::open(path)? {
            Some(file) => packed::cartridge(context, &file),
            None => CartFile::open(path).map_err(Failure::refused),
        };
    }
    let store = context.store()?;
    let found = store.resolve(reference).map_err(Failure::refused)?;
    store.open_cartridge(&found).map_err(Failure::refused)
}

/// Opens and verifies: what an engine may load.
pub(crate) fn verified(context: &Context, reference: &str) -> Result<Verified, Failure> {
    verify(context, open(context, reference)?)
}

/// Verifies what is open.
pub(crate) fn verify(context: &Context, cartridge: Cartridge) -> Result<Verified, Failure> {
    let bar = Bar::new(context, "verifying");
    let options = VerifyOptions { threads: context.threads, ..VerifyOptions::default() };
    cartridge.verify(&options, &bar).map_err(Failure::refused)
}

/// Opens and verifies what is saved again without its model.
pub(crate) fn verified_origin(context: &Context, reference: &str) -> Result<LoadedFrom, Failure> {
    let began = Instant::now();
    let verified = verified(context, reference)?;
    Ok(LoadedFrom::of(reference, verified, began.elapsed()))
}

/// Opens, verifies and loads.
pub(crate) fn load(context: &Context, reference: &str) -> Result<(Agent, LoadedFrom), Failure> {
    load_with(context, reference, &load_options(context))
}

/// Opens, verifies and loads with these options.
pub(crate) fn load_with(
    context: &Context,
    reference: &str,
    options: &LoadOptions,
) -> Result<(Agent, LoadedFrom), Failure> {
    let began = Instant::now();
    let cartridge = open(context, reference)?;
    let bar = Bar::new(context, "verifying");
    let verify = VerifyOptions { threads: context.threads, ..VerifyOptions::default() };
    let prepared = Prepared::verify(cartridge, &verify, options.clone(), &bar);
    drop(bar);
    let prepared = prepared.map_err(Failure::refused)?;
    let verified = prepared.verified().clone();
    let verify = began.elapsed();
    let began = Instant::now();
    let agent = Agent::load_prepared(prepared).map_err(Failure::refused)?;
    let load = began.elapsed();
    let origin = LoadedFrom { load, ..LoadedFrom::of(reference, verified, verify) };
    Ok((agent, origin))
}

/// How this command's options load an agent.
pub(crate) fn load_options(context: &Context) -> LoadOptions {
    let threads = context.threads.and_then(std::num::NonZeroUsize::new);
    let Context { kernels, activations, device, precision, .. } = *context;
    LoadOptions { threads, kernels, activations, device, precision, ..LoadOptions::default() }
}

/// The memory of a cartridge, if it has one.
pub(crate) fn memory_of(cartridge: &Cartridge) -> Result<Option<UnifiedMemory>, Failure> {
    cart_engine::read_memory(cartridge).map_err(Failure::refused)
}

/// Makes a commit and moves the name to it. A name that points to the same content already, for a
/// commit that says nothing new, stays where it is.
pub(crate) fn commit(
    store: &Store,
    new: NewCommit,
    name: Option<&RefName>,
) -> Result<CommitId, Failure> {
    let current = match name {
        Some(name) => store.read_ref(name).map_err(Failure::refused)?,
        None => None,
    };
    let is_import = new.recipe.kind == "import";
    if let Some(current) = current
        && is_import
        && new.message.is_empty()
        && store.commit(&current).map_err(Failure::refused)?.manifest == new.manifest
    {
        return Ok(current);
    }
    let mut commit = Commit::new(new.manifest, now(), new.recipe);
    commit.parents = new.parents;
    if commit.parents.is_empty() {
        commit.parents.extend(current.filter(|_| is_import));
    }
    commit.message = new.message;
    commit.probes = new.probes;
    let id = store.put_commit(&commit).map_err(Failure::refused)?;
    if let Some(name) = name {
        let why = if commit.message.is_empty() { &commit.recipe.kind } else { &commit.message };
        store.update_ref(name, current, id, now(), why).map_err(Failure::refused)?;
    }
    Ok(id)
}

/// Moves a name to a commit; gives what it pointed to before.
pub(crate) fn name_commit(
    store: &Store,
    commit: CommitId,
    name: Option<&RefName>,
    message: &str,
) -> Result<Option<CommitId>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let current = store.read_ref(name).map_err(Failure::refused)?;
    if current != Some(commit) {
        store.update_ref(name, current, commit, now(), message).map_err(Failure::refused)?;
    }
    Ok(current)
}

/// The commit of a REF and its first parents, newest first.
pub(crate) fn ancestry(
    context: &Context,
    reference: &str,
    limit: usize,
) -> Result<Vec<(CommitId, Commit)>, Failure> {
    let cartridge = open(context, reference)?;
    let store = context.store()?;
    let mut chain = Vec::new();
    let mut next = cartridge.commit().map(|(id, commit)| (id, commit.clone()));
    while let Some((id, commit)) = next
        && chain.len() < limit
    {
        let parent = commit.parents.first().copied();
        chain.push((id, commit));
        // A .cart file carries one commit; its parents may be in no store of ours.
        next = match parent.map(|parent| (parent, store.commit(&parent))) {
            None | Some((_, Err(ObjectError::Absent { .. }))) => None,
            Some((parent, commit)) => Some((parent, commit.map_err(Failure::refused)?)),
        };
    }
    Ok(chain)
}

/// The commit of a REF and all that it came from, each before its parents, the newer ones first where that leaves
/// a choice.
pub(crate) fn ancestors(
    context: &Context,
    reference: &str,
    limit: usize,
) -> Result<Vec<(CommitId, Commit)>, Failure> {
    let cartridge = open(context, reference)?;
    let store = context.store()?;
    let Some((last, commit)) = cartridge.commit() else { return Ok(Vec::new()) };
    let mut commits = BTreeMap::from([(last, commit.clone())]);
    let mut waiting: Vec<CommitId> = commit.parents.clone();
    while let Some(id) = waiting.pop() {
        if commits.contains_key(&id) {
            continue;
        }
        // A .cart file carries one commit; its parents may be in no store of ours.
        match store.commit(&id) {
            Err(ObjectError::Absent { .. }) => {}
            commit => {
                let commit = commit.map_err(Failure::refused)?;
                waiting.extend(&commit.parents);
                commits.insert(id, commit);
            }
        }
    }
    let mut children: BTreeMap<CommitId, usize> = BTreeMap::new();
    for parent in commits.values().flat_map(|commit| distinct(&commit.parents)) {
        *children.entry(parent).or_default() += 1;
    }
    let mut ready = BTreeSet::from([(commit.time, last)]);
    let mut sorted = Vec::new();
    while let Some((_, id)) = ready.pop_last().filter(|_| sorted.len() < limit) {
        let commit = commits.remove(&id).expect("each is ready once");
        for parent in distinct(&commit.parents) {
            let left = children.get_mut(&parent).expect("it has this child");
            *left -= 1;
            if let Some(commit) = commits.get(&parent).filter(|_| *left == 0) {
                ready.insert((commit.time, parent));
            }
        }
        sorted.push((id, commit));
    }
    Ok(sorted)
}

fn distinct(parents: &[CommitId]) -> BTreeSet<CommitId> {
    parents.iter().copied().collect()
}

/// Refuses to overwrite, unless forced.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> Result<(), Failure> {
    if path.exists() && !force {
        return Err(Failure::refused(Exists { path: path.to_owned() }));
    }
    Ok(())
}

/// Writes a commit of the store as a `.cart` file; gives its size.
pub(crate) fn write_cart_file(
    context: &Context,
    store: &Store,
    commit: CommitId,
    path: &Path,
) -> Result<u64, Failure> {
    let cartridge = store.cartridge(commit).map_err(Failure::refused)?;
    write_cart(context, cartridge, path)
}

/// Verifies a cartridge and writes it as a `.cart` file; gives its size.
pub(crate) fn write_cart(
    context: &Context,
    cartridge: Cartridge,
    path: &Path,
) -> Result<u64, Failure> {
    let bar = Bar::new(context, "writing");
    let options = VerifyOptions { threads: context.threads, ..VerifyOptions::default() };
    let verified = cartridge.verify(&options, &bar).map_err(Failure::refused)?;
    verified.write_cart(path, &bar).map_err(Failure::refused)
}
