//! Tokens to bytes, and bytes to text as they come.

use serde_json::{Value, json};
use tokenizers::DecoderWrapper;

/// How tokens become text.
#[derive(Debug)]
pub(crate) enum Decoding {
    /// Each character of a token stands for a byte, as GPT-2 has it.
    ByteLevel,
    /// As SentencePiece: `▁` is a space and `<0x0A>` a byte.
    SentencePiece {
        /// Whether a space at the very beginning is dropped.
        strip: bool,
    },
    /// Some other way of the `tokenizers` library.
    Other(Box<DecoderWrapper>),
    /// No way is given: tokens are put side by side with spaces.
    Spaced,
}

impl Decoding {
    pub(super) fn new(decoder: Option<Value>) -> Result<Self, serde_json::Error> {
        let Some(decoder) = decoder.filter(|decoder| !decoder.is_null()) else {
            return Ok(Self::Spaced);
        };
        if decoder["type"] == "ByteLevel" {
            return Ok(Self::ByteLevel);
        }
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let listed = decoder["decoders"].as_array().filter(|_| decoder["type"] == "Sequence");
        if listed == Some(&steps) {
            return Ok(Self::SentencePiece { strip: false });
        }
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        if listed == Some(&steps) {
            return Ok(Self::SentencePiece { strip: true });
        }
        serde_json::from_value(decoder).map(|other| Self::Other(Box::new(other)))
    }

    /// Adds a token's bytes. False where this way of decoding has no bytes for a token alone.
    pub(super) fn bytes(&self, token: &str, out: &mut Vec<u8>) -> bool {
        match self {
            Self::ByteLevel => {
                let known = out.len();
                for c in token.chars() {
                    let Some(byte) = byte_of(c) else {
                        // A token of the user's that is not written in this alphabet.
                        out.truncate(known);
                        out.extend(token.as_bytes());
                        break;
                    };
                    out.push(byte);
                }
                true
            }
            Self::SentencePiece { .. } => {
                match byte_token(token) {
                    Some(byte) => out.push(byte),
                    None => out.extend(token.replace('\u{2581}', " ").as_bytes()),
                }
                true
            }
            Self::Other(_) | Self::Spaced => false,
        }
    }

    /// Moves what is certain from bytes to text. At the end everything is.
    pub(crate) fn drain(&self, bytes: &mut Vec<u8>, at_end: bool, out: &mut String) {
        let mut rest = bytes.as_slice();
        let kept = loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    break 0;
                }
                Err(error) => error,
            };
            let (valid, broken) = rest.split_at(error.valid_up_to());
            out.push_str(std::str::from_utf8(valid).expect("it is valid up to there"));
            let len = match error.error_len() {
                None if !at_end => break broken.len(),
                None => broken.len(),
                Some(len) => len,
            };
            // SentencePiece shows each broken byte, the others each broken character.
            let shown = if matches!(self, Self::SentencePiece { .. }) { len } else { 1 };
            out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, shown));
            rest = &broken[len..];
        };
        bytes.drain(..bytes.len() - kept);
    }

    /// Whether a space at the very beginning of a text is dropped.
    pub(crate) fn strips(&self) -> bool {
        matches!(self, Self::SentencePiece { strip: true })
    }
}

/// `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's alphabet: printable characters of Latin-1 are themselves, the other bytes follow from
/// U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn gpt2s_alphabet_has_a_character_for_each_byte() {
        let bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(BTreeSet::from_iter(&bytes).len(), 256);
        assert_eq!(
            [byte_of('Ġ'), byte_of('Ċ'), byte_of('é')],
            [Some(b' '), Some(b'\n'), Some(0xe9)]
        );
    }

    #[test]
    fn half_a_character_waits_for_the_rest() {
        let mut out = String::new();
        let mut bytes = b"a\xe2\x82".to_vec();
        Decoding::ByteLevel.drain(&mut bytes, false, &mut out);
        assert_eq!((out.as_str(), bytes.as_slice()), ("a", &b"\xe2\x82"[..]));
        bytes.push(b'x');
        Decoding::ByteLevel.drain(&mut bytes, false, &mut out);
        assert_eq!((out.as_str(), bytes.len()), ("a\u{fffd}x", 0));
        let mut bytes = b"\xe2\x82".to_vec();
        let sentence_piece = Decoding::SentencePiece { strip: true };
        sentence_piece.drain(&mut bytes, true, &mut out);
        assert_eq!(out, "a\u{fffd}x\u{fffd}\u{fffd}");
    }
}
