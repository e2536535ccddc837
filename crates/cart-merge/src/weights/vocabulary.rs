//! Tokens of models that number them differently, and the rows that belong to them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};
use thiserror::Error;

use crate::weights::rows::RowSource;

/// Tokens that an error lists.
const LISTED: usize = 5;

/// Why a document is no vocabulary.
#[derive(Debug, Error)]
pub enum VocabularyError {
    /// There is none.
    #[error("is absent; tokens can be mapped only where every model has a tokenizer")]
    Absent,
    /// Not JSON.
    #[error("can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A model of the tokenizer whose tokens are not known.
    #[error(
        "has no list of tokens at `{at}`; allowed: BPE, WordPiece, WordLevel or Unigram of `tokenizers`"
    )]
    Form {
        /// Where one was looked for.
        at: &'static str,
    },
}

/// The tokens of a model.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    document: Value,
    ids: BTreeMap<String, u32>,
}

/// In what two vocabularies differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differences {
    /// Tokens that the first has only.
    pub only_a: usize,
    /// Tokens that the second has only.
    pub only_b: usize,
    /// Tokens with other ids.
    pub renumbered: usize,
    /// Some of them.
    pub examples: Vec<String>,
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.only_a + self.only_b + self.renumbered == 0 {
            return f.write_str("the tokens are the same, the rules around them are not");
        }
        write!(
            f,
            "{} tokens only in the first, {} only in the second, {} with other ids ({})",
            self.only_a,
            self.only_b,
            self.renumbered,
            self.examples.join(", ")
        )
    }
}

impl Vocabulary {
    /// Reads a `tokenizer.json`.
    pub(crate) fn parse(document: Option<&[u8]>) -> Result<Self, VocabularyError> {
        let document: Value = serde_json::from_slice(document.ok_or(VocabularyError::Absent)?)?;
        let mut ids = BTreeMap::new();
        match &document["model"]["vocab"] {
            Value::Object(tokens) => {
                for (token, id) in tokens {
                    ids.insert(token.clone(), id_of(id)?);
                }
            }
            Value::Array(tokens) => {
                for (id, token) in tokens.iter().enumerate() {
                    let text = token[0].as_str();
                    let text = text.ok_or(VocabularyError::Form { at: "model.vocab" })?;
                    ids.insert(text.to_owned(), id as u32);
                }
            }
            _ => return Err(VocabularyError::Form { at: "model.vocab" }),
        }
        for added in document["added_tokens"].as_array().into_iter().flatten() {
            let text = added["content"].as_str();
            let text = text.ok_or(VocabularyError::Form { at: "added_tokens" })?;
            ids.insert(text.to_owned(), id_of(&added["id"])?);
        }
        Ok(Self { document, ids })
    }

    /// The number of each token.
    pub(crate) fn ids(&self) -> &BTreeMap<String, u32> {
        &self.ids
    }

    /// The `tokenizer.json`.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    pub(crate) fn differences(&self, other: &Self) -> Differences {
        let mut differences =
            Differences { only_a: 0, only_b: 0, renumbered: 0, examples: Vec::new() };
        let mut example = |token: &str| {
            if differences.examples.len() < LISTED {
                differences.examples.push(format!("{token:?}"));
            }
        };
        let (mut only_a, mut only_b, mut renumbered) = (0, 0, 0);
        for (token, id) in &self.ids {
            let count = match other.ids.get(token) {
                None => &mut only_a,
                Some(found) if found != id => &mut renumbered,
                Some(_) => continue,
            };
            *count += 1;
            example(token);
        }
        for token in other.ids.keys().filter(|token| !self.ids.contains_key(*token)) {
            only_b += 1;
            example(token);
        }
        Differences { only_a, only_b, renumbered, ..differences }
    }

    /// The lowest id over all tokens.
    fn end(&self) -> u64 {
        self.ids.values().max().map_or(0, |id| u64::from(*id) + 1)
    }
}

fn id_of(value: &Value) -> Result<u32, VocabularyError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or(VocabularyError::Form { at: "an id of a token" })
}

/// Which tokens the result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Those of one model.
    Of,
    /// Those of one model, then what the others have beyond them.
    Union,
}

