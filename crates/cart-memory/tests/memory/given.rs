//! Memories and observations that the tests begin from.

use cart_format::SpaceId;
use cart_memory::{
    MemoryConfig, MemoryEvent, Normalization, Observation, SlotId, SlotRef, StoreKind,
    UnifiedMemory,
};

/// A memory of raw cosines.
pub(crate) fn memory(dim: usize, config: MemoryConfig) -> UnifiedMemory {
    let normalization = Normalization::identity(dim).unwrap();
    UnifiedMemory::new(SpaceId::of(b"space"), normalization, config).unwrap()
}

/// Settings under which the observer never acts by itself.
pub(crate) fn quiet() -> MemoryConfig {
    MemoryConfig { observer_interval: 1 << 40, prune_interval: 1 << 40, ..Default::default() }
}

/// Settings under which the observer acts at every tick.
pub(crate) fn eager() -> MemoryConfig {
    MemoryConfig { observer_interval: 1, prune_interval: 1, ..Default::default() }
}

/// A text with a key and an energy; its tokens are its bytes.
pub(crate) fn seen(text: &str, key: &[f32], energy: f32) -> Observation {
    Observation {
        key: key.to_vec(),
        token_keys: Vec::new(),
        token_ids: text.bytes().map(u32::from).collect(),
        text: text.to_owned(),
        surprise: Vec::new(),
        energy,
        source: "test".to_owned(),
    }
}

/// As [`seen`], with the hidden state at each token, `[tokens, dim]`.
pub(crate) fn spanned(text: &str, key: &[f32], rows: &[&[f32]]) -> Observation {
    Observation { token_keys: rows.concat(), ..seen(text, key, 1.0) }
}

/// The text of every slot of a store, in order of position.
pub(crate) fn texts(memory: &UnifiedMemory, store: StoreKind) -> Vec<&str> {
    memory
        .slots()
        .filter(|(at, _)| at.store == store)
        .map(|(_, slot)| slot.value.text.as_str())
        .collect()
}

/// The slot that says a text.
pub(crate) fn find(memory: &UnifiedMemory, store: StoreKind, text: &str) -> SlotRef {
    memory
        .slots()
        .find(|(at, slot)| at.store == store && slot.value.text == text)
        .map(|(at, _)| at)
        .unwrap()
}

/// The short-term slots that were consolidated, in order.
pub(crate) fn consolidated(events: &[MemoryEvent]) -> Vec<SlotId> {
    events
        .iter()
        .filter_map(|event| match event {
            MemoryEvent::Consolidated { from, .. } => Some(*from),
            _ => None,
        })
        .collect()
}
