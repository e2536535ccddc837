//! Unigram: of all ways to cut a text into pieces, the one whose scores add up to the most.

use tokenizers::Token;

use super::pieces::Pieces;

/// What an unknown character costs beside the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A model of this kind. Sums are made in f32 from left to right and an equal sum replaces nothing,
/// which decides ties as SentencePiece does.
#[derive(Debug)]
pub(super) struct Unigram {
    pieces: Pieces,
    /// By id; not a number for pieces that are not looked for.
    scores: Vec<f32>,
    unknown: Option<u32>,
    unknown_score: f32,
    bytes: Option<Box<[u32; 256]>>,
}

/// The best way to get to a place of the text.
#[derive(Clone, Copy, Debug)]
struct Best {
    sum: f32,
    start: usize,
    /// None for an unknown character.
    id: Option<u32>,
}

impl Unigram {
    /// * `scores`: by id
    /// * `apart`: ids that are never found in a text: special tokens and those of the user
    pub(super) fn new(
        pieces: Pieces,
        mut scores: Vec<f32>,
        unknown: Option<u32>,
        byte_fallback: bool,
        apart: impl Iterator<Item = u32>,
    ) -> Self {
        let bytes = pieces.bytes().filter(|_| byte_fallback);
        let of_bytes = bytes.iter().flat_map(|ids| ids.iter().copied());
        for id in apart.chain(of_bytes) {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NAN;
            }
        }
        let worst = scores.iter().copied().fold(f32::INFINITY, f32::min);
        Self { pieces, scores, unknown, unknown_score: worst - UNKNOWN_PENALTY, bytes }
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The tokens of one word, with ranges in its bytes.
    pub(super) fn tokenize(&self, word: &str) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut unknown_end = None;
        for (start, end, id) in self.path(word) {
            let text = &word[start..end];
            let one = |id| Token::new(id, text.to_owned(), (start, end));
            match (id, &self.bytes, self.unknown) {
                (Some(id), ..) => tokens.push(one(id)),
                (None, Some(bytes), _) => {
                    tokens.extend(text.bytes().map(|byte| one(bytes[usize::from(byte)])));
                }
                (None, None, Some(unknown)) => {
                    match tokens.last_mut().filter(|_| unknown_end == Some(start)) {
                        Some(last) => {
                            last.value.push_str(text);
                            last.offsets.1 = end;
                        }
                        None => tokens.push(one(unknown)),
                    }
                    unknown_end = Some(end);
                }
                (None, None, None) => {}
            }
        }
        tokens
    }

    /// The best cuts, as begin, end and id.
    fn path(&self, word: &str) -> Vec<(usize, usize, Option<u32>)> {
        let mut best: Vec<Option<Best>> = vec![None; word.len() + 1];
        for (start, first) in word.char_indices() {
            let so_far = best[start].map_or(0.0, |best| best.sum);
            let mut reach = |end: usize, score: f32, id| {
                let sum = score + so_far;
                if best[end].is_none_or(|best| sum > best.sum) {
                    best[end] = Some(Best { sum, start, id });
                }
            };
            let mut single = false;
            for (at, c) in word[start..].char_indices() {
                let end = start + at + c.len_utf8();
                if end - start > self.pieces.longest() {
                    break;
                }
                let Some(id) = self.pieces.id(&word[start..end]) else { continue };
                let score = self.scores[id as usize];
                if !score.is_nan() {
                    reach(end, score, Some(id));
                    single |= at == 0;
                }
            }
            if !single {
                reach(start + first.len_utf8(), self.unknown_score, None);
            }
        }
        let mut path = Vec::new();
        let mut end = word.len();
        while let Some(Best { start, id, .. }) = best[end] {
            path.push((start, end, id));
            end = start;
        }
        path.reverse();
        path
    }
}
