//! What a log says about a memory's life: energies, lifetimes, writes, reads and the goal's way.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LogRecord;
use crate::event::{Intake, MemoryEvent, Share};
use crate::slot::{SlotId, SlotRef, StoreKind};
use crate::{Spread, Tick};

/// A memory's life in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogStatistics {
    /// Records.
    pub records: u64,
    /// First and last tick that the log names; 0 where it names none.
    pub ticks: (Tick, Tick),
    /// Energy of the slot that each observation went into; none without observations.
    pub energy: Option<Spread>,
    /// The same over time: tick and energy.
    pub energy_curve: Vec<(Tick, f32)>,
    /// Lifetimes of short-term slots.
    pub stm: Curve,
    /// Lifetimes of long-term slots.
    pub ltm: Curve,
    /// Writes.
    pub writes: WriteStatistics,
    /// Reads.
    pub reads: ReadStatistics,
    /// The goal: tick, rate, length, and cosine with what it was before.
    pub goal: Vec<(Tick, f32, f32, Option<f32>)>,
}

/// How long slots live.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curve {
    /// Ticks that slots lived that are gone, shortest first.
    pub lifetimes: Vec<Tick>,
    /// Ticks that slots have lived that are still there, shortest first.
    pub ages: Vec<Tick>,
    /// Kaplan and Meier's estimate: ticks, and the share of slots that live longer.
    pub survival: Vec<(Tick, f64)>,
}

/// How slots are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WriteStatistics {
    /// Observations.
    pub observations: u64,
    /// Observations for each tick that passed.
    pub per_tick: f64,
    /// Share of them that were blended into a slot.
    pub blended: f64,
    /// Consolidations for each observation.
    pub consolidated: f64,
    /// The slots that were written most: id and writes, at most 16.
    pub most: Vec<(SlotId, u64)>,
}

/// How slots are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReadStatistics {
    /// Reads that found something.
    pub reads: u64,
    /// Mean entropy of a read's shares, in nats.
    pub entropy: f64,
    /// Entropy of all reads' shares together, in nats: how many different slots are used.
    pub entropy_of_all: f64,
    /// Different slots that were read.
    pub slots: usize,
}

impl LogStatistics {
    /// Counts over the records of a log, in order.
    pub fn of(records: &[LogRecord]) -> Self {
        let mut count = Count::default();
        for record in records {
            // What takes no time, such as setting a gate, says nothing about when the log begins.
            if let Some(at) = record.input.at() {
                count.now = at;
                count.first.get_or_insert(at);
            }
            for event in &record.events {
                count.event(event);
            }
        }
        count.done(records.len() as u64)
    }
}

#[derive(Default)]
struct Count {
    first: Option<Tick>,
    now: Tick,
    energies: Vec<(Tick, f32)>,
    born: BTreeMap<SlotId, (StoreKind, Tick)>,
    lived: Vec<(StoreKind, Tick)>,
    writes: BTreeMap<SlotId, u64>,
    observations: u64,
    blended: u64,
    consolidated: u64,
    reads: u64,
    entropy: f64,
    read: BTreeMap<SlotRef, f64>,
    goal: Vec<(Tick, f32, f32, Option<f32>)>,
}

impl Count {
    fn event(&mut self, event: &MemoryEvent) {
        match event {
            MemoryEvent::Added { slot, energy, .. } => {
                self.born.insert(*slot, (StoreKind::Stm, self.now));
                self.write(*slot, *energy);
            }
            MemoryEvent::Blended { slot, energy, .. } => {
                self.blended += 1;
                self.write(*slot, *energy);
            }
            MemoryEvent::Consolidated { into, intake, .. } => {
                self.consolidated += 1;
                if let Intake::Replaced { slot, .. } = intake {
                    self.gone(*slot);
                }
                if !matches!(intake, Intake::Merged { .. }) {
                    self.born.insert(*into, (StoreKind::Ltm, self.now));
                }
            }
            MemoryEvent::Evicted { slot, .. } | MemoryEvent::Pruned { slot, .. } => {
                self.gone(*slot);
            }
            MemoryEvent::Faded { slot, .. } => self.gone(slot.id),
            MemoryEvent::Read { slots } => self.read(slots),
            MemoryEvent::GoalMoved { rate, norm, drift, .. } => {
                self.goal.push((self.now, *rate, *norm, *drift));
            }
            _ => {}
        }
    }

