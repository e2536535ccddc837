//! Which tokens of two vocabularies say the same of the bytes that come next.

use std::sync::Arc;

use cart_format::BlobId;
use cart_nn::graph::TokenGroups;
use cart_nn::logits;

use super::{BETWEEN, FirstToken, INSIDE};

/// What tokens stand for.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The bytes of each token; none of one that is no part of a text.
    pieces: Vec<Vec<u8>>,
    /// Any of these ends a text.
    ends: Vec<u32>,
    /// Tokens with bytes, by their bytes and then by their ids.
    order: Vec<u32>,
}

/// Classes of tokens of a teacher and a student.
///
/// A token of one side and the token of the other that a text which begins with it begins with are in
/// one class, and so on: these are the connected parts of that relation. So whatever bytes come next,
/// both sides begin them with tokens of one class, as long as each cuts a text as its tokenizer does.
#[derive(Debug)]
pub(super) struct Classes {
    /// The class of each token of the teacher; none where nothing of the student corresponds.
    teacher: Vec<Option<u32>>,
    /// Those of the student, between tokens and inside one.
    groups: Arc<TokenGroups>,
    single: usize,
}

impl Vocabulary {
    /// * `pieces`: the bytes of each token; none of one that is no part of a text
    /// * `ends`: tokens that end a text
    pub fn new(pieces: Vec<Vec<u8>>, ends: Vec<u32>) -> Self {
        let mut order: Vec<u32> =
            (0..pieces.len() as u32).filter(|&id| !pieces[id as usize].is_empty()).collect();
        order.sort_by(|&a, &b| pieces[a as usize].cmp(&pieces[b as usize]).then(a.cmp(&b)));
        Self { pieces, ends, order }
    }

    /// Tokens, those that are no part of a text among them.
    pub fn size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that ends a text.
    pub fn end(&self) -> Option<u32> {
        self.ends.first().copied()
    }

    pub(in crate::distill) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The bytes of a token.
    pub(in crate::distill) fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Tokens that begin with these bytes.
    fn beginning_with(&self, bytes: &[u8]) -> &[u32] {
        let from = self.order.partition_point(|&token| self.piece(token) < bytes);
        let rest = &self.order[from..];
        &rest[..rest.partition_point(|&token| self.piece(token).starts_with(bytes))]
    }

    /// A token of exactly these bytes.
    pub(in crate::distill) fn exactly(&self, bytes: &[u8]) -> Option<u32> {
        self.beginning_with(bytes).first().copied().filter(|&token| self.piece(token) == bytes)
    }

    /// The token that a text of these bytes begins with: what the tokenizer says, where they are a
    /// text, and else the longest.
    fn first(&self, bytes: &[u8], tokenized: &FirstToken<'_>) -> Option<u32> {
        let found = self.exactly(bytes).or_else(|| {
            let text = std::str::from_utf8(bytes).ok()?;
            let is_part = |of: &u32| !self.piece(*of).is_empty();
            tokenized(text).filter(is_part).filter(|&of| bytes.starts_with(self.piece(of)))
        });
        found.or_else(|| (1..bytes.len()).rev().find_map(|len| self.exactly(&bytes[..len])))
    }
}

