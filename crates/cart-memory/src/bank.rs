//! Slots in fixed positions, beside their unit keys in pages.
//!
//! A slot never moves, so that storing one more rewrites the rows of that one. The unit keys are
//! derived from the raw keys and are never stored. Copies share the slots and the pages that neither
//! has changed.

mod changing;
mod nearby;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rayon::prelude::*;

use crate::Normalization;
use crate::codes::{CodedQuery, MAX_DIM};
use crate::config::MergeRule;
use crate::fusion::Metric;
use crate::lookup::{Entry, Lookup};
use crate::page::{Keeps, Order, Page, ROWS};
use crate::slot::{Slot, SlotId, SlotValue, Tick};

pub(crate) use changing::Changing;
pub(crate) use nearby::{Nearby, Nearest};

/// Pages that one thread takes at a time: fewer are not worth waking another one.
const PAGES_AT_ONCE: usize = 4;
/// Single rows that one thread takes at a time.
const ROWS_AT_ONCE: usize = 512;
/// Single rows that are on their way from memory while one is looked at.
const ROWS_AHEAD: usize = 16;

/// A store of slots with a fixed capacity.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    dim: usize,
    capacity: usize,
    slots: Vec<Option<Arc<Slot>>>,
    /// As many rows as slots, [`ROWS`] to a page.
    pages: Vec<Arc<Page>>,
    keeps: Keeps,
    /// Where the store may grow large.
    lookup: Option<Lookup>,
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

impl Bank {
    /// A store that is scanned as it is, whatever its size.
    pub(crate) fn new(normalization: &Normalization, capacity: u32) -> Self {
        Self::keeping(normalization, capacity, Keeps::Values)
    }

    /// A store that is scanned in short where it is large.
    pub(crate) fn long_term(normalization: &Normalization, capacity: u32) -> Self {
        let whole = normalization.metric().is_whole() && normalization.dim() <= MAX_DIM;
        let may_grow_large = capacity as usize > ROWS && whole;
        let keeps = if may_grow_large { Keeps::Shortened } else { Keeps::Values };
        Self::keeping(normalization, capacity, keeps)
    }

    fn keeping(normalization: &Normalization, capacity: u32, keeps: Keeps) -> Self {
        Self {
            dim: normalization.dim(),
            capacity: capacity as usize,
            slots: Vec::new(),
            pages: Vec::new(),
            keeps,
            lookup: (capacity as usize > ROWS).then(Lookup::default),
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

    /// Whether it is so large that a scan looks at shortened rows first.
    pub(crate) fn is_large(&self) -> bool {
        self.keeps == Keeps::Shortened && self.slots.len() > ROWS
    }

    pub(crate) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Occupied positions with their slots, in order of position.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(position, slot)| slot.as_deref().map(|slot| (position, slot)))
    }

    /// Changes every slot, in order of position.
    pub(crate) fn change_all(&mut self, mut change: impl FnMut(&mut Slot)) {
        for position in 0..self.slots.len() {
            if self.slots[position].is_some() {
                change(&mut self.slot_mut(position));
            }
        }
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
        let has_holes = self.len < self.slots.len();
        let hole = || self.slots.iter().position(Option::is_none);
        Some(has_holes.then(hole).flatten().unwrap_or(self.slots.len()))
    }

    /// Puts a slot into a free position.
    pub(crate) fn place(&mut self, position: usize, slot: Slot, unit: &[f32]) {
        if position >= self.slots.len() {
            self.grow(position + 1);
        }
        debug_assert!(self.slots[position].is_none(), "only free positions are filled");
        if let Some(lookup) = &mut self.lookup {
            lookup.insert(position, Entry::of(&slot));
        }
        self.slots[position] = Some(Arc::new(slot));
        self.set_unit(position, unit);
        self.note(position);
        self.len += 1;
    }

    fn grow(&mut self, rows: usize) {
        self.slots.resize(rows, None);
        let first = self.pages.len().saturating_sub(1);
        self.pages.resize_with(rows.div_ceil(ROWS), || Arc::new(Page::new(self.dim, self.keeps)));
        for (index, page) in self.pages.iter_mut().enumerate().skip(first) {
            Arc::make_mut(page).resize((rows - index * ROWS).min(ROWS));
        }
    }

    /// Takes the slot out of an occupied position.
    pub(crate) fn remove(&mut self, position: usize) -> Slot {
        let slot = self.slots[position].take().expect("callers name occupied positions");
        if let Some(lookup) = &mut self.lookup {
            lookup.remove(position, Entry::of(&slot));
        }
        self.set_unit(position, &vec![0.0; self.dim]);
        self.note(position);
        self.len -= 1;
        Arc::unwrap_or_clone(slot)
    }

    pub(crate) fn slot(&self, position: usize) -> &Slot {
        self.slots[position].as_deref().expect("callers name occupied positions")
    }

