//! A memory's life, from its log.

use std::collections::{BTreeMap, BTreeSet};

use cart_memory::log::{Curve, LogError, LogStatistics, MemoryLog};
use cart_memory::{SlotRef, StoreKind, UnifiedMemory};

/// Most points in time at which slots are looked at.
const MOST_COLUMNS: usize = 96;
/// Most slots of a store that are drawn.
const MOST_ROWS: usize = 64;

/// What slots were worth over time, and what the log counts.
pub(super) struct Life {
    pub(super) records: usize,
    pub(super) statistics: LogStatistics,
    /// The slots that are drawn: short-term before long-term, the older first.
    pub(super) rows: Vec<SlotRef>,
    /// Slots that are too old to be drawn.
    pub(super) older: usize,
    /// Ticks, with what slots were worth then: σ(A) · energy · decay.
    pub(super) columns: BTreeMap<u64, BTreeMap<SlotRef, f32>>,
}

impl Life {
    /// The life that a log tells, and the memory that it leads to.
    pub(super) fn of(
        bytes: &[u8],
        base: Option<&UnifiedMemory>,
    ) -> Result<(Self, UnifiedMemory), LogError> {
        let log = MemoryLog::open(bytes)?;
        let ticks: BTreeSet<u64> =
            log.records.iter().filter_map(|record| record.input.at()).collect();
        let ticks = evenly(&ticks.into_iter().collect::<Vec<u64>>());
        let mut columns = BTreeMap::new();
        let memory = UnifiedMemory::replay_watched(&log, base, |memory| {
            if ticks.contains(&memory.now()) {
                columns.insert(memory.now(), worth(memory));
            }
        })?;
        let all: BTreeSet<SlotRef> = columns.values().flat_map(BTreeMap::keys).copied().collect();
        let mut rows = Vec::new();
        for store in [StoreKind::Stm, StoreKind::Ltm] {
            let slots: Vec<SlotRef> = all.iter().filter(|at| at.store == store).copied().collect();
            rows.extend_from_slice(&slots[slots.len().saturating_sub(MOST_ROWS)..]);
        }
        let statistics = LogStatistics::of(&log.records);
        let older = all.len() - rows.len();
        Ok((Self { records: log.records.len(), statistics, rows, older, columns }, memory))
    }

    /// The most that a slot was ever worth.
    pub(super) fn most(&self) -> f32 {
        self.columns.values().flat_map(BTreeMap::values).copied().fold(0.0, f32::max)
    }

    /// Whether no slot is gone, so that survival is 1 throughout.
    pub(super) fn all_live(&self) -> bool {
        let live = |curve: &Curve| curve.lifetimes.is_empty();
        live(&self.statistics.stm) && live(&self.statistics.ltm)
    }
}

fn worth(memory: &UnifiedMemory) -> BTreeMap<SlotRef, f32> {
    let weight = |(at, slot): (SlotRef, &cart_memory::Slot)| {
        let decay = slot.decay(at.store, memory.now(), memory.config());
        (at, slot.gated_energy() * decay)
    };
    memory.slots().map(weight).collect()
}

/// At most [`MOST_COLUMNS`] of these, the first and the last among them.
fn evenly(ticks: &[u64]) -> BTreeSet<u64> {
    let (all, most) = (ticks.len(), ticks.len().min(MOST_COLUMNS));
    (0..most).map(|column| ticks[column * (all - 1) / (most - 1).max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{MOST_COLUMNS, evenly};

    #[test]
    fn ticks_are_taken_evenly_from_the_first_to_the_last() {
        assert!(evenly(&[]).is_empty());
        assert_eq!(evenly(&[7]).into_iter().collect::<Vec<_>>(), [7]);
        assert_eq!(evenly(&[1, 5, 6]).into_iter().collect::<Vec<_>>(), [1, 5, 6]);
        let taken = evenly(&(10..10_000).collect::<Vec<_>>());
        assert_eq!(
            (taken.len(), taken.first(), taken.last()),
            (MOST_COLUMNS, Some(&10), Some(&9999))
        );
    }
}
