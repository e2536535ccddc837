//! Byte pair encoding: neighbours are merged, best first, until no pair is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokenizers::Token;

use super::pieces::Pieces;

/// Which merge comes first.
#[derive(Debug)]
pub(super) enum Ranks {
    /// As SentencePiece: the rank of what a merge makes, by id, below 0 for never.
    Pieces(Vec<i32>),
    /// As `tokenizers`: the rank of a pair.
    Pairs(Pairs),
}

/// Ranks of pairs, found by what the pair makes and the length of its left half.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// Where the pairs of each id begin in `pairs`, and after the last id where they end.
    starts: Vec<u32>,
    /// Length of the left half in bytes, and rank.
    pairs: Vec<(u32, u32)>,
}

impl Pairs {
    /// * `merges`: for each pair, best first, the id of what it makes and the left half's length
    pub(super) fn new(merges: &[(u32, u32)], ids: usize) -> Self {
        let mut starts = vec![0; ids + 1];
        for &(id, _) in merges {
            starts[id as usize + 1] += 1;
        }
        for id in 0..ids {
            starts[id + 1] += starts[id];
        }
        let mut next = starts.clone();
        let mut pairs = vec![(0, 0); merges.len()];
        for (rank, &(id, left)) in merges.iter().enumerate() {
            let place = &mut next[id as usize];
            pairs[*place as usize] = (left, rank as u32);
            *place += 1;
        }
        Self { starts, pairs }
    }

    /// Of a pair that is listed twice the last place counts.
    fn rank(&self, id: u32, left: u32) -> Option<u32> {
        let range = self.starts[id as usize] as usize..self.starts[id as usize + 1] as usize;
        let pairs = self.pairs[range].iter().rev();
        pairs.into_iter().find(|pair| pair.0 == left).map(|pair| pair.1)
    }
}

/// A model of this kind.
#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) pieces: Pieces,
    pub(super) ranks: Ranks,
    /// What stands for a character that has no token.
    pub(super) unknown: Option<u32>,
    /// Whether a run of such characters is one token.
    pub(super) fuse_unknown: bool,
    /// The tokens of bytes, of which such a character can be made.
    pub(super) bytes: Option<Box<[u32; 256]>>,
    /// Whether a text that is a token is not merged.
    pub(super) ignore_merges: bool,
}

/// A part of the text; merged into its left neighbour, it has no length.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u32,
    len: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// A merge that may be done: best first, then leftmost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    left_len: u32,
    len: u32,
}

impl Bpe {
    /// The tokens of one word, with ranges in its bytes.
    pub(super) fn tokenize(&self, word: &str) -> Vec<Token> {
        if self.ignore_merges
            && let Some(id) = self.pieces.id(word)
        {
            return vec![Token::new(id, word.to_owned(), (0, word.len()))];
        }
        if self.unknown.is_none() && self.bytes.is_none() {
            // Characters without a token vanish before anything is merged, as `tokenizers` has it.
            let mut buffer = [0; 4];
            let known = |c: &char| self.pieces.id(c.encode_utf8(&mut buffer)).is_some();
            let kept: String = word.chars().filter(known).collect();
            return self.ids(&kept, &self.merged(&kept));
        }
        self.ids(word, &self.merged(word))
    }

    fn merged(&self, word: &str) -> Vec<Symbol> {
        let mut symbols = characters(word);
        let mut heap = BinaryHeap::with_capacity(symbols.len());
        for left in 0..symbols.len().saturating_sub(1) {
            heap.extend(self.candidate(word, &symbols, left as u32));
        }
        while let Some(Reverse(best)) = heap.pop() {
            let Symbol { len, next, .. } = symbols[best.left as usize];
            if len == 0 || next == NONE || len + symbols[next as usize].len != best.len {
                continue;
            }
            // The same text may by now be cut elsewhere, where no merge is known.
            if len != best.left_len && self.candidate(word, &symbols, best.left).is_none() {
                continue;
            }
            let after = symbols[next as usize].next;
            symbols[next as usize].len = 0;
            symbols[best.left as usize].len = best.len;
            symbols[best.left as usize].next = after;
            if after != NONE {
                symbols[after as usize].previous = best.left;
                heap.extend(self.candidate(word, &symbols, best.left));
            }
            let previous = symbols[best.left as usize].previous;
            if previous != NONE {
                heap.extend(self.candidate(word, &symbols, previous));
            }
        }
        symbols.retain(|symbol| symbol.len > 0);
        symbols
    }

    /// The merge of a symbol with the one after it, if it is known.
    fn candidate(&self, word: &str, symbols: &[Symbol], left: u32) -> Option<Reverse<Candidate>> {
        let Symbol { start, len: left_len, next, .. } = symbols[left as usize];
        let len = left_len + symbols.get(next as usize)?.len;
        let id = self.pieces.id(&word[start as usize..(start + len) as usize])?;
        let rank = match &self.ranks {
            Ranks::Pieces(ranks) => u32::try_from(*ranks.get(id as usize)?).ok()?,
            Ranks::Pairs(pairs) => pairs.rank(id, left_len)?,
        };
        Some(Reverse(Candidate { rank, left, left_len, len }))
    }

    fn ids(&self, word: &str, symbols: &[Symbol]) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::with_capacity(symbols.len());
        let mut unknown_end = None;
        for symbol in symbols {
            let (start, end) = (symbol.start as usize, (symbol.start + symbol.len) as usize);
            let text = &word[start..end];
            let one = |id| Token::new(id, text.to_owned(), (start, end));
            if let Some(id) = self.produced(text) {
                tokens.push(one(id));
            } else if let Some(bytes) = &self.bytes {
                let ids = text.bytes().map(|byte| bytes[usize::from(byte)]);
                tokens.extend(ids.map(one));
            } else if let Some(unknown) = self.unknown {
                match tokens.last_mut().filter(|_| self.fuse_unknown && unknown_end == Some(start))
                {
                    Some(last) => {
                        last.value.push_str(text);
                        last.offsets.1 = end;
                    }
                    None => tokens.push(one(unknown)),
                }
                unknown_end = Some(end);
            }
        }
        tokens
    }

    /// The id of a text that is produced: where pieces have ranks, those without one never are.
    fn produced(&self, text: &str) -> Option<u32> {
        let id = self.pieces.id(text)?;
        match &self.ranks {
            Ranks::Pieces(ranks) if ranks.get(id as usize).is_none_or(|&rank| rank < 0) => None,
            _ => Some(id),
        }
    }
}

fn characters(word: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = word
        .char_indices()
        .enumerate()
        .map(|(index, (start, c))| Symbol {
            start: start as u32,
            len: c.len_utf8() as u32,
            previous: (index as u32).wrapping_sub(1),
            next: index as u32 + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}
