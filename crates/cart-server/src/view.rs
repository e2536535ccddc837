//! What there is to see: the cartridge that runs and where it comes from, its memory, and the names of the store.

use axum::Json;
use axum::extract::State;
use cart_engine::runtime::Resident;
use cart_format::{ArchSpec, Commit, CommitId, ManifestId};
use cart_memory::{MemoryReport, SlotReport, StoreKind, UnifiedMemory};
use cart_store::{ObjectError, Store};
use serde::Serialize;

use crate::app::AppState;
use crate::error::ApiError;

/// Slots of a store that are told, those that were written last.
const SLOTS: usize = 500;
/// Links that are told, the strongest.
const LINKS: usize = 200;
/// Slots that the goal points to.
const NEAREST: usize = 5;
/// Commits of a history.
const COMMITS: usize = 50;

/// `GET /cart/memory`.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryView {
    generation: u64,
    manifest: ManifestId,
    memory: Option<MemoryReport>,
    slots: Vec<SlotReport>,
    left_out: usize,
    goal: Option<GoalView>,
    links: Vec<LinkView>,
}

#[derive(Debug, Serialize)]
struct GoalView {
    norm: f32,
    cap: f32,
    steps: u64,
    nearest: Vec<NearView>,
}

#[derive(Debug, Serialize)]
struct NearView {
    store: StoreKind,
    slot: u64,
    cosine: f32,
    text: String,
}

#[derive(Debug, Serialize)]
struct LinkView {
    from: u64,
    to: u64,
    strength: f32,
}

/// `GET /cart/cartridge`.
#[derive(Debug, Serialize)]
pub(crate) struct CartridgeView {
    name: String,
    manifest: ManifestId,
    generation: u64,
    family: Option<String>,
    layers: Option<usize>,
    hidden_size: Option<u64>,
    context_length: usize,
    parameters: u64,
    dtypes: Vec<String>,
    tensors: usize,
    bytes: u64,
    chat_template: bool,
    history: Vec<CommitView>,
}

#[derive(Debug, Serialize)]
struct CommitView {
    commit: CommitId,
    manifest: ManifestId,
    time: u64,
    recipe: String,
    message: String,
    probes: usize,
    parents: usize,
}

/// `GET /cart/names`.
#[derive(Debug, Serialize)]
pub(crate) struct NamesView {
    names: Vec<NameView>,
}

#[derive(Debug, Serialize)]
struct NameView {
    name: String,
    commit: CommitId,
    manifest: Option<ManifestId>,
    bytes: Option<u64>,
    memory: bool,
    time: Option<u64>,
    /// Why it can't be opened.
    error: Option<String>,
}

pub(crate) async fn memory(State(state): State<AppState>) -> Result<Json<MemoryView>, ApiError> {
    on_a_thread(move || {
        let active = state.runtime().active()?;
        Ok(MemoryView::of(&active))
    })
    .await
}

pub(crate) async fn cartridge(
    State(state): State<AppState>,
) -> Result<Json<CartridgeView>, ApiError> {
    on_a_thread(move || {
        let active = state.runtime().active()?;
        Ok(CartridgeView::of(&active, state.store()))
    })
    .await
}

pub(crate) async fn names(State(state): State<AppState>) -> Result<Json<NamesView>, ApiError> {
    on_a_thread(move || {
        let store = state.store();
        let refs = store.list_refs().map_err(|source| ApiError::Names { source })?;
        Ok(NamesView {
            names: refs
                .into_iter()
                .map(|(name, commit)| NameView::of(store, name.to_string(), commit))
                .collect(),
        })
    })
    .await
}

/// Reads files away from the threads that answer.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::TaskLost)?.map(Json)
}

impl MemoryView {
    fn of(active: &Resident) -> Self {
        let (generation, manifest) = (active.generation(), active.manifest());
        let Some(memory) = active.agent().memory() else {
            let (memory, slots, left_out, goal, links) = (None, Vec::new(), 0, None, Vec::new());
            return Self { generation, manifest, memory, slots, left_out, goal, links };
        };
        let of = |store| memory.slot_reports(store, SLOTS);
        let slots = [of(StoreKind::Stm), of(StoreKind::Ltm)].concat();
        Self {
            generation,
            manifest,
            memory: Some(memory.report()),
            left_out: memory.slots().count() - slots.len(),
            slots,
            goal: Some(GoalView::of(&memory)),
            links: links(&memory),
        }
    }
}

