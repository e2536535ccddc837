//! States of prompts that were read, so that the next session with the same beginning does not read it again, and
//! spans that were recalled, so that they are not read again either.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cart_nn::decoder::{Span, State};
use serde::Serialize;

/// What decides what is kept besides the weights, which are those of the cache's agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// A state. Memory takes no part: a session with memory neither looks for one nor leaves any, because what is recalled
    /// changes the state, and memory has to hear every token.
    Prompt {
        /// Where the first cut of the prompt was. The order of sums depends on the cuts.
        cut: usize,
        tokens: Vec<u32>,
    },
    /// A recalled span, which is read alone and so the same in every session.
    Span { sink: Vec<u32>, tokens: Vec<u32> },
}

#[derive(Debug)]
enum Kept {
    Prompt(State),
    Span(Arc<Span>),
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    /// Bytes that no shorter entry has.
    bytes: usize,
    /// When it was used last, in uses.
    used: u64,
}

/// States of prompts and recalled spans, the ones used last, up to a number of bytes. A state shares the blocks of
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
    span_hits: u64,
    span_misses: u64,
}

/// What a cache of prompts holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCacheReport {
    /// States and spans that are kept.
    pub entries: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Sessions that began with one.
    pub hits: u64,
    /// Sessions that looked for one and found none.
    pub misses: u64,
    /// Tokens that did not have to be read again.
    pub tokens: u64,
    /// Recalled spans that were there.
    pub span_hits: u64,
    /// Recalled spans that had to be read.
    pub span_misses: u64,
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
        let state = inner.state(&key(tokens, cut, len))?;
        Some((state.clone(), len))
    }

    /// A span that was read after `sink`, if it is kept.
    pub(crate) fn find_span(&self, sink: &[u32], tokens: &[u32]) -> Option<Arc<Span>> {
        if self.budget == 0 {
            return None;
        }
        let mut inner = self.hold();
        let inner = &mut *inner;
        inner.uses += 1;
        let found = match inner.entries.get_mut(&span_key(sink, tokens)) {
            Some(Entry { kept: Kept::Span(span), used, .. }) => {
                *used = inner.uses;
                Some(Arc::clone(span))
            }
            _ => None,
        };
        match found {
            Some(_) => {
                inner.span_hits += 1;
                inner.tokens += tokens.len() as u64;
            }
            None => inner.span_misses += 1,
        }
        found
    }

    /// Keeps a span, if there is room for it.
    pub(crate) fn keep_span(&self, sink: &[u32], tokens: &[u32], span: &Arc<Span>) {
        if self.budget > 0 {
            let bytes = span.bytes();
            self.hold().keep(
                self.budget,
                span_key(sink, tokens),
                Kept::Span(Arc::clone(span)),
                bytes,
            );
        }
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
        let shorter = inner.state(&key(tokens, cut, before));
        let bytes = shorter.map_or(state.bytes(), |shorter| state.bytes_beyond(shorter));
        inner.keep(self.budget, own, Kept::Prompt(state.clone()), bytes);
    }

    pub(crate) fn report(&self) -> PrefixCacheReport {
        let inner = self.hold();
        let Inner { bytes, hits, misses, tokens, span_hits, span_misses, .. } = *inner;
        let entries = inner.entries.len();
        PrefixCacheReport { entries, bytes, hits, misses, tokens, span_hits, span_misses }
    }

    /// Nothing that holds this lock panics half-way.
    fn hold(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn state(&self, key: &Key) -> Option<&State> {
        match &self.entries.get(key)?.kept {
            Kept::Prompt(state) => Some(state),
            Kept::Span(_) => None,
        }
    }

    /// Keeps what fits into the budget, and forgets others for it.
    fn keep(&mut self, budget: usize, key: Key, kept: Kept, bytes: usize) {
        if bytes > budget || self.entries.contains_key(&key) {
            return;
        }
        self.uses += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { kept, bytes, used: self.uses });
        while self.bytes > budget {
            self.forget_one();
        }
    }

    /// Forgets the entry that was used longest ago, of equals the longest one.
    fn forget_one(&mut self) {
        let order = |(key, entry): &(&Key, &Entry)| (entry.used, Reverse(key.len()));
        let oldest = self.entries.iter().min_by_key(order).map(|(key, _)| key.clone());
        if let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) {
            self.bytes -= entry.bytes;
        }
    }
}

impl Key {
    fn len(&self) -> usize {
        let (Self::Prompt { tokens, .. } | Self::Span { tokens, .. }) = self;
        tokens.len()
    }
}

/// The key of the first `len` tokens of a prompt that is cut at `cut` first.
fn key(tokens: &[u32], cut: usize, len: usize) -> Key {
    Key::Prompt { cut: cut.min(len), tokens: tokens[..len].to_vec() }
}

fn span_key(sink: &[u32], tokens: &[u32]) -> Key {
    Key::Span { sink: sink.to_vec(), tokens: tokens.to_vec() }
}
