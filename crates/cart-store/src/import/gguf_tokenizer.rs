//! The tokenizer of a GGUF file, rebuilt once as a `tokenizer.json` (decision 3).
//!
//! GGUF has tokens, merges and token types, and only names the rules by which text is cut into
//! words. Those are written down here, as the models' own `tokenizer.json` have them.

use std::collections::{BTreeMap, HashSet};

use cart_format::gguf::{Array, Head, Value};
use cart_format::{SpecialTokens, json};
use serde_json::{Value as Json, json};

use crate::import::error::ImportError;
use crate::import::roles::{self, ENDS};

/// GGUF's kinds of tokens that text can name.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How Llama 3 cuts text into words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 cuts text into words: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer that was rebuilt.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) document: Vec<u8>,
    pub(crate) vocab_size: u64,
    pub(crate) special: SpecialTokens,
    pub(crate) warnings: Vec<String>,
}

/// The tokenizer, if the file has one.
pub(crate) fn rebuild(head: &Head) -> Result<Option<Rebuilt>, ImportError> {
    let Some(model) = head.value("tokenizer.ggml.model") else { return Ok(None) };
    let model = model.as_str().ok_or_else(|| refuse(head, "tokenizer.ggml.model", "a text"))?;
    if model != "gpt2" {
        return Err(ImportError::TokenizerModel { found: model.to_owned() });
    }
    let tokens = texts(head, "tokenizer.ggml.tokens")?;
    let merges = texts(head, "tokenizer.ggml.merges")?;
    let types = types(head, tokens.len())?;
    let rules = rules(head)?;
    let mut warnings = rules.warnings;
    let vocab = vocab(tokens, &mut warnings);
    check_merges(merges, &vocab)?;
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(tokens, types),
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rules.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    });
    let document = json::to_canonical(&document).map_err(ImportError::Document)?;
    let vocab_size = tokens.len() as u64;
    let special = special(head, tokens, types, rules.add_bos)?;
    Ok(Some(Rebuilt { document, vocab_size, special, warnings }))
}

/// The template for conversations.
pub(crate) fn chat_template(head: &Head) -> Option<&str> {
    head.value("tokenizer.chat_template")?.as_str()
}

/// What a name of a pre-tokenizer stands for.
struct Rules {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Whether a word that is a token is not merged.
    ignore_merges: bool,
    add_bos: bool,
    warnings: Vec<String>,
}

fn rules(head: &Head) -> Result<Rules, ImportError> {
    let name = match head.value("tokenizer.ggml.pre") {
        None => "default",
        Some(name) => name.as_str().ok_or_else(|| refuse(head, "tokenizer.ggml.pre", "a text"))?,
    };
    let plain = Rules {
        normalizer: Json::Null,
        pre_tokenizer: byte_level(true),
        ignore_merges: false,
        add_bos: false,
        warnings: Vec::new(),
    };
    Ok(match name {
        "gpt-2" => plain,
        "default" => {
            let warning = "the GGUF names no pre-tokenizer; text is cut as GPT-2 does: if the model's own tokenizer differs, pass its tokenizer.json with --tokenizer";
            Rules { warnings: vec![warning.to_owned()], ..plain }
        }
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            Rules { pre_tokenizer: sequence(digits, byte_level(true)), ..plain }
        }
        "llama-bpe" | "llama3" | "llama-v3" => Rules {
            pre_tokenizer: sequence(split(LLAMA3), byte_level(false)),
            ignore_merges: true,
            add_bos: true,
            ..plain
        },
        "qwen2" | "deepseek-r1-qwen" => Rules {
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: sequence(split(QWEN2), byte_level(false)),
            ..plain
        },
        _ => return Err(ImportError::PreTokenizer { found: name.to_owned() }),
    })
}

fn byte_level(use_regex: bool) -> Json {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
    })
}

fn split(regex: &str) -> Json {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn sequence(first: Json, second: Json) -> Json {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

fn texts<'a>(head: &'a Head, key: &str) -> Result<&'a [String], ImportError> {
    let texts = head.value(key).and_then(Value::as_strings);
    texts.ok_or_else(|| refuse(head, key, "an array of texts"))
}

/// The kind of each token; nothing where the file does not say.
fn types(head: &Head, tokens: usize) -> Result<&[i32], ImportError> {
    let key = "tokenizer.ggml.token_type";
    match head.value(key) {
        None => Ok(&[]),
        Some(Value::Array(Array::I32(types))) if types.len() == tokens => Ok(types),
        Some(_) => Err(refuse(head, key, "an array of i32, one for each token")),
    }
}