/// The tokens of the result, and their ids in each model.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    owner: usize,
    /// For each id of the result, the id in each model, where it has the token.
    ids: Vec<Vec<Option<u32>>>,
    vocab_size: u64,
    added: usize,
}

impl Mapping {
    /// Lays out the result's tokens. Gives a new document as well, if it has tokens that the owner
    /// lacks.
    ///
    /// * `owner`: the model whose tokens come first, with their ids
    /// * `order`: the models in the order in which their further tokens follow
    /// * `rows`: rows of the owner's embedding, which may be more than its tokens
    pub(crate) fn new(
        vocabularies: &[Vocabulary],
        owner: usize,
        origin: Origin,
        order: &[usize],
        rows: u64,
    ) -> (Self, Option<Vec<u8>>) {
        let own = &vocabularies[owner];
        let mut tokens: Vec<Option<&str>> = vec![None; own.end() as usize];
        for (token, id) in &own.ids {
            tokens[*id as usize] = Some(token);
        }
        let mut added = Vec::new();
        if origin == Origin::Union {
            added = further(vocabularies, owner, order);
            tokens.extend(added.iter().map(|(token, _)| Some(token.as_str())));
        }
        let vocab_size = tokens.len() as u64;
        if origin == Origin::Of {
            tokens.resize(tokens.len().max(rows as usize), None);
        }
        let in_models = |token: Option<&str>| -> Vec<Option<u32>> {
            let id = |of: &Vocabulary| token.and_then(|token| of.ids.get(token).copied());
            vocabularies.iter().map(id).collect()
        };
        let ids = tokens.into_iter().map(in_models).collect();
        let document = (!added.is_empty()).then(|| {
            let mut document = own.document.clone();
            append(&mut document, &added, own.end());
            document.sort_all_objects();
            serde_json::to_vec(&document).expect("a JSON value has a text")
        });
        (Self { owner, ids, vocab_size, added: added.len() }, document)
    }

