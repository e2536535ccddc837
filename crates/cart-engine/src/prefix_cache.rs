//! States of prompts that were read, so that the next session with the same beginning does not read
//! it again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cart_nn::decoder::State;
use serde::Serialize;

/// What decides a state besides the weights, which are those of the cache's agent. Memory takes no
/// part: a session with memory neither looks here nor leaves anything, because what is recalled
/// changes the state, and memory has to hear every token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Where the first cut of the prompt was. The order of sums depends on the cuts.
    cut: usize,
    tokens: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Bytes that no shorter entry has.
    bytes: usize,
    /// When it was used last, in uses.
    used: u64,
}

/// States of prompts, the ones used last, up to a number of bytes. A state shares the blocks of
/// keys and values with the states of its beginnings and with running sessions.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
    uses: u64,
    hits: u64,
    misses: u64,
    tokens: u64,
}

/// What a cache of prompts holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCacheReport {
    /// States that are kept.
    pub entries: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Sessions that began with one.
    pub hits: u64,
    /// Sessions that looked for one and found none.
    pub misses: u64,
    /// Tokens that those did not have to read.
    pub tokens: u64,
}

impl PrefixCache {
    /// * `budget`: most bytes; 0 keeps nothing
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, inner: Mutex::default() }
    }

    /// The state of the longest beginning of `tokens` that is kept, and how many tokens that is. At
    /// least one token is left to be read.
    ///
    /// * `cut`: where the prompt is cut first
    /// * `cuts`: every place at which it is cut, in order
    pub(crate) fn find(
        &self,
        tokens: &[u32],
        cut: usize,
        cuts: &[usize],
    ) -> Option<(State, usize)> {
        if self.budget == 0 {
            return None;
        }
        let mut inner = self.hold();
        let inner = &mut *inner;
        inner.uses += 1;
        let mut longest = None;
        // The shorter ones are used too, so that none of them goes before a longer one.
        for &len in cuts.iter().take_while(|len| **len < tokens.len()) {
            if let Some(entry) = inner.entries.get_mut(&key(tokens, cut, len)) {
                entry.used = inner.uses;
                longest = Some(len);
            }
        }
        let Some(len) = longest else {
            inner.misses += 1;
            return None;
        };
        inner.hits += 1;
        inner.tokens += len as u64;
        let entry = inner.entries.get(&key(tokens, cut, len))?;
        Some((entry.state.clone(), len))
    }

    /// Keeps the state of `tokens`, if there is room for it.
    ///
    /// * `before`: the cut before this one
    pub(crate) fn keep(&self, tokens: &[u32], cut: usize, before: usize, state: &State) {
        if self.budget == 0 {
            return;
        }
        let mut inner = self.hold();
        let inner = &mut *inner;
        let own = key(tokens, cut, tokens.len());
        if inner.entries.contains_key(&own) {
            return;
        }
        let shorter = inner.entries.get(&key(tokens, cut, before));
        let bytes = shorter.map_or(state.bytes(), |entry| state.bytes_beyond(&entry.state));
        if bytes > self.budget {
            return;
        }
        inner.uses += 1;
        inner.bytes += bytes;
        let entry = Entry { state: state.clone(), bytes, used: inner.uses };
        inner.entries.insert(own, entry);
        while inner.bytes > self.budget {
            inner.forget_one();
        }
    }

    pub(crate) fn report(&self) -> PrefixCacheReport {
        let inner = self.hold();
        let Inner { bytes, hits, misses, tokens, .. } = *inner;
        PrefixCacheReport { entries: inner.entries.len(), bytes, hits, misses, tokens }
    }

    /// Nothing that holds this lock panics half-way.
    fn hold(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Forgets the entry that was used longest ago, of equals the longest one.
    fn forget_one(&mut self) {
        let order = |(key, entry): &(&Key, &Entry)| (entry.used, Reverse(key.tokens.len()));
        let oldest = self.entries.iter().min_by_key(order).map(|(key, _)| key.clone());
        if let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) {
            self.bytes -= entry.bytes;
        }
    }
}

/// The key of the first `len` tokens of a prompt that is cut at `cut` first.
fn key(tokens: &[u32], cut: usize, len: usize) -> Key {
    Key { cut: cut.min(len), tokens: tokens[..len].to_vec() }
}
