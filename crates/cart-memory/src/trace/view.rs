//! A memory's whole state in the words of the trace format.

use serde::Serialize;

use crate::slot::{Consolidation, Slot, SlotId, StoreKind};
use crate::surprise::SurpriseStatistics;
use crate::{Counters, Tick, UnifiedMemory};

/// Everything in a memory that an operation can change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryView {
    /// The latest tick.
    pub now: Tick,
    /// Short-term slots in order of position.
    pub stm: Vec<SlotView>,
    /// Long-term slots in order of position.
    pub ltm: Vec<SlotView>,
    /// The goal, `[dim]`.
    pub goal: Vec<f32>,
    /// Its length.
    pub goal_norm: f32,
    /// Entries that have pulled it.
    pub goal_steps: u64,
    /// Where the prompt points.
    pub goal_prompt: Option<Vec<f32>>,
    /// Running statistics of surprise.
    pub surprise: SurpriseStatistics,
    /// `[from, to, strength]` of every link.
    pub links: Vec<(SlotId, SlotId, f32)>,
    /// How often things have happened.
    pub counters: Counters,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotView {
    /// Its place.
    pub position: usize,
    /// Its id.
    pub id: SlotId,
    /// What it says.
    pub text: String,
    /// Its raw key, `[dim]`.
    pub key: Vec<f32>,
    /// Its energy.
    pub energy: f32,
    /// Its gate `A`.
    pub gate: f32,
    /// σ(A) · energy.
    pub gated_energy: f32,
    /// `ln(σ(A) · energy · decay + ε)` at `now`.
    pub bias: f32,
    /// When it was made.
    pub made: Tick,
    /// When it was written last.
    pub refreshed: Tick,
    /// When it was read last.
    pub read: Tick,
    /// Observations in it.
    pub count: u64,
    /// Σ w of its sums.
    pub sum_weight: f64,
    /// Observations in its sums.
    pub sum_count: u64,
    /// When it stopped holding.
    pub until: Option<Tick>,
    /// What took its place.
    pub superseded_by: Option<SlotId>,
    /// Whether it was offered to long-term memory.
    pub consolidation: Option<Consolidation>,
    /// Its goal vectors.
    pub goals: Vec<Vec<f32>>,
}

impl UnifiedMemory {
    /// The whole state, for people and for comparison with other implementations.
    pub fn view(&self) -> MemoryView {
        MemoryView {
            now: self.now,
            stm: self.slot_views(StoreKind::Stm),
            ltm: self.slot_views(StoreKind::Ltm),
            goal: self.goal.vector().to_vec(),
            goal_norm: self.goal.norm(),
            goal_steps: self.goal.steps(),
            goal_prompt: self.goal.prompt().map(<[f32]>::to_vec),
            surprise: self.surprise,
            links: self.links().map(|link| (link.from, link.to, link.strength)).collect(),
            counters: self.counters,
        }
    }

    fn slot_views(&self, store: StoreKind) -> Vec<SlotView> {
        let bias = |slot: &Slot| slot.bias(store, self.now, &self.config);
        let view = |(position, slot): (usize, &Slot)| SlotView {
            position,
            id: slot.id,
            text: slot.value.text.clone(),
            key: slot.key.clone(),
            energy: slot.energy,
            gate: slot.gate,
            gated_energy: slot.gated_energy(),
            bias: bias(slot),
            made: slot.made,
            refreshed: slot.refreshed,
            read: slot.read,
            count: slot.count,
            sum_weight: slot.statistics.weight,
            sum_count: slot.statistics.count,
            until: slot.validity.until,
            superseded_by: slot.validity.superseded_by,
            consolidation: slot.consolidation,
            goals: slot.goals.clone(),
        };
        self.bank(store).iter().map(view).collect()
    }
}
