//! A slot in a store while it changes.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Bank;
use crate::lookup::Entry;
use crate::slot::Slot;

/// A slot that is being changed. What scans know of it follows when it is let go.
pub(crate) struct Changing<'b> {
    pub(super) bank: &'b mut Bank,
    pub(super) position: usize,
    pub(super) before: Option<Entry>,
}

impl Deref for Changing<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.bank.slot(self.position)
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        let slot = self.bank.slots[self.position].as_mut();
        Arc::make_mut(slot.expect("callers name occupied positions"))
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let (Some(before), Some(lookup)) = (self.before, &mut self.bank.lookup) {
            let slot = self.bank.slots[self.position].as_deref();
            let after = Entry::of(slot.expect("a slot that is being changed stays"));
            if after != before {
                lookup.remove(self.position, before);
                lookup.insert(self.position, after);
            }
        }
        self.bank.note(self.position);
    }
}
