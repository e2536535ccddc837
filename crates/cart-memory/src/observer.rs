//! The observer: what moves from short-term to long-term memory, and what is forgotten.
//!
//! Every `observer_interval` ticks the best short-term slots whose gated energy reaches
//! `consolidate_threshold` are consolidated, at most `consolidate_most` of them, each once: a slot
//! comes again only after its energy has risen by `material_change`. Every `prune_interval` ticks,
//! long-term slots that were neither written nor read for `prune_age` ticks leave.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::event::{Cause, Intake, MemoryEvent};
use crate::filter::Filtered;
use crate::ltm::{Offer, Outcome, Taken};
use crate::seeded::Seeded;
use crate::slot::{Consolidation, KeyStatistics, Slot, SlotRef, StoreKind};
use crate::{MemoryError, SlotId, Tick, UnifiedMemory};

/// How well long-term memory knows the surroundings of a query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counterfactual {
    /// Cosine of the query itself with its nearest long-term slot.
    pub base: f32,
    /// Mean over the perturbed queries of the cosine with their nearest slot.
    pub score: f32,
    /// The best of them.
    pub best: f32,
}

/// How to perturb a query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perturbation {
    /// Seed of the noise.
    pub seed: u64,
    /// Perturbed queries; at least 1 is made.
    pub samples: u32,
    /// Expected length of the noise, where the query's is 1.
    pub sigma: f32,
}

impl UnifiedMemory {
    /// Runs what is due at this tick.
    pub(crate) fn watch(&mut self, at: Tick, events: &mut Vec<MemoryEvent>) {
        if at - self.observed_at >= self.config.observer_interval {
            self.observed_at = at;
            for position in self.candidates(at) {
                self.consolidate(at, position, Cause::Observer, events);
            }
        }
        self.prune_if_due(at, events);
    }

    /// Prunes long-term memory, unless it is shared: then the one that holds it does.
    pub(crate) fn prune_if_due(&mut self, at: Tick, events: &mut Vec<MemoryEvent>) {
        if self.offers.is_none() && at - self.pruned_at >= self.config.prune_interval {
            self.pruned_at = at;
            self.prune(at, events);
        }
    }

    /// Positions of the best slots that hold and are ready: most gated energy first, of equals the
    /// newest.
    fn candidates(&self, at: Tick) -> Vec<usize> {
        let mut ready: Vec<(usize, &Slot)> = self
            .stm
            .iter()
            .filter(|(_, slot)| slot.validity.holds(at))
            .filter(|&(position, slot)| self.is_worth_keeping(position) && self.is_news(slot))
            .collect();
        ready.sort_by(|(_, a), (_, b)| {
            b.gated_energy().total_cmp(&a.gated_energy()).then(b.id.cmp(&a.id))
        });
        ready.truncate(self.config.consolidate_most as usize);
        ready.into_iter().map(|(position, _)| position).collect()
    }

    pub(crate) fn is_worth_keeping(&self, position: usize) -> bool {
        let slot = self.stm.slot(position);
        slot.gated_energy() >= self.config.consolidate_threshold
    }

    /// Whether a slot was never offered, or has risen since.
    fn is_news(&self, slot: &Slot) -> bool {
        slot.consolidation
            .is_none_or(|before| slot.energy >= before.energy + self.config.material_change)
    }

    /// The long-term slot that a short-term slot went into, while it is there.
    pub(crate) fn long_term_home(&self, position: usize) -> Option<SlotId> {
        let into = self.stm.slot(position).consolidation?.into?;
        self.ltm.find(into).map(|_| into)
    }

