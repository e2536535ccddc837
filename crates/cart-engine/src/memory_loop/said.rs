//! Recalled spans that the answer has said: they have done what they were recalled for, and a small model that goes on looking at one
//! says it again and again.

use std::ops::Range;

use cart_memory::{Chain, SlotRef};

/// Tokens that a span has at least, for its end to be told from any other.
const LEAST: usize = 5;

/// A recalled span that was not said yet.
#[derive(Clone, Debug)]
pub(super) struct Unsaid {
    /// The positions of its keys and values, where it has some that can be hushed.
    pub(super) positions: Option<Range<usize>>,
    pub(super) slots: Vec<SlotRef>,
    tokens: Vec<u32>,
}

impl Unsaid {
    pub(super) fn new(chain: &Chain) -> Self {
        Self {
            positions: None,
            slots: chain.slots().map(|hit| hit.slot).collect(),
            tokens: chain.slots().flat_map(|hit| hit.token_ids.iter().copied()).collect(),
        }
    }

    /// Whether a text ends with the whole of it now. Its first token may be another one, as it is where a space goes before.
    ///
    /// * `token`: the one that was just generated, after `before`
    pub(super) fn is_said_by(&self, before: &[u32], token: u32) -> bool {
        let Some((last, rest)) = self.tokens.split_last() else { return false };
        self.tokens.len() >= LEAST && *last == token && before.ends_with(&rest[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsaid(tokens: &[u32]) -> Unsaid {
        Unsaid { positions: None, slots: Vec::new(), tokens: tokens.to_vec() }
    }

    #[test]
    fn a_span_is_said_when_a_text_ends_with_all_of_it() {
        let span = unsaid(&[7, 1, 2, 3, 4]);
        assert!(span.is_said_by(&[9, 9, 7, 1, 2, 3], 4));
        assert!(span.is_said_by(&[8, 1, 2, 3], 4), "its first token may have a space before it");
        for (before, token) in
            [(&[7, 1, 2][..], 3), (&[7, 1, 2, 3, 4], 5), (&[1, 2, 3, 9], 4), (&[], 4)]
        {
            assert!(!span.is_said_by(before, token), "{before:?} {token}");
        }
        let short = unsaid(&[1, 2, 3, 4]);
        assert!(!short.is_said_by(&[1, 2, 3], 4), "what is short is said by chance");
        assert!(!unsaid(&[]).is_said_by(&[1], 2));
    }
}