    fn write(&mut self, slot: SlotId, energy: f32) {
        self.observations += 1;
        self.energies.push((self.now, energy));
        *self.writes.entry(slot).or_default() += 1;
    }

    /// Slots that were there before the log began have no birth and are passed over.
    fn gone(&mut self, slot: SlotId) {
        if let Some((store, born)) = self.born.remove(&slot) {
            self.lived.push((store, self.now - born));
        }
    }

    fn read(&mut self, slots: &[Share]) {
        if slots.is_empty() {
            return;
        }
        self.reads += 1;
        self.entropy += entropy(slots.iter().map(|read| f64::from(read.share)));
        for read in slots {
            *self.read.entry(read.slot).or_default() += f64::from(read.share);
        }
    }

    fn done(self, records: u64) -> LogStatistics {
        let first = self.first.unwrap_or(0);
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let observations = self.observations as f64;
        let mut most: Vec<(SlotId, u64)> = self.writes.iter().map(|(&id, &n)| (id, n)).collect();
        most.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        most.truncate(16);
        LogStatistics {
            records,
            ticks: (first, self.now),
            energy: Spread::of(self.energies.iter().map(|&(_, energy)| energy)),
            stm: self.curve(StoreKind::Stm),
            ltm: self.curve(StoreKind::Ltm),
            writes: WriteStatistics {
                observations: self.observations,
                per_tick: ratio(observations, (self.now - first + 1) as f64),
                blended: ratio(self.blended as f64, observations),
                consolidated: ratio(self.consolidated as f64, observations),
                most,
            },
            reads: ReadStatistics {
                reads: self.reads,
                entropy: ratio(self.entropy, self.reads as f64),
                entropy_of_all: entropy(self.read.values().copied()),
                slots: self.read.len(),
            },
            energy_curve: self.energies,
            goal: self.goal,
        }
    }

    fn curve(&self, store: StoreKind) -> Curve {
        let mut lifetimes: Vec<Tick> = (self.lived.iter())
            .filter(|(kind, _)| *kind == store)
            .map(|&(_, lived)| lived)
            .collect();
        let alive = self.born.values().filter(|(kind, _)| *kind == store);
        let mut ages: Vec<Tick> = alive.map(|&(_, born)| self.now - born).collect();
        lifetimes.sort_unstable();
        ages.sort_unstable();
        let survival = survival(&lifetimes, &ages);
        Curve { lifetimes, ages, survival }
    }
}

/// Kaplan and Meier (1958): at each lifetime, the share that had lived that long and went on.
fn survival(lifetimes: &[Tick], ages: &[Tick]) -> Vec<(Tick, f64)> {
    let mut curve: Vec<(Tick, f64)> = Vec::new();
    let mut share = 1.0;
    for ended in lifetimes.chunk_by(|a, b| a == b) {
        let at = ended[0];
        let reached = |all: &[Tick]| all.len() - all.partition_point(|&lived| lived < at);
        let at_risk = reached(lifetimes) + reached(ages);
        share *= 1.0 - ended.len() as f64 / at_risk as f64;
        curve.push((at, share));
    }
    curve
}

/// `−Σ p ln p` of weights brought to sum 1, in nats.
fn entropy(weights: impl Iterator<Item = f64> + Clone) -> f64 {
    let sum: f64 = weights.clone().sum();
    let terms = weights.filter(|&weight| weight > 0.0).map(|weight| weight / sum);
    -terms.map(|p| p * libm::log(p)).sum::<f64>() + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survival_by_hand() {
        // Of five slots two end at 2 and one at 5; one is 3 old and one 9.
        let curve = survival(&[2, 2, 5], &[3, 9]);
        assert_eq!(curve.len(), 2);
        assert!((curve[0].1 - 0.6).abs() < 1e-12 && (curve[1].1 - 0.3).abs() < 1e-12, "{curve:?}");
    }

    #[test]
    fn entropy_is_that_of_shares() {
        assert_eq!(entropy([1.0].into_iter()), 0.0);
        assert!((entropy([0.2, 0.2].into_iter()) - std::f64::consts::LN_2).abs() < 1e-12);
    }
}
