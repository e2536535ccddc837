//! Tokens to text as they come.

use cart_engine::{ParseSpecial, ShowSpecial, TextStream, Tokenizer};
use proptest::prelude::*;

use crate::given::fixture;

fn tiny() -> Tokenizer {
    let document = std::fs::read(fixture("tiny/tokenizer.json")).unwrap();
    Tokenizer::new(&document, cart_format::SpecialTokens::default()).unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], show: ShowSpecial) -> Vec<String> {
    let mut stream = TextStream::new(show);
    let mut deltas: Vec<String> =
        ids.iter().map(|&id| stream.push(tokenizer, id).unwrap()).collect();
    deltas.push(stream.flush(tokenizer).unwrap());
    deltas
}

#[test]
fn special_tokens_are_one_token_or_ordinary_text() {
    let tokenizer = tiny();
    let text = "a<|im_end|>b";
    let parsed = tokenizer.encode(text, ParseSpecial::Yes).unwrap();
    let literal = tokenizer.encode(text, ParseSpecial::No).unwrap();
    assert!(parsed.len() < literal.len());
    assert_eq!(tokenizer.decode(&parsed, ShowSpecial::No).unwrap(), "ab");
    assert_eq!(tokenizer.decode(&parsed, ShowSpecial::Yes).unwrap(), text);
    assert_eq!(tokenizer.decode(&literal, ShowSpecial::No).unwrap(), text);
}

/// Put together they are the text, also where a letter is of several tokens; what is no part of a text has none.
#[test]
fn bytes_of_tokens_spell_the_text() {
    let tokenizer = tiny();
    let bytes = |id: u32| tokenizer.token_bytes(id).unwrap();
    for text in ["One day, Anna went to the harbour.\n", "häuser 日本 🎉", "  two  spaces"] {
        let ids = tokenizer.encode(text, ParseSpecial::No).unwrap();
        assert_eq!(ids.iter().flat_map(|&id| bytes(id)).collect::<Vec<u8>>(), text.as_bytes());
    }
    let special = tokenizer.encode("<|im_end|>", ParseSpecial::Yes).unwrap();
    assert_eq!((special.len(), bytes(special[0]).len(), bytes(100_000).len()), (1, 0, 0));
}

#[test]
fn a_document_that_is_no_tokenizer_is_refused() {
    for document in [&b"{}"[..], b"", b"\xff", b"[1, 2]"] {
        assert!(Tokenizer::new(document, cart_format::SpecialTokens::default()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whole_characters_come_out_and_add_up_to_the_text(text in "\\PC{0,24}|[a-z \n€🎉ñ]{0,40}") {
        let tokenizer = tiny();
        let ids = tokenizer.encode(&text, ParseSpecial::No).unwrap();
        let deltas = streamed(&tokenizer, &ids, ShowSpecial::No);
        let broken = deltas.iter().any(|delta| delta.contains('\u{fffd}'));
        prop_assert_eq!(broken, text.contains('\u{fffd}'));
        prop_assert_eq!(deltas.concat(), text);
    }

    #[test]
    fn any_tokens_at_all_stream_to_what_they_decode_to(
        ids in prop::collection::vec(0_u32..1024, 0..40),
    ) {
        let tokenizer = tiny();
        for show in [ShowSpecial::Yes, ShowSpecial::No] {
            let expected = tokenizer.decode(&ids, show).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &ids, show).concat(), expected);
        }
    }
}