impl GoalView {
    fn of(memory: &UnifiedMemory) -> Self {
        let nearest = memory.wanted(NEAREST).into_iter().map(|hit| NearView {
            store: hit.slot.store,
            slot: hit.slot.id.number(),
            cosine: hit.cosine,
            text: hit.text,
        });
        Self {
            norm: memory.goal().norm(),
            cap: memory.config().goal_cap,
            steps: memory.goal().steps(),
            nearest: nearest.collect(),
        }
    }
}

/// The strongest links between slots.
fn links(memory: &UnifiedMemory) -> Vec<LinkView> {
    let mut links: Vec<_> = memory.links().collect();
    links.sort_by(|a, b| {
        b.strength.total_cmp(&a.strength).then((a.from, a.to).cmp(&(b.from, b.to)))
    });
    let view = |link: cart_memory::Link| LinkView {
        from: link.from.number(),
        to: link.to.number(),
        strength: link.strength,
    };
    links.into_iter().take(LINKS).map(view).collect()
}

impl CartridgeView {
    fn of(active: &Resident, store: &Store) -> Self {
        let agent = active.agent();
        let manifest = agent.manifest();
        let spec = manifest.model.architecture.as_ref();
        let spec = spec.and_then(|value| ArchSpec::from_value(value).ok());
        let tensors = &manifest.model.tensors;
        let mut dtypes: Vec<_> = tensors.values().map(|tensor| tensor.dtype).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        Self {
            name: active.name().to_owned(),
            manifest: active.manifest(),
            generation: active.generation(),
            family: spec.as_ref().map(|spec| spec.family.clone()),
            layers: spec.as_ref().map(|spec| spec.layers.len()),
            hidden_size: spec.as_ref().map(|spec| spec.hidden_size),
            context_length: agent.context_length(),
            parameters: tensors.values().map(|one| one.shape.iter().product::<u64>()).sum(),
            dtypes: dtypes.iter().map(ToString::to_string).collect(),
            tensors: tensors.len(),
            bytes: manifest.total_bytes(),
            chat_template: agent.chat_template().is_some(),
            history: history(store, active.name(), active.manifest()),
        }
    }
}

/// What the cartridge was made from, newest first: first parents, from the commit of it that its name leads to. Empty
/// where the store has none, or can't read it: a page goes without.
fn history(store: &Store, name: &str, manifest: ManifestId) -> Vec<CommitView> {
    let named = store.resolve(name).and_then(|found| store.open_cartridge(&found));
    let mut next = named.ok().and_then(|cartridge| cartridge.commit().map(|(id, _)| id));
    let mut commits = Vec::new();
    while let Some(id) = next
        && commits.len() < COMMITS
    {
        let Ok(commit) = store.commit(&id) else { break };
        next = commit.parents.first().copied();
        // The name may have gone on since the cartridge was loaded.
        if !commits.is_empty() || commit.manifest == manifest {
            commits.push(CommitView::of(id, commit));
        }
    }
    commits
}

impl CommitView {
    fn of(id: CommitId, commit: Commit) -> Self {
        Self {
            commit: id,
            manifest: commit.manifest,
            time: commit.time,
            recipe: commit.recipe.kind,
            message: commit.message,
            probes: commit.probes.len(),
            parents: commit.parents.len(),
        }
    }
}

impl NameView {
    fn of(store: &Store, name: String, commit: CommitId) -> Self {
        let opened: Result<_, ObjectError> = store.cartridge(commit);
        let error = opened.as_ref().err().map(ToString::to_string);
        let cartridge = opened.ok();
        let manifest = cartridge.as_ref().map(cart_store::Cartridge::manifest);
        Self {
            name,
            commit,
            manifest: cartridge.as_ref().map(cart_store::Cartridge::manifest_id),
            bytes: manifest.map(cart_format::Manifest::total_bytes),
            memory: manifest.is_some_and(|manifest| manifest.memory.is_some()),
            time: cartridge.as_ref().and_then(|one| one.commit()).map(|(_, commit)| commit.time),
            error,
        }
    }
}
