//! The tokenizer of a GGUF file, rebuilt once as a `tokenizer.json` (decision 3).
//!
//! GGUF has tokens with their kinds, and merges or scores; the rules by which text is cut into
//! words it only names (see `pre_tokenizers`).

use std::collections::{BTreeMap, HashSet};

use cart_format::gguf::{Array, Head, Value};
use cart_format::{SpecialTokens, json};
use serde_json::{Value as Json, json};

use crate::import::error::ImportError;
use crate::import::pre_tokenizers::{self, PreTokenizer};
use crate::import::roles::{self, ENDS};
use crate::import::sentencepiece::{Algorithm, Piece, PieceKind, Prefix, SentencePiece};

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
    let tokens = Tokens::read(head)?;
    let mut warnings = Vec::new();
    let (document, add_bos) = match model {
        "gpt2" => byte_level_bpe(head, &tokens, &mut warnings)?,
        "llama" => (sentence_piece(head, &tokens, Algorithm::Bpe)?.document(&mut warnings), true),
        "t5" => (sentence_piece(head, &tokens, Algorithm::Unigram)?.document(&mut warnings), false),
        _ => return Err(ImportError::TokenizerModel { found: model.to_owned() }),
    };
    Ok(Some(Rebuilt {
        document: json::to_canonical(&document).map_err(ImportError::Document)?,
        vocab_size: tokens.texts.len() as u64,
        special: special(head, &tokens, model, add_bos)?,
        warnings,
    }))
}

/// The template for conversations.
pub(crate) fn chat_template(head: &Head) -> Option<&str> {
    head.value("tokenizer.chat_template")?.as_str()
}

/// The tokens of the file, by id.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<PieceKind>,
}

impl<'a> Tokens<'a> {
    fn read(head: &'a Head) -> Result<Self, ImportError> {
        let texts = texts(head, "tokenizer.ggml.tokens")?;
        let key = "tokenizer.ggml.token_type";
        let allowed = "an array of i32 from 1 to 6, one for each token";
        let numbers = match head.value(key) {
            None => return Ok(Self { texts, kinds: vec![PieceKind::Normal; texts.len()] }),
            Some(Value::Array(Array::I32(numbers))) if numbers.len() == texts.len() => numbers,
            Some(_) => return Err(refuse(head, key, allowed)),
        };
        let kinds = numbers.iter().map(|&number| PieceKind::of(i64::from(number)));
        let mut kinds: Vec<_> =
            kinds.collect::<Option<_>>().ok_or_else(|| refuse(head, key, allowed))?;
        // Some files call the ends of turns the user's own, which would make them ordinary text.
        // (Those that look like HTML may really be that: Gemma's `</s>` strikes something out.)
        let is_end = |text: &str| text.contains(['|', '_']) && ENDS.contains(&text);
        for (kind, text) in kinds.iter_mut().zip(texts) {
            if *kind == PieceKind::UserDefined && is_end(text) {
                *kind = PieceKind::Control;
            }
        }
        Ok(Self { texts, kinds })
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &'a String, PieceKind)> {
        let kinds = self.kinds.iter();
        self.texts.iter().zip(kinds).enumerate().map(|(id, (text, &kind))| (id, text, kind))
    }

    /// Tokens that are recognized in a text as they are spelled.
    fn added(&self) -> Vec<Json> {
        let mut seen = HashSet::new();
        let named = self.iter().filter(|(_, text, kind)| {
            use PieceKind::{Control, Unknown, UserDefined};
            matches!(kind, Unknown | Control | UserDefined) && seen.insert(text.as_str())
        });
        named
            .map(|(id, text, kind)| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false,
                    "special": kind != PieceKind::UserDefined,
                })
            })
            .collect()
    }
}

/// The document of a BPE over bytes, and whether its texts begin with the begin-of-text token.
fn byte_level_bpe(
    head: &Head,
    tokens: &Tokens<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Json, bool), ImportError> {
    let merges = texts(head, "tokenizer.ggml.merges")?;
    let rules = rules(head, warnings)?;
    let vocab = vocab(tokens.texts, warnings);
    check_merges(merges, &vocab)?;
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens.added(),
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.rules,
        "post_processor": null,
        "decoder": pre_tokenizers::byte_level(true),
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
    Ok((document, rules.add_bos))
}

