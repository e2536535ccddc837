//! A SentencePiece model as a `tokenizer.json`.
//!
//! The model of kind BPE merges the neighbours whose union has the best score, the leftmost of
//! equals; `tokenizer.json` has pairs in an order. Each piece gives one pair for every way to cut
//! it into two pieces, in the order of the scores. The document also has each piece's place in that
//! order as `model.cart_ranks`, which other readers pass over: with it no reader needs the pairs.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value as Json, json};

/// What stands for a space inside pieces.
const SPACE: char = '\u{2581}';

/// A way of cutting text into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Neighbours are merged.
    Bpe,
    /// The likeliest pieces, taken together.
    Unigram,
}

/// Where a space is put before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Nowhere.
    Never,
    /// Before each part of the text that lies between special tokens.
    EachPart,
    /// Before the text, if it does not begin with a special token.
    First,
}

/// What a piece is for. The numbers are SentencePiece's and GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// 1
    Normal,
    /// 2
    Unknown,
    /// 3
    Control,
    /// 4
    UserDefined,
    /// 5
    Unused,
    /// 6
    Byte,
}

impl PieceKind {
    pub(crate) fn of(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A piece; its place in the list is its id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: PieceKind,
}

impl Piece {
    /// Spaces of a user's own piece are written as spaces: it is looked for in the text itself.
    pub(crate) fn new(text: &str, score: f32, kind: PieceKind) -> Self {
        let text = match kind {
            PieceKind::UserDefined => text.replace(SPACE, " "),
            _ => text.to_owned(),
        };
        Self { text, score, kind }
    }
}

/// A SentencePiece model.
#[derive(Clone, Debug)]
pub(crate) struct SentencePiece {
    pub(crate) algorithm: Algorithm,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) prefix: Prefix,
    /// Whether spaces at the ends are dropped and runs of them made one.
    pub(crate) collapse_spaces: bool,
    /// A compiled table of character replacements; empty for none.
    pub(crate) charsmap: Vec<u8>,
    /// Special tokens that swallow the spaces after them.
    pub(crate) strips_after: fn(&str) -> bool,
}

impl SentencePiece {
    /// The `tokenizer.json`.
    pub(crate) fn document(&self, warnings: &mut Vec<String>) -> Json {
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": self.normalizer(),
            "pre_tokenizer": self.pre_tokenizer(),
            "post_processor": null,
            "decoder": self.decoder(),
            "model": match self.algorithm {
                Algorithm::Bpe => self.bpe(warnings),
                Algorithm::Unigram => self.unigram(),
            },
        })
    }

    /// Spaces are made visible, after what the model does to characters and before it sees pieces.
    fn normalizer(&self) -> Json {
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            steps.push(json!({
                "type": "Precompiled", "precompiled_charsmap": base64(&self.charsmap),
            }));
        }
        if self.collapse_spaces {
            // SentencePiece cuts a visible space off the end as well.
            let ends = format!(r"\A +|[ {SPACE}]+\z");
            steps.push(json!({"type": "Replace", "pattern": {"Regex": ends}, "content": ""}));
            steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
        }
        if self.prefix == Prefix::EachPart {
            steps.push(json!({"type": "Prepend", "prepend": SPACE}));
        }
        if self.prefix != Prefix::First {
            steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
        }
        json!({"type": "Sequence", "normalizers": steps})
    }

    fn pre_tokenizer(&self) -> Json {
        match self.prefix {
            Prefix::First => json!({
                "type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false,
            }),
            Prefix::Never | Prefix::EachPart => Json::Null,
        }
    }

    fn decoder(&self) -> Json {
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.prefix != Prefix::Never {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }

    /// Tokens that are recognized in a text as they are spelled. One with spaces in it is looked
    /// for where spaces are made visible, so that it is found in either spelling.
    fn added_tokens(&self) -> Vec<Json> {
        let added = self.pieces.iter().enumerate().filter(|(_, piece)| {
            use PieceKind::{Control, Unknown, UserDefined};
            matches!(piece.kind, Unknown | Control | UserDefined)
        });
        added
            .map(|(id, piece)| {
                let special = piece.kind != PieceKind::UserDefined;
                let spaced = piece.text.contains(' ') && self.prefix == Prefix::Never;
                json!({
                    "id": id, "content": piece.text, "single_word": false, "lstrip": false,
                    "rstrip": special && (self.strips_after)(&piece.text),
                    "normalized": spaced && !special, "special": special,
                })
            })
            .collect()
    }

    fn unknown(&self) -> Option<(usize, &Piece)> {
        self.pieces.iter().enumerate().find(|(_, piece)| piece.kind == PieceKind::Unknown)
    }

    fn has_bytes(&self) -> bool {
        self.pieces.iter().filter(|piece| piece.kind == PieceKind::Byte).count() == 256
    }

    fn bpe(&self, warnings: &mut Vec<String>) -> Json {
        let mut vocab = BTreeMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            let first = *vocab.entry(piece.text.as_str()).or_insert(id);
            if first != id {
                warnings.push(format!(
                    "token {id} has the text of token {first}, {:?}; it is never produced",
                    piece.text
                ));
            }
        }
        let ranks = self.ranks();
        json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": self.unknown().map(|(_, piece)| &piece.text),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": self.has_bytes(),
            "ignore_merges": false,
            "merges": self.merges(&ranks),
            "cart_ranks": ranks,
            "vocab": vocab,
        })
    }

    /// For each piece how many scores are better, or -1 where it never comes from a merge.
    fn ranks(&self) -> Vec<i64> {
        let mut order: Vec<usize> = (0..self.pieces.len())
            .filter(|&id| self.pieces[id].kind == PieceKind::Normal)
            .collect();
        order.sort_by(|&a, &b| self.pieces[b].score.total_cmp(&self.pieces[a].score));
        let mut ranks = vec![-1; self.pieces.len()];
        let (mut rank, mut last) = (-1, None);
        for id in order {
            let score = self.pieces[id].score;
            if last != Some(score) {
                rank += 1;
                last = Some(score);
            }
            ranks[id] = rank;
        }
        ranks
    }

    /// Every way to cut a piece into two, best pieces first; of one piece the longest beginning
    /// first.
    fn merges(&self, ranks: &[i64]) -> Vec<String> {
        let ranked = self.pieces.iter().zip(ranks).filter(|(_, rank)| **rank >= 0);
        // A merge is written as two tokens with a space between.
        let normal = ranked.filter(|(piece, _)| !piece.text.contains(' '));
        let known: HashSet<&str> = normal.clone().map(|(piece, _)| piece.text.as_str()).collect();
        let mut merges = Vec::new();
        for (piece, &rank) in normal {
            let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
            let cuts = cuts.filter(|(left, right)| known.contains(left) && known.contains(right));
            merges.extend(cuts.map(|(left, right)| (rank, left, right)));
        }
        merges.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.len().cmp(&a.1.len())));
        merges.into_iter().map(|(_, left, right)| format!("{left} {right}")).collect()
    }

    fn unigram(&self) -> Json {
        let vocab: Vec<_> =
            self.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
        let mut model = Map::new();
        model.insert("type".to_owned(), json!("Unigram"));
        model.insert("unk_id".to_owned(), json!(self.unknown().map(|(id, _)| id)));
        model.insert("vocab".to_owned(), Json::Array(vocab));
        model.insert("byte_fallback".to_owned(), json!(self.has_bytes()));
        Json::Object(model)
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let known = digit <= chunk.len();
            let six = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if known { DIGITS[six] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in texts {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