/// A text that stands for two ids is the first of them, and the other can't be produced.
fn vocab<'a>(tokens: &'a [String], warnings: &mut Vec<String>) -> BTreeMap<&'a str, usize> {
    let mut vocab = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        let first = *vocab.entry(token.as_str()).or_insert(id);
        if first != id {
            warnings.push(format!(
                "token {id} has the text of token {first}, {token:?}; it is never produced"
            ));
        }
    }
    vocab
}

/// A merge that the vocabulary lacks makes the whole document unreadable, so it is named here.
fn check_merges(merges: &[String], vocab: &BTreeMap<&str, usize>) -> Result<(), ImportError> {
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let known = merge.split_once(' ').is_some_and(|(left, right)| {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            [left, right, &joined].iter().all(|token| vocab.contains_key(token))
        });
        if !known {
            let found = merge.chars().take(80).collect();
            return Err(ImportError::Merge { index, found });
        }
    }
    Ok(())
}

/// Tokens that are recognized in a text as they are spelled.
fn added_tokens(tokens: &[String], types: &[i32]) -> Vec<Json> {
    let mut seen = HashSet::new();
    let named = tokens.iter().zip(types).enumerate().filter(|(_, (token, kind))| {
        matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && seen.insert(token.as_str())
    });
    named
        .map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind != USER_DEFINED,
            })
        })
        .collect()
}

fn special(
    head: &Head,
    tokens: &[String],
    types: &[i32],
    add_bos: bool,
) -> Result<SpecialTokens, ImportError> {
    let id = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match head.value(&key) {
            None => Ok(None),
            Some(value) => id(value).map(Some).ok_or_else(|| refuse(head, &key, "a token id")),
        }
    };
    let mut eos: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(id(name)?);
    }
    let ends = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (token, kind))| **kind == CONTROL && ENDS.contains(&token.as_str()));
    eos.extend(ends.map(|(id, _)| id as u32));
    let bos = id("bos")?;
    let stated = head.value("tokenizer.ggml.add_bos_token").and_then(Value::as_bool);
    let special = SpecialTokens {
        bos,
        eos,
        pad: id("padding")?,
        unk: id("unknown")?,
        add_bos: stated.unwrap_or(add_bos) && bos.is_some(),
    };
    roles::settle(special, tokens.len() as u64)
}

fn refuse(head: &Head, key: &str, allowed: &'static str) -> ImportError {
    let found = head.value(key).map_or_else(|| "absent".to_owned(), Value::describe);
    ImportError::GgufField { key: key.to_owned(), found, allowed }
}

#[cfg(test)]
mod tests {
    use cart_format::gguf::Parsed;
    use tokenizers::Tokenizer;

    use super::*;

    /// The head of SmolLM2-135M-Instruct's GGUF, and the length of that file.
    const SMOLLM2: &[u8] = include_bytes!("../../../../fixtures/gguf/smollm2-head.gguf");
    const SMOLLM2_LEN: u64 = 98_362_432;
    const FUZZ: &str = include_str!("../../../../fixtures/tokenizer/smollm2-fuzz.jsonl");
    const DECODE: &str = include_str!("../../../../fixtures/tokenizer/smollm2-decode.jsonl");

    fn smollm2() -> Head {
        match Head::parse(SMOLLM2, SMOLLM2_LEN).unwrap() {
            Parsed::Head(head) => head,
            Parsed::NeedMore(more) => panic!("the fixture lacks bytes up to {more}"),
        }
    }

    fn tokenizer(head: &Head) -> Tokenizer {
        Tokenizer::from_bytes(rebuild(head).unwrap().unwrap().document).unwrap()
    }

    fn set(head: &mut Head, key: &str, value: Value) {
        head.metadata.retain(|(found, _)| found != key);
        head.metadata.push((key.to_owned(), value));
    }

    fn lines(text: &str) -> impl Iterator<Item = Json> {
        text.lines().map(|line| serde_json::from_str(line).unwrap())
    }

    fn ids(line: &Json) -> Vec<u32> {
        serde_json::from_value(line["ids"].clone()).unwrap()
    }

    #[test]
    fn smollm2_splits_text_as_the_reference_does() {
        let tokenizer = tokenizer(&smollm2());
        let mut strings = 0;
        for line in lines(FUZZ) {
            let text = line["text"].as_str().unwrap();
            let encoding = tokenizer.encode(text, false).unwrap();
            assert_eq!(encoding.get_ids(), ids(&line), "{text:?}");
            strings += 1;
        }
        assert!(strings >= 2000, "{strings} strings are too few to tell");
    }

