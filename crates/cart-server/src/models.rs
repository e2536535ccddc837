//! The cartridges that a server answers with, by name.

mod shelf;

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cart_engine::runtime::{Parked, Runtime, RuntimeHandle, RuntimeOptions, RuntimeState};
use cart_store::Store;

use shelf::Shelf;

use crate::error::ApiError;

/// Shortest beginning of an id that names a cartridge.
const LEAST_ID: usize = 6;
/// How long a cartridge that there is no room for waits until another one is idle.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);

/// A cartridge that is loaded, with the token loop that runs it.
#[derive(Debug)]
pub(crate) struct Model {
    /// What it was started as: a swap changes what runs under it, not the name.
    name: String,
    handle: RuntimeHandle,
    /// None where the runtime is somebody else's.
    runtime: Option<Runtime>,
    used: Mutex<Instant>,
}

impl Model {
    fn new(name: &str, handle: RuntimeHandle, runtime: Option<Runtime>) -> Arc<Self> {
        let (name, used) = (name.to_owned(), Mutex::new(Instant::now()));
        Arc::new(Self { name, handle, runtime, used })
    }

    /// The means to talk to its token loop.
    pub(crate) fn runtime(&self) -> &RuntimeHandle {
        &self.handle
    }

    fn touch(&self) {
        *hold(&self.used) = Instant::now();
    }

    /// For how long nobody has asked it; none while a request is open.
    fn idle(&self) -> Option<Duration> {
        (self.handle.open_requests() == 0).then(|| hold(&self.used).elapsed())
    }

    /// Whether a request that says this means it.
    fn is_called(&self, model: &str) -> bool {
        let active = self.handle.state().active.clone();
        let by_id = model.len() >= LEAST_ID && active.manifest.hex().starts_with(model);
        model == self.name || model == active.name || by_id
    }
}

/// When cartridges are loaded and unloaded.
#[derive(Clone, Debug, Default)]
pub struct ModelRules {
    /// Whether a cartridge of the store is loaded when a request names it.
    pub on_demand: bool,
    /// After how long without a request all but the first are unloaded; not for that reason where there is no time.
    pub idle_unload: Option<Duration>,
    /// How cartridges are loaded.
    pub options: RuntimeOptions,
}

/// The cartridges that a server answers with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Models(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    first: Arc<Model>,
    rules: ModelRules,
    /// The others.
    shelf: Mutex<Shelf>,
    /// Held by whoever loads or unloads, one at a time, so that nothing is loaded twice.
    loading: Mutex<()>,
}

/// A cartridge in a list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// What runs; none where it is unloaded.
    pub(crate) state: Option<Arc<RuntimeState>>,
    /// What ran when it was unloaded.
    pub(crate) id: String,
    pub(crate) manifest: cart_format::ManifestId,
    pub(crate) generation: u64,
}

/// What a server has loaded and unloaded since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moves {
    pub(crate) loaded: u64,
    pub(crate) unloaded: u64,
}

impl Models {
    /// One cartridge, which answers whatever it is called.
    pub fn one(runtime: RuntimeHandle) -> Self {
        let name = runtime.state().active.name.clone();
        Self::new(Model::new(&name, runtime, None), Vec::new(), ModelRules::default())
    }

    /// Several cartridges, and what is done about those that are named besides.
    ///
    /// * `first`: what answers requests that name none; it is never unloaded, and stays its caller's
    pub fn several(
        first: (&str, RuntimeHandle),
        others: Vec<(String, Runtime)>,
        rules: ModelRules,
    ) -> Self {
        Self::new(Model::new(first.0, first.1, None), others, rules)
    }

    fn new(first: Arc<Model>, others: Vec<(String, Runtime)>, rules: ModelRules) -> Self {
        let mut shelf = Shelf::default();
        for (name, runtime) in others {
            shelf.put(Model::new(&name, runtime.handle(), Some(runtime)));
        }
        Self(Arc::new(Shared { first, rules, shelf: Mutex::new(shelf), loading: Mutex::new(()) }))
    }

    /// What answers requests that name none.
    pub(crate) fn first(&self) -> &Arc<Model> {
        &self.0.first
    }

    /// Whether a name makes no difference.
    fn is_one(&self) -> bool {
        !self.0.rules.on_demand && hold(&self.0.shelf).is_empty()
    }

    /// Whether a cartridge of the store is loaded when a request names it.
    pub(crate) fn loads(&self) -> bool {
        self.0.rules.on_demand
    }

    /// What a request means, if that is loaded.
    pub(crate) fn loaded(&self, model: Option<&str>) -> Option<Arc<Model>> {
        let first = &self.0.first;
        let Some(model) = model else { return Some(Arc::clone(first)) };
        let shelf = hold(&self.0.shelf);
        let found = std::iter::once(first)
            .chain(shelf.loaded())
            .find(|one| one.name == model)
            .or_else(|| {
                std::iter::once(first).chain(shelf.loaded()).find(|one| one.is_called(model))
            })
            .cloned();
        drop(shelf);
        let found = found.or_else(|| self.is_one().then(|| Arc::clone(first)))?;
        found.touch();
        Some(found)
    }

