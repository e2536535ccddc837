//! Slots in fixed positions, beside their unit keys in one block.
//!
//! A slot never moves, so that storing one more rewrites the rows of that one. The unit keys are
//! derived from the raw keys and are never stored. Copies share the slots that neither has changed.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::Normalization;
use crate::config::MergeRule;
use crate::fusion::Metric;
use crate::slot::{Slot, SlotId, SlotValue, Tick};

/// A store of slots with a fixed capacity.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    dim: usize,
    capacity: usize,
    slots: Vec<Option<Arc<Slot>>>,
    /// `[slots, dim]`; rows of empty positions are zero.
    units: Vec<f32>,
    len: usize,
    metric: Metric,
}

/// A store that memories share until one of them changes it.
#[derive(Clone, Debug)]
pub(crate) struct SharedBank(Arc<Bank>);

impl SharedBank {
    /// Whether the two are one store, not only equal.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Bank> for SharedBank {
    fn from(bank: Bank) -> Self {
        Self(Arc::new(bank))
    }
}

impl Deref for SharedBank {
    type Target = Bank;

    fn deref(&self) -> &Bank {
        &self.0
    }
}

impl DerefMut for SharedBank {
    fn deref_mut(&mut self) -> &mut Bank {
        Arc::make_mut(&mut self.0)
    }
}

/// The slots nearest to a key, by whether they may take what comes with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearby {
    /// Of those that may take it and hold.
    holding: Option<Nearest>,
    /// Of those that may take it and have ended.
    ended: Option<Nearest>,
    /// Of those that may not take it.
    pub(crate) other: Option<Nearest>,
}

impl Nearby {
    /// The slot that takes what holds: one that holds, or else one that has ended, which then holds
    /// again.
    ///
    /// * `least`: the cosine from which a slot is near enough
    pub(crate) fn taker(&self, least: f32) -> Option<Nearest> {
        let near = |found: Option<Nearest>| found.filter(|near| near.cosine >= least);
        near(self.holding).or(near(self.ended))
    }

    /// The slot that takes what has ended: never one that holds.
    pub(crate) fn taker_of_ended(&self, least: f32) -> Option<Nearest> {
        self.ended.filter(|near| near.cosine >= least)
    }
}

/// A position and its cosine with what was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Nearest {
    pub(crate) position: usize,
    pub(crate) cosine: f32,
}

impl Bank {
    pub(crate) fn new(normalization: &Normalization, capacity: u32) -> Self {
        Self {
            dim: normalization.dim(),
            capacity: capacity as usize,
            slots: Vec::new(),
            units: Vec::new(),
            len: 0,
            metric: normalization.metric().clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Occupied positions with their slots, in order of position.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(position, slot)| slot.as_deref().map(|slot| (position, slot)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().flatten().map(Arc::make_mut)
    }

    /// Positions whose slots are not the ones that `other` shares, in order.
    pub(crate) fn differing(&self, other: &Self) -> Vec<usize> {
        let slot = |bank: &Self, position: usize| bank.slots.get(position).cloned().flatten();
        (0..self.slots.len().max(other.slots.len()))
            .filter(|&position| match (slot(self, position), slot(other, position)) {
                (Some(own), Some(other)) => !Arc::ptr_eq(&own, &other),
                (own, other) => own.is_some() != other.is_some(),
            })
            .collect()
    }

    /// The slot at a position, if there is one.
    pub(crate) fn at(&self, position: usize) -> Option<&Slot> {
        self.slots.get(position)?.as_deref()
    }

    /// The lowest free position.
    pub(crate) fn free_position(&self) -> Option<usize> {
        if self.len == self.capacity {
            return None;
        }
        Some(self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len()))
    }

    /// Puts a slot into a free position.
    pub(crate) fn place(&mut self, position: usize, slot: Slot, unit: &[f32]) {
        if position >= self.slots.len() {
            self.slots.resize(position + 1, None);
            self.units.resize((position + 1) * self.dim, 0.0);
        }
        debug_assert!(self.slots[position].is_none(), "only free positions are filled");
        self.slots[position] = Some(Arc::new(slot));
        self.set_unit(position, unit);
        self.len += 1;
    }

    /// Takes the slot out of an occupied position.
    pub(crate) fn remove(&mut self, position: usize) -> Slot {
        let slot = self.slots[position].take().expect("callers name occupied positions");
        self.units[position * self.dim..][..self.dim].fill(0.0);
        self.len -= 1;
        Arc::unwrap_or_clone(slot)
    }

    pub(crate) fn slot(&self, position: usize) -> &Slot {
        self.slots[position].as_deref().expect("callers name occupied positions")
    }

    pub(crate) fn slot_mut(&mut self, position: usize) -> &mut Slot {
        Arc::make_mut(self.slots[position].as_mut().expect("callers name occupied positions"))
    }

    pub(crate) fn unit(&self, position: usize) -> &[f32] {
        &self.units[position * self.dim..][..self.dim]
    }

    pub(crate) fn set_unit(&mut self, position: usize, unit: &[f32]) {
        self.units[position * self.dim..][..self.dim].copy_from_slice(unit);
    }

    pub(crate) fn find(&self, id: SlotId) -> Option<usize> {
        self.iter().find(|(_, slot)| slot.id == id).map(|(position, _)| position)
    }

    /// Every slot with its cosine, in order of position.
    pub(crate) fn cosines(&self, unit: &[f32]) -> impl Iterator<Item = (Nearest, &Slot)> {
        self.iter().map(move |(position, slot)| {
            let cosine = self.metric.cosine(self.unit(position), unit);
            (Nearest { position, cosine }, slot)
        })
    }

    /// The nearest slots that may take `value` at a tick (with [`MergeRule::SameValue`] those that
    /// say it), and the nearest of the others. At equal cosines the lower id wins.
    pub(crate) fn nearest(
        &self,
        at: Tick,
        unit: &[f32],
        value: &SlotValue,
        rule: MergeRule,
    ) -> Nearby {
        let mut nearby = Nearby::default();
        for (near, slot) in self.cosines(unit) {
            let takes = rule == MergeRule::Nearest || slot.value == *value;
            let best = match (takes, slot.validity.holds(at)) {
                (true, true) => &mut nearby.holding,
                (true, false) => &mut nearby.ended,
                (false, _) => &mut nearby.other,
            };
            if best.is_none_or(|best: Nearest| {
                near.cosine > best.cosine
                    || near.cosine == best.cosine && slot.id < self.slot(best.position).id
            }) {
                *best = Some(near);
            }
        }
        nearby
    }
}
