//! A `tokenizer.json` into its parts, reading the vocabulary and the merges where they stand.
//!
//! The `tokenizers` library first makes a tree of the whole document and a string of every token; for
//! 262,144 tokens that is most of a second. Here a vocabulary is one text and a table.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::added::AddedToken;
use super::bpe::{Bpe, Pairs, Ranks};
use super::lists::Lists;
use super::model::Model;
use super::pieces::{MAX_ID, Pieces};
use super::unigram::Unigram;

/// What is used of a document.
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    pub(super) decoder: Option<Value>,
    model: ModelParts,
}

/// A document's model alone, for the `tokenizers` library.
#[derive(Deserialize)]
struct ModelOnly {
    model: ModelWrapper,
}

/// The fields of a document's model. `merges` are passed over once `cart_ranks` has come, with which they
/// are of no use (see `cart-store`'s import); it comes first in a document in canonical form.
#[derive(Default)]
struct ModelParts {
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    cart_ranks: Option<Vec<i32>>,
    merges: Option<Merges>,
    vocab: Option<Vocab>,
}

impl<'de> Deserialize<'de> for ModelParts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = ModelParts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
                let mut parts = ModelParts::default();
                while let Some(field) = fields.next_key()? {
                    match field {
                        "type" => parts.kind = fields.next_value()?,
                        "dropout" => parts.dropout = fields.next_value()?,
                        "unk_token" => parts.unk_token = fields.next_value()?,
                        "unk_id" => parts.unk_id = fields.next_value()?,
                        "continuing_subword_prefix" => {
                            parts.continuing_subword_prefix = fields.next_value()?;
                        }
                        "end_of_word_suffix" => parts.end_of_word_suffix = fields.next_value()?,
                        "fuse_unk" => parts.fuse_unk = fields.next_value()?,
                        "byte_fallback" => parts.byte_fallback = fields.next_value()?,
                        "ignore_merges" => parts.ignore_merges = fields.next_value()?,
                        "cart_ranks" => parts.cart_ranks = fields.next_value()?,
                        "merges" if parts.cart_ranks.is_none() => {
                            parts.merges = fields.next_value()?;
                        }
                        "vocab" => parts.vocab = Some(fields.next_value()?),
                        _ => drop(fields.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(parts)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// What goes wrong with a document.
type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let Lists { rest, ranks, vocab } = Lists::of(bytes);
        let mut document: Self = serde_json::from_slice(&rest)?;
        let model = &mut document.model;
        if let Some(empty) = model.cart_ranks.as_mut().filter(|found| found.is_empty())
            && let Some(ranks) = ranks
        {
            *empty = ranks;
        }
        if let Some(empty) = model.vocab.as_mut().filter(|found| found.pieces.end() == 0)
            && let Some(pieces) = vocab
        {
            empty.pieces = pieces;
        }
        Ok(document)
    }

    /// The model. A kind that is not known here is the library's, and is read a second time.
    pub(super) fn model(
        parts: ModelPartsOf,
        added: &[AddedToken],
        bytes: &[u8],
    ) -> Result<Model, Cause> {
        let parts = parts.0;
        let plain = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        let usual = parts.dropout.is_none_or(|dropout| dropout == 0.0)
            && plain(&parts.continuing_subword_prefix)
            && plain(&parts.end_of_word_suffix);
        let Vocab { mut pieces, scores } = parts.vocab.ok_or("the model has no vocabulary")?;
        let byte_fallback = parts.byte_fallback.unwrap_or(false);
        let merged = parts.cart_ranks.is_some() || parts.merges.is_some();
        match (parts.kind.as_deref(), scores) {
            (Some("BPE") | None, None) if usual && merged => {
                pieces.index();
                let unknown = match &parts.unk_token {
                    None => None,
                    Some(text) => {
                        Some(pieces.id(text).ok_or("the unknown token is not in the vocabulary")?)
                    }
                };
                let ranks = match (parts.cart_ranks, parts.merges) {
                    (Some(ranks), _) => Ranks::Pieces(ranks),
                    (None, merges) => Ranks::Pairs(merges.unwrap_or_default().pairs(&pieces)?),
                };
                let bytes = if byte_fallback { pieces.bytes() } else { None };
                Ok(Model::Bpe(Bpe {
                    pieces,
                    ranks,
                    unknown,
                    fuse_unknown: parts.fuse_unk.unwrap_or(false),
                    bytes,
                    ignore_merges: parts.ignore_merges.unwrap_or(false),
                }))
            }
            (Some("Unigram"), Some(scores)) => {
                pieces.index();
                let apart = added.iter().map(|token| token.id);
                let unknown = parts.unk_id.filter(|&id| (id as usize) < pieces.end());
                Ok(Model::Unigram(Unigram::new(pieces, scores, unknown, byte_fallback, apart)))
            }
            _ => {
                let only: ModelOnly = serde_json::from_slice(bytes)?;
                Ok(Model::Other(Box::new(only.model)))
            }
        }
    }

    /// Takes the model's parts out.
    pub(super) fn take_model(self) -> (Parts, ModelPartsOf) {
        let Self { added_tokens, normalizer, pre_tokenizer, decoder, model } = self;
        (Parts { added_tokens, normalizer, pre_tokenizer, decoder }, ModelPartsOf(model))
    }
}

/// All of a document but its model.
pub(super) struct Parts {
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) decoder: Option<Value>,
}