    /// What a change of what runs means: a name has to be right for that.
    pub(crate) fn named(&self, model: Option<&str>) -> Result<Arc<Model>, ApiError> {
        let found = self.loaded(model).filter(|one| model.is_none_or(|model| one.is_called(model)));
        found.ok_or_else(|| unknown(model.unwrap_or_default()))
    }

    /// Loads what a request names. Blocks.
    ///
    /// # Errors
    /// There is no such cartridge, no room for it, or it can't be used.
    pub(crate) fn load(&self, store: &Store, model: &str) -> Result<Arc<Model>, ApiError> {
        let _one_at_a_time = hold(&self.0.loading);
        if let Some(found) = self.loaded(Some(model)) {
            return Ok(found);
        }
        let options = || self.0.rules.options.clone();
        let parked = hold(&self.0.shelf).parked(model);
        if let Some(parked) = parked {
            let runtime = self.with_room(model, || parked.resume(options()))?;
            return Ok(self.put(model, runtime));
        }
        let found = store.resolve(model).ok().and_then(|found| store.open_cartridge(&found).ok());
        let cartridge = found.ok_or_else(|| unknown(model))?;
        // Under another name it may run already.
        if let Some(found) = self.loaded(Some(&cartridge.manifest_id().hex())) {
            return Ok(found);
        }
        let start = || Runtime::start(model, cartridge.clone(), options());
        let runtime = self.with_room(model, start)?;
        Ok(self.put(model, runtime))
    }

    /// Starts something; where there is no room for it, those go that nobody has asked for longest.
    fn with_room(
        &self,
        model: &str,
        start: impl Fn() -> Result<Runtime, cart_engine::runtime::RuntimeError>,
    ) -> Result<Runtime, ApiError> {
        use cart_engine::runtime::RuntimeError;
        let begun = Instant::now();
        loop {
            match start() {
                Ok(runtime) => return Ok(runtime),
                Err(RuntimeError::Room { .. }) if self.unload(Duration::ZERO) => {}
                // One that has just answered may be idle in a moment.
                Err(RuntimeError::Room { .. })
                    if self.has_others() && begun.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(LOOK);
                }
                Err(source) => {
                    let (model, source) = (model.chars().take(80).collect(), Box::new(source));
                    return Err(ApiError::Load { model, source });
                }
            }
        }
    }

    /// Whether anything is loaded that may be unloaded once it is idle.
    fn has_others(&self) -> bool {
        hold(&self.0.shelf).loaded().next().is_some()
    }

    fn put(&self, name: &str, runtime: Runtime) -> Arc<Model> {
        let model = Model::new(name, runtime.handle(), Some(runtime));
        let mut shelf = hold(&self.0.shelf);
        shelf.put(Arc::clone(&model));
        shelf.moves.loaded += 1;
        model
    }

    /// Unloads what has been idle for long enough, if it may be. Blocks.
    pub(crate) fn unload_idle(&self) {
        let Some(idle) = self.0.rules.idle_unload else { return };
        let _one_at_a_time = hold(&self.0.loading);
        while self.unload(idle) {}
    }

    /// Unloads the one that has been idle longest; false where none has been for so long.
    fn unload(&self, least: Duration) -> bool {
        let Some(model) = hold(&self.0.shelf).take_idle(least) else { return false };
        let Model { name, runtime, handle, used: _ } = model;
        drop(handle);
        let parked = runtime.and_then(|runtime| runtime.park().ok());
        let mut shelf = hold(&self.0.shelf);
        shelf.moves.unloaded += 1;
        if let Some(parked) = parked {
            shelf.park(name, parked);
        }
        true
    }

    /// Every cartridge that is loaded, the first one first, and those that were unloaded.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let shelf = hold(&self.0.shelf);
        let loaded = std::iter::once(&self.0.first).chain(shelf.loaded()).map(|model| {
            let state = model.handle.state();
            Listed {
                name: model.name.clone(),
                id: state.active.name.clone(),
                manifest: state.active.manifest,
                generation: state.active.generation,
                state: Some(state),
            }
        });
        let parked = shelf.all_parked().map(|(name, parked)| Listed {
            name: name.clone(),
            id: parked.name().to_owned(),
            manifest: parked.manifest(),
            generation: parked.generation(),
            state: None,
        });
        loaded.chain(parked).collect()
    }

    pub(crate) fn moves(&self) -> Moves {
        hold(&self.0.shelf).moves
    }

    /// What all of them take together, and may take.
    pub(crate) fn taken(&self) -> u64 {
        self.0.first.handle.account().taken()
    }

    /// Every token loop.
    pub(crate) fn runtimes(&self) -> Vec<RuntimeHandle> {
        let shelf = hold(&self.0.shelf);
        let all = std::iter::once(&self.0.first).chain(shelf.loaded());
        all.map(|model| model.handle.clone()).collect()
    }
}

impl Listed {
    /// Whether a request that says this means it.
    pub(crate) fn is_called(&self, model: &str) -> bool {
        let by_id = model.len() >= LEAST_ID && self.manifest.hex().starts_with(model);
        model == self.name || model == self.id || by_id
    }
}

pub(crate) fn unknown(model: &str) -> ApiError {
    ApiError::NoModel { model: model.chars().take(80).collect() }
}

/// What these locks hold is whole at any time.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
