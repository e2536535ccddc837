//! Where a large store has what: positions by slot, by value, and by what took a slot's place. Derived
//! from the slots, so that nothing has to look at a million of them for one.

use std::collections::BTreeSet;

use crate::slot::{Slot, SlotId, SlotValue};

/// Positions under numbers, in order of both.
#[derive(Clone, Debug, Default)]
struct Positions(BTreeSet<(u64, u32)>);

/// Positions of slots by what is known of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookup {
    ids: Positions,
    values: Positions,
    successors: Positions,
}

/// What a slot is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    id: SlotId,
    value: u64,
    successor: Option<SlotId>,
}

impl Entry {
    pub(crate) fn of(slot: &Slot) -> Self {
        let successor = slot.validity.superseded_by;
        Self { id: slot.id, value: fingerprint(&slot.value), successor }
    }
}

impl Lookup {
    pub(crate) fn insert(&mut self, position: usize, entry: Entry) {
        self.ids.insert(entry.id.0, position);
        self.values.insert(entry.value, position);
        if let Some(successor) = entry.successor {
            self.successors.insert(successor.0, position);
        }
    }

    pub(crate) fn remove(&mut self, position: usize, entry: Entry) {
        self.ids.remove(entry.id.0, position);
        self.values.remove(entry.value, position);
        if let Some(successor) = entry.successor {
            self.successors.remove(successor.0, position);
        }
    }

    /// The position of a slot.
    pub(crate) fn of_id(&self, id: SlotId) -> Option<usize> {
        self.ids.under(id.0).next()
    }

    /// Positions of slots that may say the same as `value`, as [`says_the_same`] has it or by being equal.
    ///
    /// [`says_the_same`]: crate::recall::says_the_same
    pub(crate) fn of_value(&self, value: &SlotValue) -> impl Iterator<Item = usize> {
        self.values.under(fingerprint(value))
    }

    /// Positions of slots whose place a slot took.
    pub(crate) fn succeeded_by(&self, id: SlotId) -> impl Iterator<Item = usize> {
        self.successors.under(id.0)
    }
}

impl Positions {
    fn insert(&mut self, number: u64, position: usize) {
        self.0.insert((number, position as u32));
    }

    fn remove(&mut self, number: u64, position: usize) {
        self.0.remove(&(number, position as u32));
    }

    fn under(&self, number: u64) -> impl Iterator<Item = usize> {
        self.0.range((number, 0)..=(number, u32::MAX)).map(|&(_, position)| position as usize)
    }
}

/// A number that values which say the same have in common: of the text, or of the tokens where there is
/// none (FNV-1a).
fn fingerprint(value: &SlotValue) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325;
    if value.text.is_empty() {
        return value.token_ids.iter().flat_map(|id| id.to_le_bytes()).fold(start, fold);
    }
    value.text.bytes().fold(start, fold)
}
