//! What is about a memory as a whole: links, goal, surprise, counters.

use std::collections::BTreeMap;

use super::pieces::{Heirs, Origin};
use super::{JoinError, JoinReport, Leaf, OnContradiction};
use crate::graph::Activity;
use crate::slot::SlotId;
use crate::{Counters, Tick, UnifiedMemory, vector};

/// The angle from which goals don't go together, in degrees.
const CONFLICT: f32 = 90.0;

impl UnifiedMemory {
    /// Adds up links: those of a common past once, in the larger strength.
    pub(super) fn take_links(&mut self, leaves: &[Leaf], heirs: &Heirs) {
        let Some(rules) = self.config.graph else { return };
        let mut seen: BTreeMap<(Origin, Origin), ((SlotId, SlotId), f32)> = BTreeMap::new();
        for (index, leaf) in leaves.iter().enumerate() {
            let origins: BTreeMap<SlotId, Origin> =
                leaf.memory.slots().map(|(at, slot)| (at.id, leaf.origin(slot))).collect();
            for link in leaf.memory.graph.links() {
                let ends = (heirs.of(index, link.from), heirs.of(index, link.to));
                let (Some(from), Some(to)) = ends else { continue };
                if from == to {
                    continue;
                }
                let key = (origins[&link.from].clone(), origins[&link.to].clone());
                let strongest = seen.entry(key).or_insert(((from, to), 0.0));
                strongest.1 = strongest.1.max(link.strength);
            }
        }
        let mut rows: BTreeMap<SlotId, BTreeMap<SlotId, f64>> = BTreeMap::new();
        for ((from, to), strength) in seen.into_values() {
            *rows.entry(from).or_default().entry(to).or_default() += f64::from(strength);
        }
        for (from, row) in rows {
            let most = row.values().copied().fold(1.0, f64::max);
            for (to, strength) in row {
                self.graph.strengthen(from, to, strength / most, &rules);
            }
        }
        self.take_activity(leaves, heirs);
    }

    /// What was active last: of the memory in which that is the least ticks ago.
    fn take_activity(&mut self, leaves: &[Leaf], heirs: &Heirs) {
        let all = leaves.iter().enumerate();
        // Of equals the first.
        let latest = all.rev().max_by_key(|(_, leaf)| leaf.memory.graph.current.at);
        let Some((index, leaf)) = latest else { return };
        let renamed = |activity: &Activity| {
            let mut slots: BTreeMap<SlotId, f32> = BTreeMap::new();
            for &(id, amount) in &activity.slots {
                let Some(id) = heirs.of(index, id) else { continue };
                let most = slots.entry(id).or_insert(amount);
                *most = most.max(amount);
            }
            Activity { at: activity.at, slots: slots.into_iter().collect() }
        };
        let graph = &leaf.memory.graph;
        (self.graph.current, self.graph.previous) =
            (renamed(&graph.current), renamed(&graph.previous));
        let decayed = leaves.iter().map(|leaf| leaf.memory.graph.decayed_at).max();
        self.graph.decayed_at = decayed.unwrap_or_default().max(self.graph.current.at);
    }

    /// The mean by steps; where two goals point away from each other, what was asked for.
    pub(super) fn pool_goals(
        &mut self,
        leaves: &[Leaf],
        on_contradiction: OnContradiction,
        report: &mut JoinReport,
    ) -> Result<(), JoinError> {
        let goals: Vec<_> = leaves.iter().map(|leaf| &leaf.memory.goal).collect();
        let moved: Vec<_> = goals.iter().filter(|goal| !goal.is_zero()).collect();
        let angles = moved.iter().enumerate().flat_map(|(at, one)| {
            moved[..at].iter().map(move |other| angle(one.vector(), other.vector()))
        });
        report.goal_angle = angles.max_by(f32::total_cmp);
        report.goals_conflict = report.goal_angle.is_some_and(|angle| angle > CONFLICT);
        match (report.goal_angle, on_contradiction) {
            (Some(angle), OnContradiction::Refuse) if report.goals_conflict => {
                return Err(JoinError::Goals { angle });
            }
            (_, OnContradiction::Newest | OnContradiction::HighestEnergy)
                if report.goals_conflict =>
            {
                let longest = goals.iter().rev().max_by_key(|goal| goal.steps);
                self.goal = (*longest.expect("there are goals")).clone();
            }
            _ => {
                let mut mean = vec![0.0_f64; self.dim()];
                let steps: u64 = goals.iter().map(|goal| goal.steps).sum();
                for goal in &goals {
                    let share = goal.steps as f64 / steps.max(1) as f64;
                    for (sum, &value) in mean.iter_mut().zip(&goal.vector) {
                        *sum += share * f64::from(value);
                    }
                }
                self.goal.vector = mean.into_iter().map(|value| value as f32).collect();
                self.goal.steps = steps;
            }
        }
        // The prompt is of the conversation that goes on, where all had the same.
        let prompt = goals[0].prompt.clone();
        self.goal.prompt = prompt.filter(|_| goals.iter().all(|one| one.prompt == goals[0].prompt));
        self.goal.cut(self.config.goal_cap);
        Ok(())
    }

    /// Surprise pooled by observations, counters added up, and when what was done last.
    pub(super) fn pool_statistics(&mut self, leaves: &[Leaf]) {
        let all = || leaves.iter().map(|leaf| &leaf.memory);
        let count: u64 = all().map(|memory| memory.surprise.count).sum();
        if count > 0 {
            let weighed = |of: &dyn Fn(&Self) -> f64| -> f64 {
                let sum: f64 = all().map(|memory| memory.surprise.count as f64 * of(memory)).sum();
                sum / count as f64
            };
            let mean = weighed(&|memory| memory.surprise.mean);
            let variance = weighed(&|memory| {
                let apart = memory.surprise.mean - mean;
                memory.surprise.variance + apart * apart
            });
            (self.surprise.count, self.surprise.mean, self.surprise.variance) =
                (count, mean, variance);
        }
        self.counters = all().fold(Counters::default(), |mut sum, memory| {
            sum.add(&memory.counters);
            sum
        });
        let last = |of: fn(&Self) -> Tick| all().map(of).max().unwrap_or_default();
        self.observed_at = last(|memory| memory.observed_at);
        self.pruned_at = last(|memory| memory.pruned_at);
    }
}

/// In degrees.
fn angle(a: &[f32], b: &[f32]) -> f32 {
    let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    let lengths = vector::norm(a) * vector::norm(b);
    libm::acos((product / lengths).clamp(-1.0, 1.0)).to_degrees() as f32
}
