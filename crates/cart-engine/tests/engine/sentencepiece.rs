//! SentencePiece models against SentencePiece itself, and BPE over bytes from a vocabulary and its merges
//! against transformers: every string of the fuzzed set.

use std::path::Path;

use cart_engine::{ParseSpecial, ShowSpecial, TextStream, Tokenizer};
use cart_format::ManifestId;
use serde_json::Value;

use crate::given::{Shelf, fixture, shelf};

/// A cartridge's tokenizer.
fn tokenizer(shelf: &Shelf, id: ManifestId) -> Tokenizer {
    let verified = shelf.verified(id);
    let section = verified.manifest().tokenizer.clone().unwrap();
    let document = verified.read(&section.document, 64 << 20).unwrap();
    Tokenizer::new(&document, section.special).unwrap()
}

/// The tokenizer of the tiny model with a SentencePiece model in place of its own.
fn small(name: &str, configuration: &str) -> Tokenizer {
    of_files(&[(&format!("sp-{name}.model"), "tokenizer.model")], configuration)
}

/// The tokenizer of the tiny model with files of fixtures/tokenizer in place of its own.
fn of_files(files: &[(&str, &str)], configuration: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let weights = "model.safetensors";
    std::fs::copy(fixture("tiny").join(weights), folder.path().join(weights)).unwrap();
    // Its roles are those of its own tokenizer.
    let config = std::fs::read(fixture("tiny/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config.as_object_mut().unwrap().retain(|field, _| !field.ends_with("_token_id"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for (from, to) in files {
        std::fs::copy(fixture("tokenizer").join(from), folder.path().join(to)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer_config.json"), configuration).unwrap();
    let shelf = shelf();
    let id = shelf.import(folder.path());
    tokenizer(&shelf, id)
}

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(line: &Value) -> Vec<u32> {
    serde_json::from_value(line["ids"].clone()).unwrap()
}

/// FNV-1a of the ids as little-endian u32, its halves xored.
fn digest(ids: &[u32]) -> u32 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

/// The strings whose ids are not those whose digests a file has.
fn apart(tokenizer: &Tokenizer, digests: &Path) -> Vec<(String, Vec<u32>)> {
    let digests = std::fs::read_to_string(digests).unwrap();
    let cases = lines("tokenizer/smollm2-fuzz.jsonl");
    assert!(cases.len() > 4000 && cases.len() == digests.lines().count());
    let mut apart = Vec::new();
    for (case, expected) in cases.iter().zip(digests.lines()) {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, ParseSpecial::No).unwrap();
        if format!("{:08x}", digest(&ids)) != expected {
            apart.push((text.to_owned(), ids));
        }
    }
    apart
}

#[test]
fn small_models_cut_text_as_sentencepiece_does() {
    for name in ["bpe", "bpe-unknown", "unigram", "unigram-charsmap"] {
        let digests = fixture(&format!("tokenizer/sp-{name}.digests"));
        let apart = apart(&small(name, "{}"), &digests);
        assert!(
            apart.is_empty(),
            "{name}: {} apart, {:?}",
            apart.len(),
            &apart[..apart.len().min(8)]
        );
    }
}

#[test]
fn a_vocabulary_with_merges_cuts_text_as_transformers_does() {
    let files = [("bl/vocab.json", "vocab.json"), ("bl/merges.txt", "merges.txt")];
    for (name, configuration) in [
        ("gpt2", r#"{"tokenizer_class": "GPT2Tokenizer"}"#),
        ("gpt2-prefix", r#"{"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true}"#),
        ("qwen2", r#"{"tokenizer_class": "Qwen2Tokenizer"}"#),
    ] {
        let tokenizer = of_files(&files, configuration);
        let apart = apart(&tokenizer, &fixture(&format!("tokenizer/bl-{name}.digests")));
        assert!(
            apart.is_empty(),
            "{name}: {} apart, {:?}",
            apart.len(),
            &apart[..apart.len().min(8)]
        );
    }
}

#[test]
fn small_models_join_pieces_as_sentencepiece_does_and_so_does_a_stream() {
    let cases = lines("tokenizer/sp-decode.jsonl");
    assert!(cases.len() > 400);
    for name in ["bpe", "bpe-unknown", "unigram", "unigram-charsmap"] {
        let tokenizer = small(name, "{}");
        for case in cases.iter().filter(|case| case["model"] == name) {
            let (ids, expected) = (ids(case), case["decoded"].as_str().unwrap());
            assert_eq!(tokenizer.decode(&ids, ShowSpecial::No).unwrap(), expected, "{ids:?}");
            let mut stream = TextStream::new(ShowSpecial::No);
            let mut text = String::new();
            for &id in &ids {
                text += &stream.push(&tokenizer, id).unwrap();
            }
            text += &stream.flush(&tokenizer).unwrap();
            assert_eq!(text, expected, "{ids:?}");
        }
    }
}

#[test]
fn roles_of_a_sentencepiece_model_hold_unless_documents_say_otherwise() {
    let plain = small("bpe", "{}");
    let special = plain.special();
    assert_eq!((special.bos, special.eos.as_slice(), special.unk), (Some(1), &[2][..], Some(0)));
    assert!(special.add_bos);
    let said = small("bpe", r#"{"add_bos_token": false, "eos_token": "<s>", "legacy": false}"#);
    assert_eq!((said.special().add_bos, said.special().eos.as_slice()), (false, &[1, 2][..]));
    // The space goes before the text alone, not before what follows a special token.
    let count = |tokenizer: &Tokenizer| {
        let ids = tokenizer.encode("</s>the", ParseSpecial::Yes).unwrap();
        tokenizer.decode(&ids, ShowSpecial::Yes).unwrap()
    };
    assert_eq!((count(&plain).as_str(), count(&said).as_str()), ("</s> the", "</s>the"));
}

/// Gemma 3 from GGUF where `CART_TEST_GEMMA` names the file.
#[test]
fn gemma_3_cuts_text_as_sentencepiece_does() {
    let Some(path) = std::env::var_os("CART_TEST_GEMMA").filter(|path| !path.is_empty()) else {
        eprintln!("SKIPPED: $CART_TEST_GEMMA names no GGUF file of Gemma 3");
        return;
    };
    let shelf = shelf();
    let id = shelf.import(Path::new(&path));
    let tokenizer = tokenizer(&shelf, id);
    let apart = apart(&tokenizer, &fixture("tokenizer/gemma3.digests"));
    assert!(apart.is_empty(), "{} apart, {:?}", apart.len(), &apart[..apart.len().min(8)]);
    for case in lines("tokenizer/gemma3-own.jsonl") {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, ParseSpecial::Yes).unwrap();
        assert_eq!(found, ids(&case), "{text:?}");
        assert_eq!(
            tokenizer.decode(&found, ShowSpecial::Yes).unwrap(),
            text.replace('\u{2581}', " ")
        );
    }
}