    /// Offers a short-term slot to long-term memory; the goal follows what was taken.
    pub(crate) fn consolidate(
        &mut self,
        at: Tick,
        position: usize,
        cause: Cause,
        events: &mut Vec<MemoryEvent>,
    ) {
        let slot = match self.filtered(position, events) {
            Filtered::Free => Cow::Borrowed(self.stm.slot(position)),
            Filtered::Weakened(slot) => Cow::Owned(*slot),
            Filtered::Withheld => return self.mark_consolidated(at, position, None),
        };
        if self.offers.is_some() {
            let slot = slot.into_owned();
            return self.offer(at, position, slot, cause, events);
        }
        let (from, gated_energy) = (slot.id, slot.gated_energy());
        let confidence = self.confidence(self.stm.unit(position));
        let offer = Offer {
            at,
            slot: &slot,
            unit: self.stm.unit(position),
            new_id: SlotId(self.next_slot),
            config: &self.config,
            normalization: &self.normalization,
        };
        match offer.put_to(&mut self.ltm) {
            Outcome::Taken(Taken { position: entry, intake, reopened, gone }) => {
                let into = self.ltm.slot(entry).id;
                self.note_intake(&intake);
                self.mark_consolidated(at, position, Some(into));
                events.push(MemoryEvent::Consolidated { from, into, intake, gated_energy, cause });
                events.push(self.goal.pull(self.ltm.unit(entry), &self.config, confidence));
                if reopened {
                    let slot = SlotRef { store: StoreKind::Ltm, id: into };
                    events.push(MemoryEvent::Reopened { slot });
                }
                if let Some(gone) = gone {
                    self.succeed(&gone, None, events);
                }
            }
            Outcome::Outranked { least } => {
                self.counters.outranked += 1;
                self.mark_consolidated(at, position, None);
                events.push(MemoryEvent::Outranked { slot: from, gated_energy, least });
            }
        }
    }

    pub(crate) fn note_intake(&mut self, intake: &Intake) {
        self.counters.consolidated += 1;
        match intake {
            Intake::Merged { .. } => self.counters.merged += 1,
            Intake::Inserted => self.next_slot += 1,
            Intake::Replaced { .. } => {
                self.counters.replaced += 1;
                self.next_slot += 1;
            }
        }
    }

    fn mark_consolidated(&mut self, at: Tick, position: usize, into: Option<SlotId>) {
        let dim = self.normalization.dim();
        let mut slot = self.stm.slot_mut(position);
        slot.consolidation = Some(Consolidation { at, into, energy: slot.energy });
        if into.is_some() {
            slot.statistics = KeyStatistics::zero(dim);
        }
    }

    fn prune(&mut self, at: Tick, events: &mut Vec<MemoryEvent>) {
        let stale: Vec<usize> = self
            .ltm
            .iter()
            .filter(|(_, slot)| at - slot.accessed() > self.config.prune_age)
            .map(|(position, _)| position)
            .collect();
        for position in stale {
            let slot = self.ltm.remove(position);
            self.counters.pruned += 1;
            let (idle, text) = (at - slot.accessed(), slot.value.text.clone());
            events.push(MemoryEvent::Pruned { slot: slot.id, text, idle });
            self.succeed(&slot, None, events);
        }
    }

    /// Scores a query and Gaussian perturbations of it against long-term memory. High scores say
    /// that what lies around the query is known.
    ///
    /// * `query`: `[dim]`, raw
    /// * returns none where long-term memory is empty
    ///
    /// A perturbed query is `unit(q) + σ · g / √dim` with `g` standard normal, brought to length 1.
    ///
    /// # Errors
    /// The query can't be used.
    pub fn counterfactual(
        &self,
        query: &[f32],
        how: Perturbation,
    ) -> Result<Option<Counterfactual>, MemoryError> {
        let unit = self.normalization.unit("query", query)?;
        Ok(self.surroundings(&unit, how))
    }

    /// How sure the memory is of a unit key, 0 to 1, where the self-diagnostic is on.
    pub(crate) fn confidence(&self, unit: &[f32]) -> Option<f32> {
        let rules = self.config.diagnostic?;
        let seed = rules.seed.wrapping_add(self.goal.steps());
        let how = Perturbation { seed, samples: rules.samples, sigma: rules.sigma };
        let score = self.surroundings(unit, how).map_or(0.0, |known| known.score);
        Some(score.clamp(0.0, 1.0))
    }

    fn surroundings(&self, unit: &[f32], how: Perturbation) -> Option<Counterfactual> {
        let base = self.nearest_long_term(unit)?;
        let mut chance = Seeded::new(how.seed);
        let metric = self.normalization.metric();
        let samples = how.samples.max(1);
        let (mut sum, mut best) = (0.0_f64, f32::NEG_INFINITY);
        for _ in 0..samples {
            let perturbed = metric.perturbed(unit, f64::from(how.sigma), &mut chance);
            let score = self.nearest_long_term(&perturbed).unwrap_or(base);
            sum += f64::from(score);
            best = best.max(score);
        }
        Some(Counterfactual { base, score: (sum / f64::from(samples)) as f32, best })
    }
}