/// A document's model, not yet built.
pub(super) struct ModelPartsOf(ModelParts);

/// Tokens with ids, or for Unigram with scores in the order of the ids.
struct Vocab {
    pieces: Pieces,
    scores: Option<Vec<f32>>,
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
                let mut pieces = Pieces::default();
                while let Some((Text(token), id)) = fields.next_entry::<Text<'_>, u32>()? {
                    if id > MAX_ID {
                        return Err(Error::custom(format_args!(
                            "token id {id} is too large; allowed: up to {MAX_ID}"
                        )));
                    }
                    pieces.push(&token, id);
                }
                Ok(Vocab { pieces, scores: None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vocab, A::Error> {
                let (mut pieces, mut scores) = (Pieces::default(), Vec::new());
                while let Some((Text(token), score)) = items.next_element::<(Text<'_>, f64)>()? {
                    pieces.push(&token, scores.len() as u32);
                    scores.push(score as f32);
                }
                Ok(Vocab { pieces, scores: Some(scores) })
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// Pairs of tokens, best first: their texts joined, one pair after the other.
#[derive(Default)]
struct Merges {
    texts: String,
    /// Bytes of the left token and of both.
    lengths: Vec<(u32, u32)>,
}

impl Merges {
    fn pairs(&self, pieces: &Pieces) -> Result<Pairs, Cause> {
        let mut at = 0;
        let mut merges = Vec::with_capacity(self.lengths.len());
        for (index, &(left, both)) in self.lengths.iter().enumerate() {
            let joined = &self.texts[at..at + both as usize];
            at += both as usize;
            let Some(id) = pieces.id(joined) else {
                return Err(format!("merge {index} makes {joined:?}, which is no token").into());
            };
            merges.push((id, left));
        }
        Ok(Pairs::new(&merges, pieces.end()))
    }

    fn push(&mut self, left: &str, right: &str) {
        self.lengths.push((left.len() as u32, (left.len() + right.len()) as u32));
        self.texts.push_str(left);
        self.texts.push_str(right);
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while let Some(merge) = items.next_element::<Merge<'_>>()? {
                    merges.push(&merge.0, &merge.1);
                }
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Two tokens: as an array, or as a text with a space between.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de> Deserialize<'de> for Merge<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Two;
        impl<'de> Visitor<'de> for Two {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Merge<'de>, E> {
                let (left, right) = text.split_once(' ').ok_or_else(|| {
                    E::custom(format_args!("the merge {text:?} is not two tokens"))
                })?;
                Ok(Merge(Cow::Borrowed(left), Cow::Borrowed(right)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Merge<'de>, E> {
                let (left, right) = text.split_once(' ').ok_or_else(|| {
                    E::custom(format_args!("the merge {text:?} is not two tokens"))
                })?;
                Ok(Merge(Cow::Owned(left.to_owned()), Cow::Owned(right.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Merge<'de>, A::Error> {
                let two = "two tokens";
                let left: Text<'_> =
                    items.next_element()?.ok_or_else(|| Error::invalid_length(0, &two))?;
                let right: Text<'_> =
                    items.next_element()?.ok_or_else(|| Error::invalid_length(1, &two))?;
                match items.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(left.0, right.0)),
                    Some(_) => Err(Error::invalid_length(3, &two)),
                }
            }
        }
        deserializer.deserialize_any(Two)
    }
}

/// A text that is borrowed where nothing in it is escaped.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}
