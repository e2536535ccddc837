//! By text: the other model is told what the memory says.

use std::collections::BTreeMap;

use cart_memory::{GoalRelocated, Relocated, SlotValue, UnifiedMemory};

use super::{MigrationError, check};
use crate::agent::Agent;
use crate::memory_loop::Reading;

/// A memory in the space of an agent's model, which reads every text alone, as at the beginning of a context. Of a memory without
/// slots, settings, counters and statistics move.
///
/// # Errors
/// The memory is of that space already or has a goal and no slots, a slot has no text, or the model can't read one.
pub fn migrate_by_text(
    memory: &UnifiedMemory,
    to: &Agent,
) -> Result<UnifiedMemory, MigrationError> {
    check(memory, to)?;
    Ok(relocated(memory, to)?.0)
}

/// The memory as `to` would have been told it.
pub(super) fn relocated(
    memory: &UnifiedMemory,
    to: &Agent,
) -> Result<(UnifiedMemory, GoalRelocated), MigrationError> {
    // What is in both stores is read once.
    let mut read: BTreeMap<&str, Reading> = BTreeMap::new();
    for (at, slot) in memory.slots() {
        let text = slot.value.text.as_str();
        if !read.contains_key(text) {
            let reading = to.read_alone(text);
            read.insert(text, reading.map_err(|source| MigrationError::Slot { slot: at, source })?);
        }
    }
    memory.relocated(to.space(), to.normalization()?, |_, slot| {
        let Reading { tokens, rows, key, .. } = read[slot.value.text.as_str()].clone();
        let token_ids = tokens.into_iter().map(|(token, _)| token).collect();
        let value = SlotValue { token_ids, text: slot.value.text.clone() };
        Ok(Relocated { mean: key.clone(), key, value, token_keys: rows })
    })
}
