//! `tokenizer.model`: a SentencePiece model as protocol buffers (`sentencepiece_model.proto`).

use thiserror::Error;

use crate::import::sentencepiece::{Algorithm, Piece, PieceKind, Prefix, SentencePiece};

/// Why a file is no SentencePiece model.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SentencePieceError {
    /// It ends inside a field, or a field has no known wire type.
    #[error("not a SentencePiece model: the field at byte {at} can't be read")]
    Field {
        /// Where the field begins, in its message.
        at: usize,
    },
    /// A piece that is not text, has no finite score or no known kind.
    #[error("piece {index} has {found}; allowed: a text, a finite score and a kind from 1 to 6")]
    Piece {
        /// Its id.
        index: usize,
        /// What is wrong.
        found: &'static str,
    },
    /// Another way of cutting text.
    #[error("the model is of kind {found}; allowed: 1 (unigram) and 2 (BPE)")]
    Algorithm {
        /// `trainer_spec.model_type`.
        found: u64,
    },
    /// Something that this program does not do.
    #[error(
        "the model asks for `{option}`, which cart does not do; pass a tokenizer.json with --tokenizer"
    )]
    Option {
        /// The name of the option.
        option: &'static str,
    },
}

/// The ids that the model itself gives roles to; below 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) unk: i32,
    pub(crate) bos: i32,
    pub(crate) eos: i32,
    pub(crate) pad: i32,
}

/// Reads a model.
pub(crate) fn parse(bytes: &[u8]) -> Result<(SentencePiece, Roles), SentencePieceError> {
    let mut model = SentencePiece {
        algorithm: Algorithm::Unigram,
        pieces: Vec::new(),
        prefix: Prefix::EachPart,
        collapse_spaces: true,
        charsmap: Vec::new(),
        strips_after: |_| false,
    };
    let mut roles = Roles { unk: 0, bos: 1, eos: 2, pad: -1 };
    for field in Fields::of(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => {
                let piece = read_piece(piece, model.pieces.len())?;
                model.pieces.push(piece);
            }
            (2, Field::Bytes(trainer)) => read_trainer(trainer, &mut model, &mut roles)?,
            (3, Field::Bytes(normalizer)) => read_normalizer(normalizer, &mut model)?,
            _ => {}
        }
    }
    Ok((model, roles))
}

fn read_piece(bytes: &[u8], index: usize) -> Result<Piece, SentencePieceError> {
    let wrong = |found| SentencePieceError::Piece { index, found };
    let (mut text, mut score, mut kind) = ("", 0.0, PieceKind::Normal);
    for field in Fields::of(bytes) {
        match field? {
            (1, Field::Bytes(bytes)) => {
                text = std::str::from_utf8(bytes).map_err(|_| wrong("bytes that are no text"))?;
            }
            (2, Field::Four(bits)) => score = f32::from_bits(bits),
            (3, Field::Number(number)) => {
                let known = i64::try_from(number).ok().and_then(PieceKind::of);
                kind = known.ok_or_else(|| wrong("an unknown kind"))?;
            }
            _ => {}
        }
    }
    if !score.is_finite() {
        return Err(wrong("a score that is not finite"));
    }
    Ok(Piece::new(text, score, kind))
}

fn read_trainer(
    bytes: &[u8],
    model: &mut SentencePiece,
    roles: &mut Roles,
) -> Result<(), SentencePieceError> {
    for field in Fields::of(bytes) {
        // Negative numbers are written as 64 bits.
        match field? {
            (3, Field::Number(1)) => model.algorithm = Algorithm::Unigram,
            (3, Field::Number(2)) => model.algorithm = Algorithm::Bpe,
            (3, Field::Number(found)) => return Err(SentencePieceError::Algorithm { found }),
            (24, Field::Number(1)) => {
                return Err(SentencePieceError::Option { option: "treat_whitespace_as_suffix" });
            }
            (40, Field::Number(id)) => roles.unk = id as i32,
            (41, Field::Number(id)) => roles.bos = id as i32,
            (42, Field::Number(id)) => roles.eos = id as i32,
            (43, Field::Number(id)) => roles.pad = id as i32,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(bytes: &[u8], model: &mut SentencePiece) -> Result<(), SentencePieceError> {
    for field in Fields::of(bytes) {
        match field? {
            (2, Field::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
            (3, Field::Number(0)) => model.prefix = Prefix::Never,
            (4, Field::Number(flag)) => model.collapse_spaces = flag != 0,
            (5, Field::Number(0)) => {
                return Err(SentencePieceError::Option { option: "escape_whitespaces = false" });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Four(u32),
    Eight,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order, with their numbers.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(len).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Eight)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Four(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), SentencePieceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let at = self.at;
        let field = self.field();
        if field.is_none() {
            // Nothing after a broken field can be trusted.
            self.at = self.bytes.len();
        }
        Some(field.ok_or(SentencePieceError::Field { at }))
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    const BPE: &[u8] = include_bytes!("../../../../fixtures/tokenizer/sp-bpe.model");
    const UNIGRAM: &[u8] =
        include_bytes!("../../../../fixtures/tokenizer/sp-unigram-charsmap.model");

    #[test]
    fn documents_are_read_by_the_library_of_hugging_face() {
        let cut = |bytes: &[u8], text: &str| {
            let (model, roles) = parse(bytes).unwrap();
            assert_eq!(roles, Roles { unk: 0, bos: 1, eos: 2, pad: -1 });
            let document = model.document(&mut Vec::new()).to_string();
            let tokenizer = Tokenizer::from_bytes(document).unwrap();
            let encoding = tokenizer.encode(text, false).unwrap();
            let decoded = tokenizer.decode(encoding.get_ids(), false).unwrap();
            (encoding.get_tokens().to_vec(), decoded)
        };
        let (tokens, decoded) = cut(BPE, "the  works é");
        assert_eq!((tokens[0].as_str(), decoded.as_str()), ("\u{2581}the", "the  works é"));
        assert!(tokens.ends_with(&["<0xC3>".to_owned(), "<0xA9>".to_owned()]), "{tokens:?}");
        let (_, decoded) = cut(UNIGRAM, " A\tworks  B ");
        assert_eq!(decoded, "a works b");
    }

    #[test]
    fn damaged_models_are_refused() {
        let field = |result: Result<_, SentencePieceError>| {
            matches!(result, Err(SentencePieceError::Field { .. }))
        };
        for len in [1, 2, 5, BPE.len() - 1] {
            assert!(field(parse(&BPE[..len])), "{len}");
        }
        assert!(field(parse(&[0x0b])), "a wire type that is gone");
        assert!(field(parse(&[0xff; 12])), "a number without end");
        let word = [0x12, 2, 0x18, 3];
        assert_eq!(parse(&word).unwrap_err(), SentencePieceError::Algorithm { found: 3 });
        let suffix = [0x12, 3, 0xc0, 1, 1];
        assert!(matches!(parse(&suffix), Err(SentencePieceError::Option { .. })));
        let kind = [0x0a, 2, 0x18, 9];
        assert!(matches!(parse(&kind), Err(SentencePieceError::Piece { index: 0, .. })));
        let endless = [0x0a, 5, 0x15, 0, 0, 0x80, 0x7f];
        assert!(matches!(parse(&endless), Err(SentencePieceError::Piece { index: 0, .. })));
        let bytes = [0x0a, 3, 0x0a, 1, 0xff];
        assert!(matches!(parse(&bytes), Err(SentencePieceError::Piece { index: 0, .. })));
    }
}
