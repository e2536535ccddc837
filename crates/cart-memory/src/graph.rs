//! The association graph: directed links between slots that were active one after the other.
//!
//! Temporal Hebbian rule: where slot *i* was active at the activity before and slot *j* is active
//! now, at most `window` ticks later, the link *i → j* grows by `η · pre · post`, up to 1. A read
//! spreads along the links: `W = (1 − α) · W₀ + α · W₀ · A`, with the rows of `A` brought to sum 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::GraphRules;
use crate::{SlotId, Tick};

/// A directed link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Where it begins.
    pub from: SlotId,
    /// Where it ends.
    pub to: SlotId,
    /// Its strength, over 0 and up to 1.
    pub strength: f32,
}

/// Slots that were active at one tick.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Activity {
    pub(crate) at: Tick,
    /// Ids and how active they were, 0 to 1, in order of id.
    pub(crate) slots: Vec<(SlotId, f32)>,
}

/// Links and the latest activity.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Graph {
    /// Links by where they begin, each row in order of where they end.
    pub(crate) rows: BTreeMap<SlotId, Vec<(SlotId, f32)>>,
    /// The latest tick with activity.
    pub(crate) current: Activity,
    /// The tick with activity before that.
    pub(crate) previous: Activity,
    /// Up to which tick links have decayed.
    pub(crate) decayed_at: Tick,
}

impl Graph {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Links in order of both ends.
    pub(crate) fn links(&self) -> impl Iterator<Item = Link> {
        self.rows.iter().flat_map(|(&from, row)| {
            row.iter().map(move |&(to, strength)| Link { from, to, strength })
        })
    }

    /// Links that leave a slot, strongest first; of equals the one to the lower id.
    pub(crate) fn successors(&self, from: SlotId) -> Vec<(SlotId, f32)> {
        let mut row = self.rows.get(&from).cloned().unwrap_or_default();
        row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        row
    }

    /// Lets links decay up to a tick.
    pub(crate) fn pass(&mut self, at: Tick, rules: &GraphRules) {
        let ticks = at.saturating_sub(self.decayed_at);
        self.decayed_at = at;
        if ticks == 0 || rules.decay == 0.0 {
            return;
        }
        let factor = libm::pow(1.0 - f64::from(rules.decay), ticks as f64);
        for row in self.rows.values_mut() {
            for (_, strength) in row.iter_mut() {
                *strength = (f64::from(*strength) * factor) as f32;
            }
            row.retain(|&(_, strength)| strength > 0.0 && strength >= rules.floor);
        }
        self.rows.retain(|_, row| !row.is_empty());
    }

    /// A slot becomes active; links that decayed up to now change.
    ///
    /// * `amount`: 0 to 1; where the slot was active at this tick before, only what is more counts
    pub(crate) fn activate(&mut self, at: Tick, slot: SlotId, amount: f32, rules: &GraphRules) {
        if amount <= 0.0 {
            return;
        }
        if at > self.current.at {
            // Where every slot that was active has left, the activity before that still counts.
            if !self.current.slots.is_empty() {
                self.previous = std::mem::take(&mut self.current);
            }
            self.current.at = at;
        }
        let more = self.raise(slot, amount);
        let before = &self.previous;
        if more <= 0.0 || before.slots.is_empty() || at - before.at > rules.window {
            return;
        }
        let gain = f64::from(rules.rate) * f64::from(more);
        for (pre, active) in before.slots.clone() {
            if pre != slot {
                let gain = gain * f64::from(active);
                self.strengthen(pre, slot, gain, rules);
                self.strengthen(slot, pre, -gain * f64::from(rules.depression), rules);
            }
        }
    }

    /// Sets how active a slot is now; returns what it gained.
    fn raise(&mut self, slot: SlotId, amount: f32) -> f32 {
        let slots = &mut self.current.slots;
        match slots.binary_search_by_key(&slot, |&(id, _)| id) {
            Ok(place) => {
                let more = amount - slots[place].1;
                slots[place].1 = slots[place].1.max(amount);
                more
            }
            Err(place) => {
                slots.insert(place, (slot, amount));
                amount
            }
        }
    }

    /// Adds to a link, which then is at most 1; a link that is not over 0 or under the floor goes,
    /// and so does the weakest where a slot has too many (of equals the one to the highest id).
    pub(crate) fn strengthen(&mut self, from: SlotId, to: SlotId, gain: f64, rules: &GraphRules) {
        let row = self.rows.entry(from).or_default();
        match row.binary_search_by_key(&to, |&(id, _)| id) {
            Ok(place) => row[place].1 = (f64::from(row[place].1) + gain).min(1.0) as f32,
            Err(place) if gain > 0.0 => row.insert(place, (to, gain.min(1.0) as f32)),
            Err(_) => {}
        }
        row.retain(|&(_, strength)| strength > 0.0 && strength >= rules.floor);
        if row.len() > rules.out_degree as usize {
            let weakest = row
                .iter()
                .enumerate()
                .min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
                .map(|(place, _)| place)
                .expect("a row over its degree has a link");
            row.remove(weakest);
        }
        if row.is_empty() {
            self.rows.remove(&from);
        }
    }