    pub(crate) fn slot_mut(&mut self, position: usize) -> Changing<'_> {
        let before = self.lookup.is_some().then(|| Entry::of(self.slot(position)));
        Changing { bank: self, position, before }
    }

    /// Sets when a slot was read last, which no scan asks for.
    pub(crate) fn set_read(&mut self, position: usize, at: Tick) {
        let slot = self.slots[position].as_mut().expect("callers name occupied positions");
        Arc::make_mut(slot).read = at;
    }

    pub(crate) fn unit(&self, position: usize) -> &[f32] {
        self.pages[position / ROWS].unit(position % ROWS)
    }

    pub(crate) fn set_unit(&mut self, position: usize, unit: &[f32]) {
        Arc::make_mut(&mut self.pages[position / ROWS]).set_unit(position % ROWS, unit);
    }

    /// `σ(A) · energy` of the slot at an occupied position.
    pub(crate) fn worth(&self, position: usize) -> f32 {
        self.pages[position / ROWS].worth(position % ROWS)
    }

    fn note(&mut self, position: usize) {
        let slot = self.slots[position].as_deref();
        let page = &mut self.pages[position / ROWS];
        // A page that copies share is copied only where it changes.
        if page.differs(position % ROWS, slot) {
            Arc::make_mut(page).note(position % ROWS, slot);
        }
    }

    pub(crate) fn find(&self, id: SlotId) -> Option<usize> {
        match &self.lookup {
            Some(lookup) => lookup.of_id(id),
            None => self.iter().find(|(_, slot)| slot.id == id).map(|(position, _)| position),
        }
    }

    /// Occupied positions of which some may say the same as `value`; no other position does.
    pub(crate) fn saying(&self, value: &SlotValue) -> Vec<usize> {
        match &self.lookup {
            Some(lookup) => lookup.of_value(value).collect(),
            None => self.iter().map(|(position, _)| position).collect(),
        }
    }

    /// Positions of slots whose place `id` took, in order.
    pub(crate) fn succeeded_by(&self, id: SlotId) -> Vec<usize> {
        match &self.lookup {
            Some(lookup) => lookup.succeeded_by(id).collect(),
            None => self
                .iter()
                .filter(|(_, slot)| slot.validity.superseded_by == Some(id))
                .map(|(position, _)| position)
                .collect(),
        }
    }

    /// The cosine of every position, `[slots]`; those of empty ones say nothing.
    fn cosines_of_all(&self, unit: &[f32]) -> Vec<f32> {
        let mut cosines = vec![0.0; self.slots.len()];
        self.each_page(&mut cosines, |page, cosines| {
            self.metric.cosines(page.units(), unit, cosines);
        });
        cosines
    }

    /// Works on every page, on all threads where there are many; a page's part of `numbers` is its own.
    ///
    /// * `numbers`: `[slots]`
    pub(crate) fn each_page(&self, numbers: &mut [f32], work: impl Fn(&Page, &mut [f32]) + Sync) {
        if self.pages.len() <= PAGES_AT_ONCE {
            for (page, numbers) in self.pages.iter().zip(numbers.chunks_mut(ROWS)) {
                work(page, numbers);
            }
            return;
        }
        let pages = self.pages.par_chunks(PAGES_AT_ONCE);
        pages.zip(numbers.par_chunks_mut(PAGES_AT_ONCE * ROWS)).for_each(|(pages, numbers)| {
            for (page, numbers) in pages.iter().zip(numbers.chunks_mut(ROWS)) {
                work(page, numbers);
            }
        });
    }

    /// Those positions whose place in an order can be this far up, by their rows in eight bits.
    ///
    /// * `positions`: in order
    pub(crate) fn reaching(
        &self,
        positions: &[usize],
        query: &CodedQuery,
        order: Order,
        least: f32,
    ) -> Vec<usize> {
        let reaching = |positions: &[usize]| -> Vec<usize> {
            let mut ahead = positions.iter().skip(ROWS_AHEAD);
            let reaches = |&position: &usize| {
                if let Some(next) = ahead.next() {
                    self.pages[next / ROWS].prefetch(query, next % ROWS);
                }
                self.pages[position / ROWS].bound(query, order, position % ROWS) >= least
            };
            positions.iter().copied().filter(reaches).collect()
        };
        if positions.len() <= ROWS_AT_ONCE {
            return reaching(positions);
        }
        positions.par_chunks(ROWS_AT_ONCE).flat_map_iter(reaching).collect()
    }

    /// The cosine of the slot at an occupied position.
    pub(crate) fn cosine(&self, position: usize, unit: &[f32]) -> f32 {
        self.metric.cosine(self.unit(position), unit)
    }

    /// Every slot with its cosine, in order of position.
    pub(crate) fn cosines(&self, unit: &[f32]) -> impl Iterator<Item = (Nearest, &Slot)> {
        let cosines = self.cosines_of_all(unit);
        self.iter()
            .map(move |(position, slot)| (Nearest { position, cosine: cosines[position] }, slot))
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
            nearby.offer(self, (near, slot), takes, at);
        }
        nearby
    }

    /// As [`Bank::nearest`], without the others.
    pub(crate) fn nearest_taker(
        &self,
        at: Tick,
        unit: &[f32],
        value: &SlotValue,
        rule: MergeRule,
    ) -> Nearby {
        if rule == MergeRule::Nearest || self.lookup.is_none() {
            return self.nearest(at, unit, value, rule);
        }
        let mut nearby = Nearby::default();
        for position in self.saying(value) {
            let slot = self.slot(position);
            if slot.value == *value {
                let near = Nearest { position, cosine: self.cosine(position, unit) };
                nearby.offer(self, (near, slot), true, at);
            }
        }
        nearby
    }
}
