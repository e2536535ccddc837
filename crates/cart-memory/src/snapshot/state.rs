//! The JSON half of a snapshot.

use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::slot::{Consolidation, Slot, SlotId, SlotValue, Validity};
use crate::surprise::SurpriseStatistics;
use crate::{Counters, MemoryConfig, Tick, UnifiedMemory};

/// The version of the state that this crate reads and writes.
pub(super) const VERSION: u32 = 1;

/// Everything but vectors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u32,
    pub(super) config: MemoryConfig,
    pub(super) now: Tick,
    pub(super) observed_at: Tick,
    pub(super) pruned_at: Tick,
    pub(super) next_slot: u64,
    pub(super) goal_steps: u64,
    pub(super) surprise: SurpriseStatistics,
    pub(super) counters: Counters,
    /// In order of position.
    pub(super) stm: Vec<SlotState>,
    /// In order of position.
    pub(super) ltm: Vec<SlotState>,
}

/// A slot without its vectors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotState {
    /// Its row in the store's tensors.
    pub(super) position: u32,
    pub(super) id: SlotId,
    pub(super) text: String,
    pub(super) token_ids: Vec<u32>,
    /// Whether it has token keys; then there is one for each token.
    pub(super) token_keys: bool,
    pub(super) source: String,
    pub(super) energy: f32,
    pub(super) gate: f32,
    pub(super) made: Tick,
    pub(super) refreshed: Tick,
    pub(super) read: Tick,
    pub(super) count: u64,
    pub(super) validity: Validity,
    /// Σ w of the observations in `key_sums`.
    pub(super) sum_weight: f64,
    /// How many observations are in `key_sums`.
    pub(super) sum_count: u64,
    pub(super) consolidation: Option<Consolidation>,
}

impl State {
    pub(super) fn of(memory: &UnifiedMemory) -> Self {
        Self {
            version: VERSION,
            config: memory.config.clone(),
            now: memory.now,
            observed_at: memory.observed_at,
            pruned_at: memory.pruned_at,
            next_slot: memory.next_slot,
            goal_steps: memory.goal.steps,
            surprise: memory.surprise,
            counters: memory.counters,
            stm: slots_of(&memory.stm),
            ltm: slots_of(&memory.ltm),
        }
    }
}

impl SlotState {
    fn of(position: usize, slot: &Slot) -> Self {
        let SlotValue { text, token_ids } = slot.value.clone();
        Self {
            position: position as u32,
            id: slot.id,
            text,
            token_ids,
            token_keys: !slot.token_keys.is_empty(),
            source: slot.source.clone(),
            energy: slot.energy,
            gate: slot.gate,
            made: slot.made,
            refreshed: slot.refreshed,
            read: slot.read,
            count: slot.count,
            validity: slot.validity,
            sum_weight: slot.statistics.weight,
            sum_count: slot.statistics.count,
            consolidation: slot.consolidation,
        }
    }
}

fn slots_of(bank: &Bank) -> Vec<SlotState> {
    bank.iter().map(|(position, slot)| SlotState::of(position, slot)).collect()
}
