//! A memory in numbers, for people and for `--json`.

use cart_format::SpaceId;
use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::surprise::SurpriseStatistics;
use crate::{Counters, Tick, UnifiedMemory};

/// A memory in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The space of its vectors.
    pub space: SpaceId,
    /// Values in a key.
    pub dim: usize,
    /// The latest tick.
    pub now: Tick,
    /// Whether nothing in it could reach the output.
    pub empty: bool,
    /// Short-term memory.
    pub stm: StoreReport,
    /// Long-term memory.
    pub ltm: StoreReport,
    /// The goal's length.
    pub goal_norm: f32,
    /// Entries that have pulled the goal.
    pub goal_steps: u64,
    /// Running statistics of surprise.
    pub surprise: SurpriseStatistics,
    /// How often things have happened.
    pub counters: Counters,
}

/// One store in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Slots in use.
    pub slots: usize,
    /// Slots there are.
    pub capacity: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Tokens whose hidden state is kept.
    pub token_keys: usize,
    /// Energies; none where there are no slots.
    pub energy: Option<Spread>,
    /// Gated energies, σ(A) · energy; none where there are no slots.
    pub gated_energy: Option<Spread>,
}

/// Smallest, mean and largest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub least: f32,
    /// The mean.
    pub mean: f32,
    /// The largest.
    pub most: f32,
}

impl UnifiedMemory {
    /// The memory in numbers.
    pub fn report(&self) -> MemoryReport {
        MemoryReport {
            space: self.space,
            dim: self.dim(),
            now: self.now,
            empty: self.is_empty(),
            stm: StoreReport::of(&self.stm),
            ltm: StoreReport::of(&self.ltm),
            goal_norm: self.goal.norm(),
            goal_steps: self.goal.steps(),
            surprise: self.surprise,
            counters: self.counters,
        }
    }
}

impl StoreReport {
    fn of(bank: &Bank) -> Self {
        let slots = || bank.iter().map(|(_, slot)| slot);
        Self {
            slots: bank.len(),
            capacity: bank.capacity(),
            tokens: slots().map(|slot| slot.value.token_ids.len()).sum(),
            token_keys: slots().map(|slot| slot.token_keys.len()).sum(),
            energy: Spread::of(slots().map(|slot| slot.energy)),
            gated_energy: Spread::of(slots().map(crate::Slot::gated_energy)),
        }
    }
}

impl Spread {
    pub(crate) fn of(numbers: impl Iterator<Item = f32>) -> Option<Self> {
        let numbers: Vec<f32> = numbers.collect();
        let sum: f64 = numbers.iter().map(|&number| f64::from(number)).sum();
        Some(Self {
            least: numbers.iter().copied().reduce(f32::min)?,
            mean: (sum / numbers.len() as f64) as f32,
            most: numbers.iter().copied().reduce(f32::max)?,
        })
    }
}