impl Classes {
    pub(super) fn between(
        teacher: &Vocabulary,
        student: &Vocabulary,
        [of_teacher, of_student]: [&FirstToken<'_>; 2],
    ) -> Self {
        // Tokens of the student, those of the teacher, what has no bytes, ends.
        let (own, theirs) = (student.pieces.len(), teacher.pieces.len());
        let (bare, end) = (own + theirs, own + theirs + 1);
        let mut parts = Parts::new(own + theirs + 2);
        let both_end = !student.ends.is_empty() && !teacher.ends.is_empty();
        for (vocabulary, offset) in [(student, 0), (teacher, own)] {
            let is_bare = |token: &usize| vocabulary.pieces[*token].is_empty();
            for token in (0..vocabulary.pieces.len()).filter(is_bare) {
                let ends = both_end && vocabulary.ends.contains(&(token as u32));
                parts.join(offset + token, if ends { end } else { bare });
            }
            for pair in vocabulary.order.array_windows() {
                let [a, b] = *pair;
                if vocabulary.piece(a) == vocabulary.piece(b) {
                    parts.join(offset + a as usize, offset + b as usize);
                }
            }
        }
        for &token in &teacher.order {
            if let Some(first) = student.first(teacher.piece(token), of_student) {
                parts.join(own + token as usize, first as usize);
            }
        }
        for &token in &student.order {
            if let Some(first) = teacher.first(student.piece(token), of_teacher) {
                parts.join(token as usize, own + first as usize);
            }
        }
        Self::of(&mut parts, student, own, theirs)
    }

    /// * `own`, `theirs`: tokens of the student and of the teacher
    fn of(parts: &mut Parts, student: &Vocabulary, own: usize, theirs: usize) -> Self {
        let mut numbers = vec![None; own + theirs + 2];
        let mut sizes: Vec<[usize; 2]> = Vec::new();
        let mut between = Vec::with_capacity(own);
        for token in 0..own {
            let number = numbers[parts.root(token)].get_or_insert_with(|| {
                sizes.push([0; 2]);
                sizes.len() as u32 - 1
            });
            sizes[*number as usize][0] += 1;
            between.push(*number);
        }
        let of_teacher = |token: usize| numbers[parts.root(own + token)];
        let teacher: Vec<Option<u32>> = (0..theirs).map(of_teacher).collect();
        teacher.iter().flatten().for_each(|&class| sizes[class as usize][1] += 1);
        let single = sizes.iter().filter(|sizes| **sizes == [1, 1]).count();
        // What has no bytes comes after all bytes.
        let byte = |piece: &Vec<u8>| piece.first().map_or(256, |&byte| u32::from(byte));
        let inside = student.pieces.iter().map(byte).collect();
        let groups = Arc::new(TokenGroups::new(vec![between, inside]));
        Self { teacher, groups, single }
    }

    pub(super) fn groups(&self) -> &Arc<TokenGroups> {
        &self.groups
    }

    pub(super) fn count(&self, way: u8) -> usize {
        self.groups.count(way)
    }

    /// Classes of one token of each side.
    pub(super) fn single(&self) -> usize {
        self.single
    }

    /// What each class has of what a teacher predicts, by a common factor, and what none has.
    pub(super) fn between_tokens(&self, of: &[f32]) -> (Vec<f64>, f64) {
        let most = logits::largest(of);
        let (mut sums, mut beyond) = (vec![0.0; self.count(BETWEEN)], 0.0);
        for (logit, class) in of.iter().zip(&self.teacher) {
            let power = f64::from(logit - most).exp();
            match class {
                Some(class) => sums[*class as usize] += power,
                None => beyond += power,
            }
        }
        (sums, beyond)
    }

    /// What each next byte has, by a common factor, of the tokens that begin with what is known.
    ///
    /// * `piece`: the token that came; `left`: its bytes that are not known yet, 1 or more
    pub(super) fn inside(
        &self,
        teacher: &Vocabulary,
        piece: &[u8],
        left: usize,
        of: &[f32],
    ) -> (Vec<f64>, f64) {
        let known = &piece[..piece.len() - left];
        let within = || {
            let tokens = teacher.beginning_with(known).iter().map(|&token| token as usize);
            let longer = tokens.filter(|&token| teacher.pieces[token].len() > known.len());
            longer.filter_map(|token| Some((*of.get(token)?, teacher.pieces[token][known.len()])))
        };
        let most = within().map(|(logit, _)| logit).fold(f32::NEG_INFINITY, f32::max);
        let (mut sums, mut beyond) = (vec![0.0; self.count(INSIDE)], 0.0);
        for (logit, byte) in within() {
            let power = f64::from(logit - most).exp();
            match sums.get_mut(usize::from(byte)) {
                Some(sum) => *sum += power,
                None => beyond += power,
            }
        }
        (sums, beyond)
    }

    /// SHA-256 of both sides' classes.
    pub(super) fn digest(&self) -> BlobId {
        let ways = [BETWEEN, INSIDE].map(|way| self.groups.map(way));
        let mut bytes = Vec::new();
        for map in ways {
            bytes.extend((map.len() as u64).to_le_bytes());
            bytes.extend(map.iter().flat_map(|group| group.to_le_bytes()));
        }
        let class = |class: &Option<u32>| class.unwrap_or(u32::MAX).to_le_bytes();
        bytes.extend(self.teacher.iter().flat_map(class));
        BlobId::of(&bytes)
    }
}

/// The largest, the largest first; of equal ones those with smaller numbers.
///
/// * `count`: 1 or more
pub(super) fn order(sums: &[f64], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..sums.len() as u32).collect();
    let before =
        |a: &u32, b: &u32| sums[*b as usize].total_cmp(&sums[*a as usize]).then_with(|| a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, before);
        order.truncate(count);
    }
    order.sort_unstable_by(before);
    order
}

/// Parts of a whole that are joined (Galler and Fischer, 1964).
struct Parts(Vec<u32>);

impl Parts {
    fn new(count: usize) -> Self {
        Self((0..count as u32).collect())
    }

    fn root(&self, mut of: usize) -> usize {
        while self.0[of] as usize != of {
            of = self.0[of] as usize;
        }
        of
    }

    /// The smaller root stays one, so that numbers don't depend on an order.
    fn join(&mut self, a: usize, b: usize) {
        let [a, b] = [a, b].map(|of| {
            let root = self.root(of);
            self.0[of] = root as u32;
            root
        });
        let (least, most) = (a.min(b), a.max(b));
        self.0[most] = least as u32;
    }
}
