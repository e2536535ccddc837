//! The tokenizer of a Hugging Face folder: `tokenizer.json` as it is, and which tokens have a role.

use cart_format::SpecialTokens;
use serde_json::Value;

use crate::import::error::ImportError;
use crate::import::roles::{self, ENDS};
use crate::import::tokenizer_document::TokenizerDocument;

/// The documents of a folder that name tokens with a role, each where there is one.
#[derive(Debug, Default)]
pub(crate) struct RoleDocuments {
    pub(crate) tokenizer_config: Option<Value>,
    pub(crate) special_tokens_map: Option<Value>,
    pub(crate) generation_config: Option<Value>,
    pub(crate) config: Option<Value>,
}

impl RoleDocuments {
    /// The tokens with a role. `generation_config.json` has the last word on ends, since a chat
    /// model ends its turn with another token than its tokenizer names.
    pub(crate) fn special(
        &self,
        document: &TokenizerDocument,
    ) -> Result<SpecialTokens, ImportError> {
        let by_name = |field: &str| {
            let named = [&self.tokenizer_config, &self.special_tokens_map];
            named
                .into_iter()
                .flatten()
                .find_map(|named| document.id(token_text(named.get(field)?)?))
        };
        let by_id = |field: &str| {
            let numbered = [&self.generation_config, &self.config];
            numbered.into_iter().flatten().find_map(|numbered| ids(numbered.get(field)?))
        };
        let first = |field: &str| by_id(field).and_then(|ids| ids.first().copied());
        let mut eos = by_id("eos_token_id").unwrap_or_default();
        eos.extend(by_name("eos_token"));
        eos.extend(ENDS.iter().filter_map(|end| document.special_id(end)));
        let special = SpecialTokens {
            bos: by_name("bos_token").or_else(|| first("bos_token_id")),
            eos,
            pad: by_name("pad_token").or_else(|| first("pad_token_id")),
            unk: by_name("unk_token"),
            add_bos: self.stated("add_bos_token").unwrap_or(false),
        };
        roles::settle(special, document.vocab_size())
    }

    /// The template for conversations: `tokenizer_config.json` has a text, or several of which one
    /// is called `default`.
    pub(crate) fn chat_template(&self) -> Option<&str> {
        let template = self.tokenizer_config.as_ref()?.get("chat_template")?;
        if let Some(text) = template.as_str() {
            return Some(text);
        }
        let default = template
            .as_array()?
            .iter()
            .find(|named| named.get("name").and_then(Value::as_str) == Some("default"))?;
        default.get("template")?.as_str()
    }

    /// A setting of `tokenizer_config.json` that is true or false.
    pub(crate) fn stated(&self, name: &str) -> Option<bool> {
        self.tokenizer_config.as_ref()?.get(name)?.as_bool()
    }

    /// The texts of the tokens that `special_tokens_map.json` and `tokenizer_config.json` name.
    pub(crate) fn named_tokens(&self) -> Vec<String> {
        let documents = [&self.special_tokens_map, &self.tokenizer_config];
        let fields = ["bos_token", "eos_token", "unk_token", "pad_token"];
        let single = documents.into_iter().flatten().flat_map(|document| {
            fields.iter().filter_map(|field| token_text(document.get(field)?))
        });
        let several = documents.into_iter().flatten().flat_map(|document| {
            let listed = document.get("additional_special_tokens").and_then(Value::as_array);
            listed.into_iter().flatten().filter_map(token_text)
        });
        single.chain(several).map(str::to_owned).collect()
    }
}

/// A token is written as a text, or as an object with its text as `content`.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id, or an array of them.
fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64()?.try_into().ok();
    match value.as_array() {
        Some(values) => values.iter().map(id).collect(),
        None => Some(vec![id(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> TokenizerDocument {
        let document = json!({
            "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []},
            "added_tokens": [
                {"id": 0, "content": "<s>", "special": true},
                {"id": 3, "content": "<|im_end|>", "special": true},
                {"id": 4, "content": "<eos>", "special": false},
            ],
        });
        TokenizerDocument::parse(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn roles_come_from_names_and_ids() {
        let documents = RoleDocuments {
            tokenizer_config: Some(json!({
                "bos_token": {"content": "<s>"}, "eos_token": "b", "pad_token": null,
                "add_bos_token": true,
                "chat_template": [
                    {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"},
                ],
            })),
            generation_config: Some(json!({"eos_token_id": [2, 1], "pad_token_id": 4})),
            ..RoleDocuments::default()
        };
        let special = documents.special(&document()).unwrap();
        let expected = SpecialTokens {
            bos: Some(0),
            eos: vec![1, 2, 3],
            pad: Some(4),
            unk: None,
            add_bos: true,
        };
        assert_eq!(special, expected);
        assert_eq!(documents.chat_template(), Some("d"));
    }

    #[test]
    fn a_role_without_its_token_is_refused() {
        let config = Some(json!({"eos_token_id": 5}));
        let error = RoleDocuments { config, ..RoleDocuments::default() }.special(&document());
        let error = error.unwrap_err();
        let expected = matches!(
            error,
            ImportError::SpecialToken { role: "end-of-text", found: 5, allowed: 5 }
        );
        assert!(expected, "{error}");
    }

    #[test]
    fn a_unigram_vocabulary_is_an_array() {
        let document = br#"{"model":{"vocab":[["a",-1.5],["b",-2]]}}"#;
        let document = TokenizerDocument::parse(document).unwrap();
        assert_eq!((document.vocab_size(), document.id("b")), (2, Some(1)));
    }
}
