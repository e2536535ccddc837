//! Texts as tokens whose places are known to the byte.

use std::ops::Range;

use super::Vocabulary;

/// Texts as tokens. Each text is followed by its end, which counts as one place more, so that an end
/// of both sides is at the same place, too.
#[derive(Clone, Debug, Default)]
pub struct TokenStream {
    tokens: Vec<u32>,
    /// Where each begins and ends.
    places: Vec<Range<usize>>,
    /// Whether each stands for the end of a text, which has no bytes.
    is_end: Vec<bool>,
    /// Where the next text begins.
    next: usize,
}

/// The part of a teacher's tokens that a student's sequence is compared to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) tokens: Range<usize>,
    /// For each row of the student.
    pub(super) rows: Vec<Option<Place>>,
}

/// Where a row of the student is for the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its row, which predicts the token that comes next, or that the student is in.
    pub(super) row: usize,
    /// Bytes of that token that are left, where the student is inside of it.
    pub(super) left: Option<usize>,
}

impl TokenStream {
    /// Adds a text. Where tokens don't spell it, that is refused with the byte from which they don't.
    ///
    /// * `end`: the token that ends a text, where there is one
    ///
    /// # Errors
    /// The tokens say something else; nothing was added.
    pub fn push(
        &mut self,
        vocabulary: &Vocabulary,
        text: &[u8],
        tokens: &[u32],
        end: Option<u32>,
    ) -> Result<(), usize> {
        let (mut at, mut places) = (0, Vec::with_capacity(tokens.len() + 1));
        for &token in tokens {
            let mut piece = vocabulary.piece(token);
            // Some tokenizers put a space before a text, and take it away again.
            if at == 0 && piece.first() == Some(&b' ') && text.first() != Some(&b' ') {
                piece = &piece[1..];
            }
            if piece.is_empty() && at > 0 || !text[at..].starts_with(piece) {
                return Err(at);
            }
            places.push(self.next + at..self.next + at + piece.len());
            at += piece.len();
        }
        if at < text.len() {
            return Err(at);
        }
        self.tokens.extend(tokens);
        self.is_end.resize(self.tokens.len(), false);
        self.places.append(&mut places);
        if let Some(end) = end {
            self.tokens.push(end);
            self.is_end.push(true);
            self.places.push(self.next + at..self.next + at + 1);
        }
        self.next += at + 1;
        Ok(())
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where a token begins.
    pub(super) fn start(&self, token: usize) -> usize {
        self.places[token].start
    }

    /// Where tokens end, beginning with one.
    pub(super) fn ends(&self, first: usize, count: usize) -> impl Iterator<Item = usize> {
        self.places[first..first + count].iter().map(|place| place.end)
    }

    /// Bytes of tokens.
    pub(super) fn bytes(&self, tokens: Range<usize>) -> usize {
        let size = |token: usize| if self.is_end[token] { 0 } else { self.places[token].len() };
        tokens.map(size).sum()
    }

    /// How many of its tokens end where one of the other does.
    pub(super) fn shared(&self, other: &Self) -> usize {
        let mut theirs = other.places.iter().map(|place| place.end).peekable();
        let mut count = 0;
        for place in &self.places {
            while theirs.next_if(|&end| end < place.end).is_some() {}
            count += usize::from(theirs.peek() == Some(&place.end));
        }
        count
    }

    /// What predicts the bytes after these ends.
    ///
    /// * `start`: where the other side begins; `ends`: ascending
    /// * `begun`: whether something stands before the first token, so that it is predicted, too
    pub(super) fn window(
        &self,
        start: usize,
        ends: impl Iterator<Item = usize>,
        begun: bool,
    ) -> Window {
        let after = |place: usize| self.places.partition_point(|of| of.end <= place);
        let first = after(start);
        let (mut rows, mut last) = (Vec::new(), first);
        for end in ends {
            let next = after(end);
            let place = self.places.get(next).filter(|place| place.start <= end);
            // Nothing says what the first of a sequence is.
            let row = (next + usize::from(begun)).checked_sub(first + 1);
            rows.push(place.zip(row).map(|(place, row)| {
                last = last.max(next + 1);
                let left = (place.start < end).then_some(place.end - end);
                Place { row, left }
            }));
        }
        Window { tokens: first..last, rows }
    }
}

impl Window {
    /// What there is to know of its rows, for a digest.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        let row = |place: &Option<Place>| {
            let [row, left] = place.map_or([u64::MAX; 2], |place| {
                [place.row as u64, place.left.map_or(0, |left| left as u64)]
            });
            [row.to_le_bytes(), left.to_le_bytes()].concat()
        };
        self.rows.iter().flat_map(row)
    }
}
