//! What the cartridges of a process take together.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::room::{self, NoRoom};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// What the cartridges of a process take together, and what they may take. Runtimes that share an account share its budget.
#[derive(Debug, Default)]
pub struct MemoryAccount {
    budget: Option<u64>,
    /// Bytes, by who takes them.
    taken: Mutex<BTreeMap<u64, u64>>,
    next: AtomicU64,
}

/// Bytes that are taken as long as this is there.
#[derive(Debug)]
pub(crate) struct Taken {
    account: Arc<MemoryAccount>,
    number: u64,
}

impl MemoryAccount {
    /// An account over so many bytes; over what the system has where there is no number.
    pub fn new(budget: Option<u64>) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        self.held().values().sum()
    }

    /// Bytes that may be taken, if somebody said so.
    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// Takes bytes for what is about to be loaded.
    ///
    /// * `unloads`: what of that which is taken goes before
    ///
    /// # Errors
    /// There are not as many.
    pub(crate) fn take(self: &Arc<Self>, needed: u64, unloads: u64) -> Result<Taken, NoRoom> {
        let mut held = self.held();
        room::check(needed, held.values().sum(), unloads, self.budget)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        held.insert(number, needed);
        Ok(Taken { account: Arc::clone(self), number })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // A sum is whole at any time.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// From now on it is so much.
    pub(crate) fn set(&self, bytes: u64) {
        self.account.held().insert(self.number, bytes);
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.account.held().get(&self.number).copied().unwrap_or(0)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.held().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_there_for_others_until_it_is_given_back() {
        let account = Arc::new(MemoryAccount::new(Some(100)));
        let first = account.take(60, 0).unwrap();
        let refused = account.take(50, 0).unwrap_err();
        assert_eq!((refused.needed, refused.loaded, refused.free), (50, 60, 40));
        let second = account.take(50, 60).unwrap();
        assert_eq!(account.taken(), 110);
        drop(first);
        second.set(80);
        assert_eq!((account.taken(), second.bytes()), (80, 80));
        drop(second);
        assert_eq!(account.taken(), 0);
    }
}
