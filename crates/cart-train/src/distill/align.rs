//! A teacher whose tokens are other ones than the student's, compared where both speak of the same
//! bytes.
//!
//! Both read the same text, each in its own tokens. After a token of the student that ends where one
//! of the teacher does, what both say next is compared by [`Classes`] of tokens: the finest ones that
//! the next bytes decide, whichever of the two cuts them. After one that ends *inside* a token of the
//! teacher, what the teacher said of that token is taken under the condition that it begins with the
//! bytes that are known by now, and the next byte is compared. Nothing is sorted or guessed: each number is a sum of
//! probabilities of one side that belongs to the same sum of the other.

mod classes;
mod stream;

use std::sync::Arc;

use cart_format::BlobId;
use cart_nn::graph::TokenGroups;
use serde::Serialize;

use super::teacher::{Position, Said};
use crate::corpus::Batch;

pub use classes::Vocabulary;
pub use stream::TokenStream;

use classes::Classes;
use stream::{Place, Window};

/// Way of grouping where both sides end at the same byte.
const BETWEEN: u8 = 0;
/// Way of grouping inside a token of the teacher: by the next byte.
const INSIDE: u8 = 1;

/// The first token that a tokenizer makes of a text.
pub type FirstToken<'t> = dyn Fn(&str) -> Option<u32> + 't;

/// A text in both sides' tokens, and what of them is compared.
#[derive(Debug)]
pub struct Alignment {
    teacher: TokenStream,
    student: TokenStream,
    vocabulary: Vocabulary,
    /// What the teacher's sequences begin with.
    begin: Option<u32>,
    classes: Classes,
    /// Of everything besides the teacher's tokens that its answers depend on.
    basis: BlobId,
}

/// How two vocabularies and their tokens of a text go together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AlignmentReport {
    /// Tokens of the text, the student's.
    pub student_tokens: usize,
    /// The teacher's.
    pub teacher_tokens: usize,
    /// The share of the student's tokens that end where one of the teacher does.
    pub shared_ends: f64,
    /// Classes of tokens that are told apart between tokens.
    pub classes: usize,
    /// Those of one token of each side, with the same bytes.
    pub single: usize,
}

/// What the rows of a student's sequence are compared to.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    /// The teacher's sequence, `[rows + 1]`.
    pub(super) tokens: Vec<u32>,
    /// Bytes that are predicted in it.
    pub(super) bytes: usize,
    window: Window,
}

