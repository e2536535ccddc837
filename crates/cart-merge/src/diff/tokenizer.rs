//! Two tokenizers compared: tokens, merges, chat template and all other fields.

use std::collections::BTreeMap;

use cart_format::TokenizerSection;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::diff::error::DiffError;
use crate::diff::fields::{FieldChange, field_changes};
use crate::diff::lines::{Line, line_changes};
use crate::weights::Vocabulary;

/// A cartridge's tokenizer.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerInput<'a> {
    /// What the manifest says.
    pub section: &'a TokenizerSection,
    /// The `tokenizer.json`.
    pub document: &'a [u8],
    /// The chat template, if there is one.
    pub template: Option<&'a str>,
}

/// A token that one side has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenChange {
    /// The token, as the document writes it.
    pub token: String,
    /// Its number.
    pub id: u32,
}

/// A token with another number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renumbered {
    /// The token, as the document writes it.
    pub token: String,
    /// Its number in A.
    pub a: u32,
    /// Its number in B.
    pub b: u32,
}

/// How the rules that put tokens together differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MergesDiff {
    /// Rules of A.
    pub a: usize,
    /// Rules of B.
    pub b: usize,
    /// Rules that only B has, with a space between the two parts.
    pub added: Vec<String>,
    /// Rules that only A has.
    pub removed: Vec<String>,
    /// Whether those that both have come in another order.
    pub reordered: bool,
}

/// How two tokenizers differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenizerDiff {
    /// Whether they differ at all.
    pub changed: bool,
    /// Whether A and B have one.
    pub present: [bool; 2],
    /// Tokens of A; where both have the same tokenizer, as many as its section says.
    pub tokens_a: usize,
    /// Tokens of B, likewise.
    pub tokens_b: usize,
    /// Tokens that only B has, by number.
    pub added: Vec<TokenChange>,
    /// Tokens that only A has, by number.
    pub removed: Vec<TokenChange>,
    /// Tokens that have another number in B, by that of A.
    pub renumbered: Vec<Renumbered>,
    /// How merge rules differ.
    pub merges: MergesDiff,
    /// The lines of both chat templates; empty where they are equal.
    pub template: Vec<Line>,
    /// Everything else of the document, and the tokens with a role.
    pub fields: Vec<FieldChange>,
}

impl TokenizerDiff {
    /// Compares what two cartridges have.
    ///
    /// # Errors
    /// A document is none that tokens can be read from.
    pub fn new(
        a: Option<TokenizerInput<'_>>,
        b: Option<TokenizerInput<'_>>,
    ) -> Result<Self, DiffError> {
        let present = [a.is_some(), b.is_some()];
        if a.map(|a| a.section) == b.map(|b| b.section) {
            let tokens = a.map_or(0, |a| a.section.vocab_size as usize);
            return Ok(Self { present, tokens_a: tokens, tokens_b: tokens, ..Self::default() });
        }
        let [vocabulary_a, vocabulary_b] = [('A', a), ('B', b)]
            .map(|(side, input)| input.map(|input| read(side, input.document)).transpose());
        let (vocabulary_a, vocabulary_b) = (vocabulary_a?, vocabulary_b?);
        let mut diff = Self { changed: true, present, ..Self::default() };
        diff.tokens(vocabulary_a.as_ref(), vocabulary_b.as_ref());
        diff.merges = merges_diff(vocabulary_a.as_ref(), vocabulary_b.as_ref());
        let template = |input: Option<TokenizerInput<'_>>| {
            input.and_then(|input| input.template).unwrap_or_default().to_owned()
        };
        let (template_a, template_b) = (template(a), template(b));
        if template_a != template_b {
            diff.template = line_changes(&template_a, &template_b);
        }
        let rest = |input: Option<TokenizerInput<'_>>, vocabulary: Option<&Vocabulary>| {
            Some(rest(input?.section, vocabulary?.document()))
        };
        let (rest_a, rest_b) = (rest(a, vocabulary_a.as_ref()), rest(b, vocabulary_b.as_ref()));
        if let (Some(a), Some(b)) = (&rest_a, &rest_b) {
            diff.fields = field_changes(Some(a), Some(b));
        }
        Ok(diff)
    }

    /// Whether every token has the same number on both sides.
    pub fn same_numbers(&self) -> bool {
        self.present[0] == self.present[1]
            && self.added.is_empty()
            && self.removed.is_empty()
            && self.renumbered.is_empty()
    }

    fn tokens(&mut self, a: Option<&Vocabulary>, b: Option<&Vocabulary>) {
        let none = BTreeMap::new();
        let (a, b) = (a.map_or(&none, Vocabulary::ids), b.map_or(&none, Vocabulary::ids));
        (self.tokens_a, self.tokens_b) = (a.len(), b.len());
        let only = |of: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>| {
            let lone = of.iter().filter(|(token, _)| !other.contains_key(*token));
            let mut lone: Vec<TokenChange> =
                lone.map(|(token, &id)| TokenChange { token: token.clone(), id }).collect();
            lone.sort_by_key(|change| change.id);
            lone
        };
        self.removed = only(a, b);
        self.added = only(b, a);
        for (token, &id) in a {
            if let Some(&other) = b.get(token)
                && other != id
            {
                self.renumbered.push(Renumbered { token: token.clone(), a: id, b: other });
            }
        }
        self.renumbered.sort_by_key(|change| change.a);
    }
}

