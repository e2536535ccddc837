//! The ways of cutting text into words that GGUF files name, as the models' own `tokenizer.json`
//! have them.
//!
//! A GGUF says only `tokenizer.ggml.pre`; what the names stand for is written down here, one row a
//! name.

use serde_json::{Value as Json, json};

/// English contractions, letters with what stands before them, digits by three, punctuation,
/// spaces.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same, with digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same, with marks as parts of words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words end where capitals begin; digits one by one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words end where capitals begin, contractions belong to them; digits by three.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3, after digits by three and runs of Chinese and Japanese are cut out.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Letters of DeepSeek LLM: those of scripts with two cases. Characters that Unicode's composition
/// would replace are written as numbers.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
/// Chinese, Japanese and Korean of the first DeepSeek models.
const DEEPSEEK_ASIAN: &str = r"[一-龥ࠀ-一가-퟿]+";
/// Everything but spaces and the full stops and commas of several scripts.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// What a name of a pre-tokenizer stands for.
#[derive(Debug, PartialEq)]
pub(crate) struct PreTokenizer {
    /// The normalizer of the `tokenizer.json`.
    pub(crate) normalizer: Json,
    /// The pre-tokenizer of the `tokenizer.json`.
    pub(crate) rules: Json,
    /// Whether a word that is a token is not merged.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with the begin-of-text token where the file does not say.
    pub(crate) add_bos: bool,
}

/// The names that are known, sorted.
pub(crate) const KNOWN: &[&str] = &[
    "a.x-4.0",
    "bloom",
    "chatglm-bpe",
    "codeshell",
    "command-r",
    "dbrx",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "default",
    "exaone",
    "exaone4",
    "falcon",
    "falcon-h1",
    "falcon3",
    "gigachat",
    "glm4",
    "gpt-2",
    "gpt-4o",
    "gpt3-finnish",
    "granite-docling",
    "grok-2",
    "hunyuan",
    "hunyuan-dense",
    "jais",
    "kanana2",
    "kormo",
    "lfm2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "llama4",
    "megrez",
    "mellum",
    "midm-2.0",
    "minerva-7b",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "poro-chat",
    "qwen2",
    "qwen35",
    "refact",
    "smaug-bpe",
    "smollm",
    "solar-open",
    "stablelm2",
    "starcoder",
    "tekken",
    "trillion",
    "viking",
];

/// The rules of a name, if it is known.
pub(crate) fn named(name: &str) -> Option<PreTokenizer> {
    let digits = || json!({"type": "Digits", "individual_digits": true});
    let plain = |rules| PreTokenizer {
        normalizer: Json::Null,
        rules,
        ignore_merges: false,
        add_bos: false,
    };
    let composed = |pre: PreTokenizer| PreTokenizer { normalizer: json!({"type": "NFC"}), ..pre };
    let begun = |pre: PreTokenizer| PreTokenizer { ignore_merges: true, add_bos: true, ..pre };
    Some(match name {
        "default" | "gpt-2" | "phi-2" | "jais" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4"
        | "trillion" | "granite-docling" => plain(byte_level(true)),
        "mpt" | "olmo" => composed(plain(byte_level(true))),
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(sequence(vec![digits(), byte_level(true)]))
        }
        "command-r" => composed(plain(sequence(vec![digits(), byte_level(true)]))),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => begun(plain(splits(&[LLAMA3]))),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => plain(splits(&[LLAMA3])),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "megrez" => composed(plain(splits(&[QWEN2]))),
        "stablelm2" | "hunyuan" | "grok-2" | "solar-open" => plain(splits(&[QWEN2])),
        "qwen35" => composed(plain(splits(&[QWEN35]))),
        "tekken" => begun(plain(splits(&[TEKKEN]))),
        "gpt-4o" | "llama4" | "kanana2" => plain(splits(&[GPT4O])),
        "deepseek-v3" | "hunyuan-dense" => {
            plain(splits(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]))
        }
        "deepseek-llm" => plain(splits(&[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            DEEPSEEK_ASIAN,
            r"\p{N}+",
        ])),
        "deepseek-coder" => {
            plain(splits(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_ASIAN, r"\p{N}"]))
        }
        "falcon" => plain(sequence(vec![
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            byte_level(true),
            json!({"type": "Digits", "individual_digits": false}),
            split("[0-9][0-9][0-9]"),
        ])),
        "bloom" | "poro-chat" | "gpt3-finnish" => plain(splits(&[BLOOM])),
        "viking" => plain(splits(&[BLOOM, r"\p{N}"])),
        _ => return None,
    })
}

/// Bytes as characters, with or without the words of GPT-2.
pub(crate) fn byte_level(use_regex: bool) -> Json {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
    })
}

/// Cuts by each pattern in turn, then bytes as characters.
fn splits(patterns: &[&str]) -> Json {
    let patterns = patterns.iter().map(|pattern| split(pattern));
    sequence(patterns.chain([byte_level(false)]).collect())
}

fn split(regex: &str) -> Json {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn sequence(parts: Vec<Json>) -> Json {
    json!({"type": "Sequence", "pretokenizers": parts})
}

#[cfg(test)]
mod tests {
    use tokenizers::PreTokenizerWrapper;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    #[test]
    fn every_rule_cuts_text_without_losing_any() {
        const TEXT: &str = "It's  1234567 naïve\tÄÖ, 世界 한국어 don'T\r\n\n ...!!  x_y ";
        let cut = |name: &str| {
            let rules = serde_json::from_value(named(name).unwrap().rules).unwrap();
            let rules: PreTokenizerWrapper = rules;
            let mut text = PreTokenizedString::from(TEXT);
            rules.pre_tokenize(&mut text).unwrap();
            let pieces = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
            pieces
                .into_iter()
                .map(|(_, range, _)| TEXT[range.0..range.1].to_owned())
                .collect::<Vec<_>>()
        };
        for name in KNOWN {
            assert_eq!(cut(name).concat(), TEXT, "{name}");
        }
        let digits =
            |name| cut(name).iter().filter(|word| word.trim().parse::<u64>().is_ok()).count();
        let counts = ["gpt-2", "llama-bpe", "qwen2", "falcon", "tekken", "gpt-4o", "deepseek-v3"];
        assert_eq!(counts.map(digits), [1, 3, 7, 3, 7, 3, 3]);
    }

    #[test]
    fn the_list_of_names_is_sorted_and_each_has_rules() {
        assert!(KNOWN.is_sorted());
        for name in KNOWN {
            assert!(named(name).is_some(), "{name}");
        }
        assert_eq!(named("kimi-k2"), None);
    }
}
