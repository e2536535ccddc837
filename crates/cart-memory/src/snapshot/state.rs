//! The JSON half of a snapshot.

use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::config::is_default;
use crate::graph::{Activity, Graph, Link};
use crate::slot::{Consolidation, Slot, SlotId, SlotValue, Validity};
use crate::surprise::SurpriseStatistics;
use crate::{Counters, MemoryConfig, Tick, UnifiedMemory};

/// The version of the state that this crate reads and writes.
///
/// A state is written in the lowest version that holds it: without later rules, links, goal vectors
/// and counts, a memory has the bytes that it had in version 1.
pub(super) const VERSION: u32 = 2;

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
    /// Links and activity, where there are any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) graph: Option<GraphState>,
    /// Whether the tensor `prompt` is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) goal_prompt: bool,
    /// In order of position.
    pub(super) stm: Vec<SlotState>,
    /// In order of position.
    pub(super) ltm: Vec<SlotState>,
}

/// The association graph.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphState {
    /// In order of both ends.
    pub(super) links: Vec<Link>,
    pub(super) current: Activity,
    pub(super) previous: Activity,
    pub(super) decayed_at: Tick,
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
    /// How many goal vectors it has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) goals: u32,
}

impl State {
    pub(super) fn of(memory: &UnifiedMemory) -> Self {
        let graph = (!memory.graph.is_empty()).then(|| GraphState::of(&memory.graph));
        let mut state = Self {
            version: VERSION,
            graph,
            goal_prompt: memory.goal.prompt.is_some(),
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
        };
        state.version = state.lowest_version();
        state
    }

    /// The lowest version that holds it.
    pub(super) fn lowest_version(&self) -> u32 {
        let later = self.config.has_later_rules()
            || self.counters.has_later_counts()
            || self.graph.is_some()
            || self.goal_prompt
            || self.stm.iter().chain(&self.ltm).any(|slot| slot.goals > 0);
        if later { VERSION } else { 1 }
    }
}

impl GraphState {
    fn of(graph: &Graph) -> Self {
        Self {
            links: graph.links().collect(),
            current: graph.current.clone(),
            previous: graph.previous.clone(),
            decayed_at: graph.decayed_at,
        }
    }
}

impl SlotState {
    pub(super) fn of(position: usize, slot: &Slot) -> Self {
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
            goals: slot.goals.len() as u32,
        }
    }
}

fn slots_of(bank: &Bank) -> Vec<SlotState> {
    bank.iter().map(|(position, slot)| SlotState::of(position, slot)).collect()
}
