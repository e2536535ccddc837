//! The cartridges of a server beside its first one, loaded and unloaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Model, Moves, Parked};

/// The cartridges beside the first one.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    loaded: BTreeMap<String, Arc<Model>>,
    parked: BTreeMap<String, Arc<Parked>>,
    pub(super) moves: Moves,
}

impl Shelf {
    pub(super) fn is_empty(&self) -> bool {
        self.loaded.is_empty() && self.parked.is_empty()
    }

    pub(super) fn loaded(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.loaded.values()
    }

    /// What was unloaded under a name; it stays there until something is loaded under it.
    pub(super) fn parked(&self, name: &str) -> Option<Arc<Parked>> {
        self.parked.get(name).cloned()
    }

    pub(super) fn all_parked(&self) -> impl Iterator<Item = (&String, &Arc<Parked>)> {
        self.parked.iter()
    }

    pub(super) fn put(&mut self, model: Arc<Model>) {
        self.parked.remove(&model.name);
        self.loaded.insert(model.name.clone(), model);
    }

    pub(super) fn park(&mut self, name: String, parked: Parked) {
        self.parked.insert(name, Arc::new(parked));
    }

    /// Takes out the one that has been idle longest and at least so long: that no request holds or has open.
    pub(super) fn take_idle(&mut self, least: Duration) -> Option<Model> {
        // Nobody gets hold of one while the shelf is held.
        let free = self.loaded.iter().filter(|(_, model)| Arc::strong_count(model) == 1);
        let idle = free.filter_map(|(name, model)| Some((model.idle()?, name.clone())));
        let (_, name) = idle.filter(|(idle, _)| *idle >= least).max()?;
        Arc::into_inner(self.loaded.remove(&name)?)
    }
}
