//! What an importer must know of a `tokenizer.json`: its ids.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The tokens of a `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizerDocument {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Debug, Deserialize)]
struct Model {
    vocab: Vocab,
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// Token to id: an object, or for Unigram an array of tokens with scores.
#[derive(Debug)]
struct Vocab(HashMap<String, u32>);

impl TokenizerDocument {
    pub(crate) fn parse(document: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(document)
    }

    /// One more than the largest id, 0 without tokens.
    pub(crate) fn vocab_size(&self) -> u64 {
        let added = self.added_tokens.iter().map(|token| token.id);
        let ids = self.model.vocab.0.values().copied().chain(added);
        ids.max().map_or(0, |largest| u64::from(largest) + 1)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|added| added.content == token);
        added.map(|added| added.id).or_else(|| self.model.vocab.0.get(token).copied())
    }

    /// The id of a token that is marked as special.
    pub(crate) fn special_id(&self, token: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|added| added.special && added.content == token);
        added.map(|added| added.id)
    }
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids, or an array of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Vocab, A::Error> {
                let mut tokens = HashMap::new();
                while let Some((token, id)) = fields.next_entry()? {
                    tokens.insert(token, id);
                }
                Ok(Vocab(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vocab, A::Error> {
                let mut tokens = HashMap::new();
                let mut id = 0;
                while let Some((token, _score)) = items.next_element::<(String, IgnoredAny)>()? {
                    tokens.insert(token, id);
                    id += 1;
                }
                Ok(Vocab(tokens))
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}
