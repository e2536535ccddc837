//! Bytes as tokens, or pieces of text that are often there.

use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Encoding, Tokenizer};

use crate::error::TrainError;

/// Tokens of a byte-level vocabulary: every byte, and the end of a text.
const BYTES: u32 = 257;

/// Most tokens of a fitted vocabulary.
const MOST: usize = 1 << 16;

/// What ends a text.
const END_TEXT: &str = "<|endoftext|>";

/// Bytes of a text that are turned into tokens together, up to the end of a line.
const PIECE: usize = 1 << 16;

/// How an agent's text becomes tokens.
#[derive(Clone, Debug)]
pub struct AgentTokenizer {
    document: Vec<u8>,
    /// Ends a text.
    end: u32,
    /// Bytes that each token stands for; 1 for the end.
    lengths: Vec<usize>,
    /// None where tokens are bytes.
    fitted: Option<Box<Tokenizer>>,
}

impl AgentTokenizer {
    /// Every byte is a token.
    pub fn bytes() -> Self {
        let end = BYTES - 1;
        Self { document: document(end), end, lengths: vec![1; BYTES as usize], fitted: None }
    }

    /// Byte-level byte pair encoding (Sennrich et al., 2016; Radford et al., 2019) of the pieces that
    /// are most frequent in `texts`.
    ///
    /// * `size`: tokens, 258 to 65,536; fewer if the texts have no more pairs
    ///
    /// # Errors
    /// `size` is out of range.
    pub fn fitted(texts: &[&str], size: usize) -> Result<Self, TrainError> {
        if !(BYTES as usize + 1..=MOST).contains(&size) {
            let (option, allowed) = ("the vocabulary", "258 to 65536 tokens");
            return Err(TrainError::Option { option, found: size.to_string(), allowed });
        }
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(size)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_TEXT, true)])
            .build();
        let mut trainer = TrainerWrapper::BpeTrainer(trainer);
        tokenizer.train(&mut trainer, texts.iter().flat_map(|text| pieces(text)))?;
        let length = |id: u32| match tokenizer.id_to_token(id) {
            // Each character stands for a byte.
            Some(token) if token != END_TEXT => token.chars().count(),
            _ => 1,
        };
        let lengths = (0..tokenizer.get_vocab_size(true) as u32).map(length).collect();
        let end = tokenizer.token_to_id(END_TEXT).expect("it was asked for");
        let document = tokenizer.to_string(false)?.into_bytes();
        Ok(Self { document, end, lengths, fitted: Some(Box::new(tokenizer)) })
    }

    /// The `tokenizer.json`.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Tokens that there are.
    pub fn size(&self) -> u64 {
        self.lengths.len() as u64
    }

    /// The token that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Bytes that a token stands for.
    pub fn length(&self, token: u32) -> usize {
        self.lengths[token as usize]
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// The tokenizer failed, or it takes text and this is none.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, TrainError> {
        let Some(fitted) = &self.fitted else {
            return Ok(text.iter().map(|&byte| u32::from(byte)).collect());
        };
        let text =
            std::str::from_utf8(text).map_err(|error| TrainError::Tokenizer(error.into()))?;
        let encoded = fitted.encode_batch_fast(pieces(text).collect(), false)?;
        Ok(encoded.iter().flat_map(Encoding::get_ids).copied().collect())
    }

    /// The tokens of texts, each with its end.
    ///
    /// # Errors
    /// As [`AgentTokenizer::encode`].
    pub fn encode_all<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t [u8]>,
    ) -> Result<Vec<u32>, TrainError> {
        let mut tokens = Vec::new();
        for text in texts {
            tokens.extend(self.encode(text)?);
            tokens.push(self.end);
        }
        Ok(tokens)
    }

    /// What tokens say; bytes that are no text are replaced.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TrainError> {
        if let Some(fitted) = &self.fitted {
            return Ok(fitted.decode(tokens, true)?);
        }
        let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A text in pieces of whole lines.
fn pieces(text: &str) -> impl Iterator<Item = &str> + Send {
    let mut left = text;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let (bytes, most) = (left.as_bytes(), left.len().min(PIECE));
        let is_end = |&byte: &u8| byte == b'\n';
        let end = bytes[..most].iter().rposition(is_end);
        // A line that is longer is a piece, too.
        let end = end.or_else(|| Some(most + bytes[most..].iter().position(is_end)?));
        let (piece, rest) = left.split_at(end.map_or(left.len(), |end| end + 1));
        left = rest;
        Some(piece)
    })
}

/// The `tokenizer.json` whose ids are bytes, and what ends a text.
fn document(end: u32) -> Vec<u8> {
    let vocab: Map<String, Value> =
        (0..=255_u8).map(|byte| (letter(byte).to_string(), Value::from(byte))).collect();
    let byte_level = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": false });
    let mut document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": end, "content": END_TEXT, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": null,
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    });
    // Its digest is the tokenizer's name, so the order of fields is not left to how they are written here.
    document.sort_all_objects();
    document.to_string().into_bytes()
}

/// The character that stands for a byte in byte-level vocabularies (Radford et al., 2019): itself
/// where it is printable, else one from U+0100 on.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !printable(byte)).count() as u32;
    char::from_u32(0x100 + before).expect("these are letters of Latin Extended-A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let mut letters: Vec<char> = (0..=255).map(letter).collect();
        assert_eq!((letters[0x20], letters[0x0a], letters[0xad]), ('Ġ', 'Ċ', 'Ń'));
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 256);
    }

    #[test]
    fn text_goes_there_and_back() {
        let bytes = AgentTokenizer::bytes();
        let tokens = bytes.encode_all(["häuser\n".as_bytes(), b"b"]).unwrap();
        assert_eq!((tokens.len(), tokens[8], tokens.last()), (11, bytes.end(), Some(&bytes.end())));
        assert_eq!(bytes.decode(&tokens).unwrap(), "häuser\nb");
    }

    #[test]
    fn a_fitted_tokenizer_covers_every_text_with_fewer_tokens_and_is_always_the_same() {
        let line = "the cat sat on the mat, and the häuser stood\n";
        let text = line.repeat(4000);
        let fitted = AgentTokenizer::fitted(&[&text, "another text"], 300).unwrap();
        // There are not 300 pairs in one line.
        assert!((270..300).contains(&fitted.size()), "{}", fitted.size());
        let tokens = fitted.encode(text.as_bytes()).unwrap();
        assert!(tokens.len() < text.len() / 3, "{} of {}", tokens.len(), text.len());
        assert_eq!(tokens.iter().map(|&token| fitted.length(token)).sum::<usize>(), text.len());
        for unseen in ["日本 \t\0 never seen\r\n\n  x", " ", "no end of line"] {
            let tokens = fitted.encode(unseen.as_bytes()).unwrap();
            assert_eq!(fitted.decode(&tokens).unwrap(), unseen);
        }
        let again = AgentTokenizer::fitted(&[&text, "another text"], 300).unwrap();
        assert_eq!(fitted.document(), again.document());
        assert!(fitted.encode(b"\xff").is_err());
        assert!(AgentTokenizer::fitted(&[&text], 257).is_err());
    }

    #[test]
    fn pieces_are_whole_lines_and_all_of_the_text() {
        let long = "ä".repeat(PIECE);
        for text in [String::new(), "a\nb".repeat(PIECE), format!("{long}\n{long}"), long.clone()] {
            let pieces: Vec<&str> = pieces(&text).collect();
            assert_eq!(pieces.concat(), text);
            let before_last = pieces.len().saturating_sub(1);
            assert!(pieces[..before_last].iter().all(|piece| piece.ends_with('\n')));
        }
    }
}
