//! What became of a cartridge, saved as a new commit on top of where it came from.

use cart_engine::{SaveError, SavedSession, with_memory, with_session};
use cart_format::{ManifestId, Recipe};
use cart_memory::UnifiedMemory;
use cart_store::{RefName, Silent, Store};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};

/// What is kept beside the weights.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'k> {
    /// The memory, in place of the one that the cartridge has.
    pub(crate) memory: Option<&'k UnifiedMemory>,
    /// A session to go on with.
    pub(crate) session: Option<&'k SavedSession>,
}

/// Where it was saved.
#[derive(Serialize)]
pub(crate) struct Saved {
    pub(crate) name: String,
    pub(crate) manifest: String,
    commit: String,
    /// What the saved memory is; none where there is no memory.
    pub(crate) memory_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<SessionReport>,
}

/// The session that was saved.
#[derive(Serialize)]
pub(crate) struct SessionReport {
    pub(crate) positions: usize,
    pub(crate) bytes: u64,
}

impl Saved {
    /// What people are told.
    pub(crate) fn said(&self) -> String {
        format!("saved {}  sha256:{}", self.name, self.manifest)
    }
}

/// Makes a commit and lets the name point to it.
///
/// * `recipe`: what was done; the tool, where it was done and how much is remembered are added
pub(crate) fn save(
    context: &Context,
    origin: &LoadedFrom,
    kept: Kept<'_>,
    name: &RefName,
    recipe: Recipe,
) -> Result<Saved, Failure> {
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let manifest = put(&store, origin, kept)?;
    let slots = kept.memory.map(UnifiedMemory::report);
    let slots = slots.map_or((0, 0), |report| (report.stm.slots, report.ltm.slots));
    let session = kept
        .session
        .map(|session| SessionReport { positions: session.positions(), bytes: session.bytes() });
    let recipe = recipe
        .with("tool", history::tool())
        .with("from", Value::from(origin.manifest.hex()))
        .with("stm_slots", slots.0)
        .with("ltm_slots", slots.1);
    let recipe = match &session {
        Some(session) => recipe.with("session_positions", session.positions as u64),
        None => recipe,
    };
    let new = history::NewCommit {
        manifest,
        parents: origin.commit.into_iter().collect(),
        recipe,
        message: String::new(),
        probes: origin.probes.clone(),
    };
    let commit = history::commit(&store, new, Some(name))?;
    drop(held);
    let (name, manifest, commit) = (name.to_string(), manifest.hex(), commit.hex());
    let memory_id = kept.memory.map(|memory| memory.snapshot().id().hex());
    Ok(Saved { name, manifest, commit, memory_id, session })
}

/// Puts what is kept into the store, and what it came from as well if that was a file.
fn put(store: &Store, origin: &LoadedFrom, kept: Kept<'_>) -> Result<ManifestId, Failure> {
    if kept.memory.is_none() && kept.session.is_none() {
        return Err(Failure::refused(SaveError::NoMemory));
    }
    if let Some(file) = &origin.file {
        store.import_cart(file, &Silent).map_err(Failure::refused)?;
    }
    let mut manifest = origin.verified.manifest().clone();
    if let Some(memory) = kept.memory {
        manifest = with_memory(&manifest, memory, store).map_err(Failure::refused)?.0;
    }
    if let Some(session) = kept.session {
        manifest = with_session(&manifest, session, store).map_err(Failure::refused)?.0;
    }
    store.put_manifest(&manifest).map_err(Failure::refused)
}