fn rules(head: &Head, warnings: &mut Vec<String>) -> Result<PreTokenizer, ImportError> {
    let name = match head.value("tokenizer.ggml.pre") {
        None => "default",
        Some(name) => name.as_str().ok_or_else(|| refuse(head, "tokenizer.ggml.pre", "a text"))?,
    };
    if name == "default" {
        warnings.push("the GGUF names no pre-tokenizer; text is cut as GPT-2 does: if the model's own tokenizer differs, pass its tokenizer.json with --tokenizer".to_owned());
    }
    pre_tokenizers::named(name).ok_or_else(|| ImportError::PreTokenizer { found: name.to_owned() })
}

fn sentence_piece(
    head: &Head,
    tokens: &Tokens<'_>,
    algorithm: Algorithm,
) -> Result<SentencePiece, ImportError> {
    let key = "tokenizer.ggml.scores";
    let scores = match head.value(key) {
        Some(Value::Array(Array::F32(scores)))
            if scores.len() == tokens.texts.len() && scores.iter().all(|x| x.is_finite()) =>
        {
            scores
        }
        _ => return Err(refuse(head, key, "an array of finite f32, one for each token")),
    };
    let pieces = tokens.iter().zip(scores);
    let flag = |key: &str, default| match head.value(key) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| refuse(head, key, "true or false")),
    };
    let unigram = algorithm == Algorithm::Unigram;
    Ok(SentencePiece {
        algorithm,
        pieces: pieces.map(|((_, text, kind), &score)| Piece::new(text, score, kind)).collect(),
        prefix: if flag("tokenizer.ggml.add_space_prefix", true)? {
            Prefix::EachPart
        } else {
            Prefix::Never
        },
        collapse_spaces: flag("tokenizer.ggml.remove_extra_whitespaces", unigram)?,
        charsmap: charsmap(head)?,
        strips_after: if is_phi3(head) { phi3_strips } else { |_| false },
    })
}

/// Phi-3 drops the spaces after its markers, which GGUF has no field for.
fn is_phi3(head: &Head) -> bool {
    head.value("general.architecture").and_then(Value::as_str) == Some("phi3")
}

fn phi3_strips(text: &str) -> bool {
    !["<unk>", "<s>", "<|endoftext|>"].contains(&text)
}

/// The compiled table of character replacements: bytes, whatever integers they are written as.
fn charsmap(head: &Head) -> Result<Vec<u8>, ImportError> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    match head.value(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(Array::U8(bytes))) => Ok(bytes.clone()),
        Some(Value::Array(Array::I8(bytes))) => {
            Ok(bytes.iter().map(|&byte| byte.cast_unsigned()).collect())
        }
        Some(_) => Err(refuse(head, key, "an array of bytes")),
    }
}

