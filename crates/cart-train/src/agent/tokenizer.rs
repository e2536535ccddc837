//! Bytes as tokens.

use serde_json::{Map, Value, json};

/// Tokens of a byte-level vocabulary: every byte, and the end of a text.
pub const VOCABULARY: u64 = 257;

/// Ends a text.
pub const END: u32 = 256;

/// The `tokenizer.json` whose ids are bytes, and [`END`].
pub fn document() -> Vec<u8> {
    let vocab: Map<String, Value> =
        (0..=255_u8).map(|byte| (letter(byte).to_string(), Value::from(byte))).collect();
    let byte_level = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": false });
    let mut document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": END, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
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

/// The tokens of texts, each with its end.
pub fn encode<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Vec<u32> {
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(text.iter().map(|&byte| u32::from(byte)));
        tokens.push(END);
    }
    tokens
}

/// What tokens say; bytes that are no text are replaced.
pub fn decode(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
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
        let tokens = encode(["häuser\n".as_bytes(), b"b"]);
        assert_eq!((tokens.len(), tokens[8], tokens.last()), (11, END, Some(&END)));
        assert_eq!(decode(&tokens), "häuser\nb");
    }
}