fn read(side: char, document: &[u8]) -> Result<Vocabulary, DiffError> {
    Vocabulary::parse(Some(document)).map_err(|source| DiffError::Tokenizer { side, source })
}

fn merges_diff(a: Option<&Vocabulary>, b: Option<&Vocabulary>) -> MergesDiff {
    let (a, b) = (a.map(merges).unwrap_or_default(), b.map(merges).unwrap_or_default());
    let mut diff = MergesDiff { a: a.len(), b: b.len(), ..MergesDiff::default() };
    if a == b {
        return diff;
    }
    let places = |of: &[String]| -> BTreeMap<String, usize> {
        of.iter().cloned().enumerate().map(|(at, rule)| (rule, at)).collect()
    };
    let (in_a, in_b) = (places(&a), places(&b));
    diff.removed = a.iter().filter(|rule| !in_b.contains_key(*rule)).cloned().collect();
    diff.added = b.iter().filter(|rule| !in_a.contains_key(*rule)).cloned().collect();
    let common: Vec<usize> = a.iter().filter_map(|rule| in_b.get(rule).copied()).collect();
    diff.reordered = !common.is_sorted();
    diff
}

/// Rules of byte-pair encoding, which are texts or pairs of them.
fn merges(vocabulary: &Vocabulary) -> Vec<String> {
    let rules = vocabulary.document()["model"]["merges"].as_array();
    let text = |rule: &Value| match rule {
        Value::String(rule) => rule.clone(),
        Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    rules.into_iter().flatten().map(text).collect()
}

/// What is neither token nor merge nor template: how texts are cut, and which tokens have a role.
fn rest(section: &TokenizerSection, document: &Value) -> Value {
    let mut rest = document.clone();
    if let Some(model) = rest["model"].as_object_mut() {
        model.remove("vocab");
        model.remove("merges");
    }
    let mut added = Map::new();
    for token in document["added_tokens"].as_array().into_iter().flatten() {
        let mut rules = token.clone();
        if let Some(rules) = rules.as_object_mut() {
            rules.remove("id");
            rules.remove("content");
        }
        added.insert(token["content"].as_str().unwrap_or_default().to_owned(), rules);
    }
    // A token that one side lacks is told as a token; its rules would only repeat it.
    if let Some(fields) = rest.as_object_mut() {
        fields.insert("added_tokens".to_owned(), Value::Object(added));
    }
    json!({ "document": rest, "special": section.special, "vocab_size": section.vocab_size })
}

#[cfg(test)]
mod tests {
    use cart_format::{BlobId, SpecialTokens};

    use super::*;

    fn section(document: &[u8]) -> TokenizerSection {
        TokenizerSection {
            document: BlobId::of(document),
            vocab_size: 4,
            chat_template: None,
            special: SpecialTokens::default(),
            extra: BTreeMap::new(),
        }
    }

    fn diff(a: &Value, b: &Value) -> TokenizerDiff {
        let (a, b) = (a.to_string().into_bytes(), b.to_string().into_bytes());
        let (of_a, of_b) = (section(&a), section(&b));
        let input =
            |section, document, template| Some(TokenizerInput { section, document, template });
        TokenizerDiff::new(input(&of_a, &a, Some("x\ny")), input(&of_b, &b, Some("x\nz"))).unwrap()
    }

    #[test]
    fn tokens_merges_template_and_fields_are_told_apart() {
        let a = json!({
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3},
                      "merges": ["a b", "b c", "c a"]},
            "added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "use_regex": true},
        });
        let b = json!({
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 2, "ab": 1},
                      "merges": [["b", "c"], ["a", "b"], ["d", "e"]]},
            "added_tokens": [{"id": 9, "content": "<x>", "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "use_regex": false},
        });
        let found = diff(&a, &b);
        assert!(found.changed && !found.same_numbers());
        assert_eq!(found.added, [TokenChange { token: "<x>".into(), id: 9 }]);
        assert_eq!(found.removed, [TokenChange { token: "c".into(), id: 3 }]);
        let renumbered: Vec<_> = found.renumbered.iter().map(|one| (one.a, one.b)).collect();
        assert_eq!(renumbered, [(1, 2), (2, 1)]);
        assert_eq!(
            (found.merges.added, found.merges.removed),
            (vec!["d e".into()], vec!["c a".into()])
        );
        assert!(found.merges.reordered);
        let fields: Vec<&str> = found.fields.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(fields, ["document.added_tokens.<x>", "document.pre_tokenizer.use_regex"]);
        assert_eq!(found.template.len(), 3);
    }
}