fn texts<'a>(head: &'a Head, key: &str) -> Result<&'a [String], ImportError> {
    let texts = head.value(key).and_then(Value::as_strings);
    texts.ok_or_else(|| refuse(head, key, "an array of texts"))
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
pub(crate) fn check_merges(
    merges: &[String],
    vocab: &BTreeMap<&str, usize>,
) -> Result<(), ImportError> {
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

/// Tokens with a role. SentencePiece's own ids hold where a file of that kind names none.
fn special(
    head: &Head,
    tokens: &Tokens<'_>,
    model: &str,
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
    let usual = |id: u32, kind| {
        let fits = model == "llama" && tokens.kinds.get(id as usize) == Some(&kind);
        fits.then_some(id)
    };
    let mut eos: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(id(name)?);
    }
    if eos.is_empty() {
        eos.extend(usual(2, PieceKind::Control));
    }
    let ends = tokens
        .iter()
        .filter(|(_, text, kind)| *kind == PieceKind::Control && ENDS.contains(&text.as_str()));
    eos.extend(ends.map(|(id, ..)| id as u32));
    let bos = id("bos")?.or_else(|| usual(1, PieceKind::Control));
    let stated = head.value("tokenizer.ggml.add_bos_token").and_then(Value::as_bool);
    let special = SpecialTokens {
        bos,
        eos,
        pad: id("padding")?,
        unk: id("unknown")?.or_else(|| usual(0, PieceKind::Unknown)),
        add_bos: stated.unwrap_or(add_bos) && bos.is_some(),
    };
    roles::settle(special, tokens.texts.len() as u64)
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
        set(&mut head, "tokenizer.ggml.pre", Value::String("kimi-k2".to_owned()));
        let error = rebuild(&head).unwrap_err();
        assert!(
            matches!(error, ImportError::PreTokenizer { .. })
                && error.to_string().contains("--tokenizer")
        );
        assert!(error.to_string().contains("qwen2"), "{error}");
        set(&mut head, "tokenizer.ggml.model", Value::String("rwkv".to_owned()));
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

    /// The metadata of a SentencePiece model of a few pieces.
    fn sentence_piece(architecture: &str) -> Head {
        let mut head = smollm2();
        let pieces = [
            ("<unk>", 0.0, 2),
            ("<s>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("<|end|>", 0.0, 4),
            ("  ", 0.0, 4),
            ("\u{2581}", -4.0, 1),
            ("a", -5.0, 1),
            ("b", -6.0, 1),
            ("ab", -1.0, 1),
            ("\u{2581}ab", -2.0, 1),
        ];
        let texts = pieces.iter().map(|piece| piece.0.to_owned()).collect();
        let scores = pieces.iter().map(|piece| piece.1).collect();
        let kinds = pieces.iter().map(|piece| piece.2).collect();
        let values = [
            ("general.architecture", Value::String(architecture.to_owned())),
            ("tokenizer.ggml.model", Value::String("llama".to_owned())),
            ("tokenizer.ggml.tokens", Value::Array(Array::String(texts))),
            ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ];
        let stated =
            |key: &str| key.ends_with("token_id") || key.starts_with("tokenizer.ggml.add_");
        head.metadata.retain(|(key, _)| !stated(key));
        values.into_iter().for_each(|(key, value)| set(&mut head, key, value));
        head
    }

    #[test]
    fn sentencepiece_in_a_gguf_has_its_prefix_its_merges_and_its_usual_roles() {
        let mut head = sentence_piece("llama");
        let cut = |head: &Head, text: &str| {
            tokenizer(head).encode(text, false).unwrap().get_ids().to_vec()
        };
        assert_eq!(cut(&head, "ab b<|end|> ab"), [9, 5, 7, 3, 5, 9]);
        let special = rebuild(&head).unwrap().unwrap().special;
        let expected =
            SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None, unk: Some(0), add_bos: true };
        assert_eq!(special, expected);
        // Without the prefix the user's own two spaces are found in either spelling.
        set(&mut head, "tokenizer.ggml.add_space_prefix", Value::Bool(false));
        assert_eq!(cut(&head, "ab  \u{2581}\u{2581}ab"), [8, 4, 4, 8]);
        // Phi-3 drops the spaces after its markers.
        assert_eq!(cut(&sentence_piece("phi3"), "b<|end|> \n ab"), [5, 7, 3, 9]);
    }

    #[test]
    fn scores_that_are_missing_or_no_numbers_are_refused() {
        let mut head = sentence_piece("llama");
        for scores in [vec![0.0; 9], vec![f32::NAN; 10]] {
            set(&mut head, "tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
            let error = rebuild(&head).unwrap_err();
            assert!(matches!(error, ImportError::GgufField { .. }), "{error}");
        }
        let mut head = sentence_piece("llama");
        set(&mut head, "tokenizer.ggml.token_type", Value::Array(Array::I32(vec![7; 10])));
        assert!(matches!(rebuild(&head).unwrap_err(), ImportError::GgufField { .. }));
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