impl Alignment {
    /// * `begin`: what the teacher's sequences begin with, if anything does
    /// * `first`: the first token of a text, by `[teacher, student]`'s tokenizer
    pub fn new(
        (teacher, of_teacher): (TokenStream, Vocabulary),
        (student, of_student): (TokenStream, &Vocabulary),
        begin: Option<u32>,
        first: [&FirstToken<'_>; 2],
    ) -> Self {
        let classes = Classes::between(&of_teacher, of_student, first);
        let basis = classes.digest();
        Self { teacher, student, vocabulary: of_teacher, begin, classes, basis }
    }

    /// The student's tokens.
    pub fn student_tokens(&self) -> &[u32] {
        self.student.tokens()
    }

    /// How both go together.
    pub fn report(&self) -> AlignmentReport {
        let (student, teacher) = (self.student.tokens().len(), self.teacher.tokens().len());
        AlignmentReport {
            student_tokens: student,
            teacher_tokens: teacher,
            shared_ends: self.student.shared(&self.teacher) as f64 / student.max(1) as f64,
            classes: self.classes.count(BETWEEN),
            single: self.classes.single(),
        }
    }

    /// Groups that can be named one by one in every row.
    pub(super) fn most(&self) -> usize {
        self.classes.count(BETWEEN).min(self.classes.count(INSIDE))
    }

    pub(super) fn groups(&self) -> &Arc<TokenGroups> {
        self.classes.groups()
    }

    /// Of what the teacher's answers depend on, besides its own tokens.
    ///
    /// * `compared`: the rows that are asked for
    pub(super) fn basis(&self, compared: &Compared) -> BlobId {
        let mut bytes = self.basis.as_bytes().to_vec();
        bytes.extend(compared.window.bytes());
        BlobId::of(&bytes)
    }

    /// The teacher's sequences for those of a batch.
    pub(super) fn compared(&self, batch: &Batch) -> Vec<Compared> {
        let context = batch.context();
        let one = |&start: &usize| {
            let ends = self.student.ends(start, context);
            let window = self.teacher.window(self.student.start(start), ends, self.begin.is_some());
            let mut tokens: Vec<u32> = self.begin.into_iter().collect();
            tokens.extend(&self.teacher.tokens()[window.tokens.clone()]);
            let first = usize::from(self.begin.is_none());
            let range = window.tokens.start + first.min(window.tokens.len())..window.tokens.end;
            let bytes = self.teacher.bytes(range);
            Compared { tokens, bytes, window }
        };
        batch.starts.iter().map(one).collect()
    }

    /// Bytes that the student predicts in a batch.
    pub(super) fn student_bytes(&self, batch: &Batch) -> usize {
        let context = batch.context();
        batch.starts.iter().map(|&start| self.student.bytes(start + 1..start + 1 + context)).sum()
    }

    /// What a row of the teacher's predictions says of the student's rows that are compared with it.
    ///
    /// * `rows`: those rows; `logits`: the teacher's, `[vocab]`
    pub(super) fn said(
        &self,
        compared: &Compared,
        rows: &[usize],
        logits: &[f32],
        best: usize,
    ) -> Vec<Position> {
        let of_place = |place: &Place| {
            let piece = self.vocabulary.piece(compared.tokens[place.row + 1]);
            let sums = match place.left {
                Some(left) => self.classes.inside(&self.vocabulary, piece, left, logits),
                None => self.classes.between_tokens(logits),
            };
            Position::of_groups(&sums, best)
        };
        rows.iter().filter_map(|&row| compared.window.rows[row].as_ref()).map(of_place).collect()
    }

    /// The likeliest group of a row of the student.
    ///
    /// * `logits`: `[vocab]`
    pub(super) fn likeliest(&self, way: u8, logits: &[f32]) -> u32 {
        let most = cart_nn::logits::largest(logits);
        let mut sums = vec![0.0; self.classes.count(way)];
        for (logit, &group) in logits.iter().zip(self.groups().map(way)) {
            sums[group as usize] += f64::from(logit - most).exp();
        }
        classes::order(&sums, 1)[0]
    }
}

impl Compared {
    /// The way of grouping of each row; none where nothing is compared.
    pub(super) fn ways(&self) -> impl Iterator<Item = Option<u8>> {
        let way = |left: Option<usize>| if left.is_some() { INSIDE } else { BETWEEN };
        self.window.rows.iter().map(move |place| place.map(|place| way(place.left)))
    }

    pub(super) fn rows(&self) -> usize {
        self.window.rows.len()
    }

    /// The student's rows that are compared with each of the teacher's.
    pub(super) fn by_teacher(&self) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new(); self.tokens.len().saturating_sub(1)];
        for (row, place) in self.window.rows.iter().enumerate() {
            if let Some(place) = place {
                rows[place.row].push(row);
            }
        }
        rows
    }

    /// All rows: those that something was said of, and the others.
    ///
    /// * `said`: rows with what was said of them
    pub(super) fn whole(
        &self,
        said: impl IntoIterator<Item = (usize, Position)>,
        best: usize,
    ) -> Said {
        let mut positions: Vec<Option<Position>> = Vec::new();
        positions.resize_with(self.rows(), || None);
        said.into_iter().for_each(|(row, position)| positions[row] = Some(position));
        positions.into_iter().map(|of| of.unwrap_or_else(|| Position::nothing(best))).collect()
    }
}

impl Position {
    /// One of no weight.
    fn nothing(best: usize) -> Self {
        let log = -((best + 1) as f32).ln();
        Self { tokens: (0..best as u32).collect(), logs: vec![log; best + 1] }
    }

    /// One of groups.
    ///
    /// * `sums`: what each has, by any common factor, then what no group has
    fn of_groups((sums, beyond): &(Vec<f64>, f64), best: usize) -> Self {
        let tokens = classes::order(sums, best);
        let mut left = sums.clone();
        tokens.iter().for_each(|&group| left[group as usize] = 0.0);
        let others = left.iter().sum::<f64>() + beyond;
        let all = (others + tokens.iter().map(|&group| sums[group as usize]).sum::<f64>()).ln();
        let log = |sum: f64| ((sum.ln() - all) as f32).max(f32::MIN);
        let mut logs: Vec<f32> = tokens.iter().map(|&group| log(sums[group as usize])).collect();
        logs.push(log(others));
        Self { tokens, logs }
    }
}

#[cfg(test)]
mod tests;