    /// Rows of the result's embedding.
    pub(crate) fn rows_out(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Ids of the result's tokens are below this.
    pub(crate) fn vocab_size(&self) -> u64 {
        self.vocab_size
    }

    /// Tokens that the owner lacks.
    pub(crate) fn added(&self) -> usize {
        self.added
    }

    /// Where each row of one input comes from. As in mergekit: a token that the input lacks gets the
    /// base's row; where there is no base or it lacks it too, the mean of those that have it.
    ///
    /// * `operand`: the input
    /// * `operands`: the model and rows of each
    /// * `base`: which of them is the base
    pub(crate) fn rows(
        &self,
        operand: usize,
        operands: &[(usize, u64)],
        base: Option<usize>,
    ) -> Vec<RowSource> {
        let at = |ids: &[Option<u32>], operand: usize| {
            let (model, rows) = operands[operand];
            let row = ids[model].filter(|id| u64::from(*id) < rows);
            row.map(|row| (operand, row))
        };
        let owner = operands.iter().position(|(model, _)| *model == self.owner);
        let source = |(out, ids): (usize, &Vec<Option<u32>>)| {
            if let Some(own) = at(ids, operand) {
                return RowSource::Mean(vec![own]);
            }
            if ids.iter().all(Option::is_none) {
                // A row that stands for no token stays as the owner has it.
                let owner = owner.filter(|owner| (out as u64) < operands[*owner].1);
                return owner
                    .map_or(RowSource::Zero, |owner| RowSource::Mean(vec![(owner, out as u32)]));
            }
            if let Some(found) = base.and_then(|base| at(ids, base)) {
                return RowSource::Mean(vec![found]);
            }
            let found: Vec<_> = (0..operands.len()).filter_map(|one| at(ids, one)).collect();
            if found.is_empty() { RowSource::Zero } else { RowSource::Mean(found) }
        };
        self.ids.iter().enumerate().map(source).collect()
    }
}

/// The tokens that the owner lacks, in the order of models and of their ids there, with how they
/// were added there, if they were.
fn further(
    vocabularies: &[Vocabulary],
    owner: usize,
    order: &[usize],
) -> Vec<(String, Option<Value>)> {
    let mut found: Vec<(String, Option<Value>)> = Vec::new();
    let mut seen: std::collections::BTreeSet<&str> =
        vocabularies[owner].ids.keys().map(String::as_str).collect();
    for &model in order {
        let vocabulary = &vocabularies[model];
        let mut tokens: Vec<(u32, &str)> =
            vocabulary.ids.iter().map(|(token, id)| (*id, token.as_str())).collect();
        tokens.sort_unstable();
        let added = vocabulary.document["added_tokens"].as_array();
        for (_, token) in tokens {
            if seen.insert(token) {
                let mut entries = added.into_iter().flatten();
                let entry = entries.find(|entry| entry["content"] == token);
                found.push((token.to_owned(), entry.cloned()));
            }
        }
    }
    found
}

/// Appends tokens to a `tokenizer.json`, as added ones.
fn append(document: &mut Value, added: &[(String, Option<Value>)], first: u64) {
    if !document["added_tokens"].is_array() {
        document["added_tokens"] = json!([]);
    }
    let list = document["added_tokens"].as_array_mut().expect("it was made one");
    for (id, (token, entry)) in (first..).zip(added) {
        let mut entry = entry.clone().unwrap_or_else(|| {
            json!({
                "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": true, "special": false,
            })
        });
        entry["id"] = json!(id);
        list.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[(&str, u32)]) -> Vocabulary {
        let vocab: BTreeMap<&str, u32> = tokens.iter().copied().collect();
        let document = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Vocabulary::parse(Some(&serde_json::to_vec(&document).unwrap())).unwrap()
    }

    #[test]
    fn a_union_keeps_the_owners_ids_and_maps_rows_by_token() {
        let a = vocabulary(&[("x", 0), ("y", 1)]);
        let b = vocabulary(&[("y", 0), ("z", 1), ("x", 2)]);
        assert_eq!(
            a.differences(&b),
            Differences {
                only_a: 0,
                only_b: 1,
                renumbered: 2,
                examples: vec!["\"x\"".into(), "\"y\"".into(), "\"z\"".into()],
            }
        );
        let (mapping, document) = Mapping::new(&[a, b], 0, Origin::Union, &[0, 1], 2);
        assert_eq!((mapping.rows_out(), mapping.vocab_size(), mapping.added()), (3, 3, 1));
        let joined = Vocabulary::parse(document.as_deref()).unwrap();
        assert_eq!(joined.ids["z"], 2);
        let operands = [(0, 2), (1, 3)];
        let own = |operand, row| RowSource::Mean(vec![(operand, row)]);
        // What the first lacks comes from the second.
        assert_eq!(mapping.rows(0, &operands, Some(0)), [own(0, 0), own(0, 1), own(1, 1)]);
        assert_eq!(mapping.rows(1, &operands, Some(0)), [own(1, 2), own(1, 0), own(1, 1)]);
    }

    #[test]
    fn what_one_lacks_is_the_bases_or_the_mean() {
        let vocabularies = [
            vocabulary(&[("x", 0)]),
            vocabulary(&[("x", 0), ("z", 1)]),
            vocabulary(&[("z", 0), ("x", 1)]),
        ];
        let (mapping, _) = Mapping::new(&vocabularies, 0, Origin::Union, &[0, 1, 2], 1);
        let operands = [(0, 1), (1, 2), (2, 2)];
        assert_eq!(mapping.rows(0, &operands, None)[1], RowSource::Mean(vec![(1, 1), (2, 0)]));
        assert_eq!(mapping.rows(0, &operands, Some(2))[1], RowSource::Mean(vec![(2, 0)]));
    }

    #[test]
    fn rows_over_the_tokens_stay_the_owners() {
        let vocabularies = [vocabulary(&[("x", 0)]), vocabulary(&[("x", 1), ("y", 0)])];
        let (mapping, document) = Mapping::new(&vocabularies, 0, Origin::Of, &[0, 1], 3);
        assert!(document.is_none());
        let rows = mapping.rows(1, &[(0, 3), (1, 2)], Some(0));
        let own = |operand, row| RowSource::Mean(vec![(operand, row)]);
        assert_eq!(rows, [own(1, 1), own(0, 1), own(0, 2)]);
    }
}