    /// A slot is gone: so are its links, or they go to the slot that keeps what it said.
    pub(crate) fn leave(&mut self, slot: SlotId, heir: Option<SlotId>, rules: &GraphRules) {
        let out = self.rows.remove(&slot).unwrap_or_default();
        let mut into = Vec::new();
        for (&from, row) in &mut self.rows {
            if let Ok(place) = row.binary_search_by_key(&slot, |&(id, _)| id) {
                into.push((from, row.remove(place).1));
            }
        }
        self.rows.retain(|_, row| !row.is_empty());
        for activity in [&mut self.current, &mut self.previous] {
            hand_over(&mut activity.slots, slot, heir);
        }
        let Some(heir) = heir else { return };
        for (to, strength) in out.into_iter().filter(|&(to, _)| to != heir) {
            self.strengthen(heir, to, f64::from(strength), rules);
        }
        for (from, strength) in into.into_iter().filter(|&(from, _)| from != heir) {
            self.strengthen(from, heir, f64::from(strength), rules);
        }
    }

    /// `(1 − α) · W₀ + α · W₀ · A`, in order of id. What a slot without links would pass on is lost.
    ///
    /// * `base`: W₀, in order of id
    pub(crate) fn spread(&self, base: &[(SlotId, f64)], alpha: f64) -> BTreeMap<SlotId, f64> {
        let mut spread: BTreeMap<SlotId, f64> =
            base.iter().map(|&(id, weight)| (id, (1.0 - alpha) * weight)).collect();
        for &(from, weight) in base {
            let Some(row) = self.rows.get(&from) else { continue };
            let sum: f64 = row.iter().map(|&(_, strength)| f64::from(strength)).sum();
            for &(to, strength) in row {
                let share = alpha * weight * f64::from(strength) / sum;
                spread.entry(to).and_modify(|weight| *weight += share);
            }
        }
        spread
    }
}

/// Takes a slot's activity away, or gives it to another where that is not as active itself.
fn hand_over(active: &mut Vec<(SlotId, f32)>, slot: SlotId, heir: Option<SlotId>) {
    let Ok(place) = active.binary_search_by_key(&slot, |&(id, _)| id) else { return };
    let (_, amount) = active.remove(place);
    let Some(heir) = heir else { return };
    match active.binary_search_by_key(&heir, |&(id, _)| id) {
        Ok(place) => active[place].1 = active[place].1.max(amount),
        Err(place) => active.insert(place, (heir, amount)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> GraphRules {
        GraphRules { rate: 0.5, decay: 0.0, floor: 0.0, out_degree: 2, ..GraphRules::default() }
    }

    fn links(graph: &Graph) -> Vec<(u64, u64, f32)> {
        graph.links().map(|link| (link.from.0, link.to.0, link.strength)).collect()
    }

    #[test]
    fn what_comes_next_is_linked_and_what_comes_late_is_not() {
        let mut graph = Graph::default();
        graph.activate(1, SlotId(1), 1.0, &rules());
        graph.activate(2, SlotId(2), 0.5, &rules());
        assert_eq!(links(&graph), [(1, 2, 0.25)]);
        // Two ticks later is outside the window.
        graph.activate(4, SlotId(3), 1.0, &rules());
        assert_eq!(links(&graph), [(1, 2, 0.25)]);
        // The same tick links from the tick before, not among itself; more counts once.
        graph.activate(5, SlotId(1), 0.4, &rules());
        graph.activate(5, SlotId(1), 0.6, &rules());
        graph.activate(5, SlotId(2), 1.0, &rules());
        assert_eq!(links(&graph), [(1, 2, 0.25), (3, 1, 0.3), (3, 2, 0.5)]);
    }

    #[test]
    fn activity_survives_what_was_active_after_it_and_left() {
        for later in [2, 3] {
            let mut graph = Graph::default();
            graph.activate(1, SlotId(1), 1.0, &rules());
            graph.activate(2, SlotId(2), 1.0, &rules());
            graph.leave(SlotId(2), None, &rules());
            let rules = GraphRules { window: 2, ..rules() };
            graph.activate(later, SlotId(3), 1.0, &rules);
            assert_eq!(links(&graph), [(1, 3, 0.5)], "at {later}");
        }
    }

    #[test]
    fn a_full_row_loses_its_weakest_and_a_slot_that_leaves_gives_its_links_to_its_heir() {
        let mut graph = Graph::default();
        for (to, gain) in [(5, 0.5), (6, 0.2), (7, 0.3)] {
            graph.strengthen(SlotId(1), SlotId(to), gain, &rules());
        }
        assert_eq!(links(&graph), [(1, 5, 0.5), (1, 7, 0.3)]);
        graph.leave(SlotId(5), Some(SlotId(9)), &rules());
        graph.leave(SlotId(7), None, &rules());
        assert_eq!(links(&graph), [(1, 9, 0.5)]);
    }

    #[test]
    fn reads_spread_by_row_shares() {
        let mut graph = Graph::default();
        graph.strengthen(SlotId(1), SlotId(2), 0.6, &rules());
        graph.strengthen(SlotId(1), SlotId(3), 0.2, &rules());
        let base = [(SlotId(1), 0.8), (SlotId(2), 0.2), (SlotId(3), 0.0)];
        let spread: Vec<f64> = graph.spread(&base, 0.5).into_values().collect();
        for (found, expected) in spread.iter().zip([0.4, 0.1 + 0.3, 0.1]) {
            assert!((found - expected).abs() < 1e-7, "{spread:?}");
        }
    }

    #[test]
    fn links_decay_and_go_under_the_floor() {
        let mut graph = Graph::default();
        graph.strengthen(SlotId(1), SlotId(2), 0.8, &rules());
        let rules = GraphRules { decay: 0.5, floor: 0.3, ..rules() };
        graph.pass(1, &rules);
        assert_eq!(links(&graph), [(1, 2, 0.4)]);
        graph.pass(2, &rules);
        assert_eq!(links(&graph), []);
    }
}