    #[test]
    fn smollm2_joins_tokens_as_the_reference_does() {
        let tokenizer = tokenizer(&smollm2());
        let mut lists = 0;
        for line in lines(DECODE) {
            let ids = ids(&line);
            let decoded = tokenizer.decode(&ids, false).unwrap();
            assert_eq!(decoded, line["decoded"].as_str().unwrap(), "{ids:?}");
            let plain = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(plain, line["without_special"].as_str().unwrap(), "{ids:?}");
            lists += 1;
        }
        assert!(lists > 100, "{lists} lists are too few to tell");
    }

    #[test]
    fn smollm2_has_its_roles_and_its_template() {
        let head = smollm2();
        let rebuilt = rebuild(&head).unwrap().unwrap();
        let special = SpecialTokens {
            bos: Some(1),
            eos: vec![0, 2],
            pad: Some(2),
            unk: Some(0),
            add_bos: false,
        };
        assert_eq!((rebuilt.vocab_size, rebuilt.special), (49_152, special));
        assert!(rebuilt.warnings.is_empty());
        assert!(chat_template(&head).unwrap().contains("<|im_start|>"));
        assert_eq!(rebuilt.document, rebuild(&head).unwrap().unwrap().document);
    }

    #[test]
    fn every_known_rule_makes_a_document_that_loads() {
        let mut head = smollm2();
        let cut = |head: &Head| {
            let encoding = tokenizer(head).encode("in 1234  it's", false).unwrap();
            encoding.get_tokens().to_vec()
        };
        let mut seen = BTreeMap::new();
        for pre in ["gpt-2", "default", "smollm", "llama-bpe", "qwen2"] {
            set(&mut head, "tokenizer.ggml.pre", Value::String(pre.to_owned()));
            seen.insert(pre, cut(&head));
        }
        assert_eq!(seen["gpt-2"], seen["default"]);
        // SmolLM2 and Qwen take digits one by one.
        for pre in ["smollm", "qwen2"] {
            assert!(seen[pre].windows(4).any(|four| four == ["1", "2", "3", "4"]), "{seen:?}");
        }
    }

    #[test]
    fn what_cannot_be_rebuilt_is_refused_with_a_way_out() {
        let mut head = smollm2();
        set(&mut head, "tokenizer.ggml.pre", Value::String("tekken".to_owned()));
        let error = rebuild(&head).unwrap_err();
        assert!(
            matches!(error, ImportError::PreTokenizer { .. })
                && error.to_string().contains("--tokenizer")
        );
        set(&mut head, "tokenizer.ggml.model", Value::String("llama".to_owned()));
        let error = rebuild(&head).unwrap_err();
        assert!(matches!(error, ImportError::TokenizerModel { .. }), "{error}");
    }

    #[test]
    fn metadata_that_contradict_each_other_are_refused() {
        let strings = |texts: &[&str]| {
            Value::Array(Array::String(texts.iter().map(|&text| text.to_owned()).collect()))
        };
        let mut head = smollm2();
        set(&mut head, "tokenizer.ggml.merges", strings(&["Ġ t", "Ġ 🦀"]));
        let error = rebuild(&head).unwrap_err();
        assert!(matches!(error, ImportError::Merge { index: 1, .. }), "{error}");
        let mut head = smollm2();
        set(&mut head, "tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1])));
        let error = rebuild(&head).unwrap_err();
        assert!(matches!(error, ImportError::GgufField { .. }), "{error}");
        let mut head = smollm2();
        set(&mut head, "tokenizer.ggml.eos_token_id", Value::U32(49_152));
        let error = rebuild(&head).unwrap_err();
        assert!(matches!(error, ImportError::SpecialToken { found: 49_152, .. }), "{error}");
    }

    #[test]
    fn a_text_that_two_ids_share_is_the_first_of_them() {
        let mut head = smollm2();
        let mut tokens = texts(&head, "tokenizer.ggml.tokens").unwrap().to_vec();
        tokens[49_151] = tokens[100].clone();
        set(&mut head, "tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        set(&mut head, "tokenizer.ggml.merges", Value::Array(Array::String(Vec::new())));
        let rebuilt = rebuild(&head).unwrap().unwrap();
        assert_eq!((rebuilt.vocab_size, rebuilt.warnings.len()), (49_152, 1));
    }
}
