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
