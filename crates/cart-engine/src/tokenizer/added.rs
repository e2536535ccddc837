//! Tokens that are found in a text as they are spelled, before the model sees the rest.

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};
use serde::Deserialize;
use tokenizers::tokenizer::normalizer::Range as Of;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, Token};

/// An entry of `added_tokens`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// Which special tokens of a text are recognized.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recognize<'a> {
    /// None of them.
    None,
    /// Those that touch none of these bytes, which are sorted and apart.
    Outside(&'a [Range<usize>]),
}

impl Recognize<'_> {
    fn allows(self, found: &Range<usize>) -> bool {
        match self {
            Self::None => false,
            Self::Outside(literal) => {
                let after = literal.partition_point(|range| range.end <= found.start);
                literal.get(after).is_none_or(|range| range.start >= found.end)
            }
        }
    }
}

/// All of a tokenizer's.
#[derive(Debug)]
pub(super) struct Added {
    tokens: Vec<AddedToken>,
    by_id: HashMap<u32, usize>,
    /// What is looked for in the text as it is.
    raw: Finder,
    /// What is looked for in the normalized text.
    normalized: Finder,
}

/// Finds the first of some tokens, of those that begin together the longest.
#[derive(Debug)]
struct Finder {
    automaton: AhoCorasick,
    /// The place of each pattern's token.
    tokens: Vec<usize>,
}

impl Finder {
    fn new(patterns: Vec<(String, usize)>) -> Result<Self, BuildError> {
        let (patterns, tokens): (Vec<String>, Vec<usize>) = patterns.into_iter().unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // The quickest to build, which counts with thousands of patterns and one short text.
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(patterns)?;
        Ok(Self { automaton, tokens })
    }
}

impl Added {
    pub(super) fn new(
        tokens: Vec<AddedToken>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for (at, token) in tokens.iter().enumerate().filter(|(_, token)| !token.content.is_empty())
        {
            if !token.normalized {
                raw.push((token.content.clone(), at));
                continue;
            }
            let mut pattern = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut pattern)?;
            }
            normalized.push((pattern.get().to_owned(), at));
        }
        let by_id = tokens.iter().enumerate().map(|(at, token)| (token.id, at)).collect();
        let (raw, normalized) = (Finder::new(raw)?, Finder::new(normalized)?);
        Ok(Self { tokens, by_id, raw, normalized })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    pub(super) fn token(&self, id: u32) -> Option<&AddedToken> {
        self.by_id.get(&id).map(|&at| &self.tokens[at])
    }

    /// Cuts a text at the tokens that are looked for in it as it is.
    pub(super) fn split_raw(
        &self,
        text: &NormalizedString,
        recognize: Recognize<'_>,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        self.split(text, &self.raw, recognize)
    }

    /// Cuts a normalized text at the tokens that are looked for there. `recognize` speaks of the
    /// text as it was, so here special tokens are recognized all or not at all.
    pub(super) fn split_normalized(
        &self,
        text: &NormalizedString,
        recognize: Recognize<'_>,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let original = text.offsets_original();
        let recognize = match recognize {
            Recognize::Outside(_) if recognize.allows(&(original.0..original.1)) => {
                Recognize::Outside(&[])
            }
            _ => Recognize::None,
        };
        self.split(text, &self.normalized, recognize)
    }

    /// As `tokenizers` does it: a token that is passed over hides those that overlap it.
    fn split(
        &self,
        text: &NormalizedString,
        finder: &Finder,
        recognize: Recognize<'_>,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let mut parts = Vec::new();
        let mut done = 0;
        let whole = text.get();
        let slice = |range: Range<usize>| {
            text.slice(Of::Normalized(range)).expect("tokens begin and end between characters")
        };
        for found in finder.automaton.find_iter(whole) {
            let token = &self.tokens[finder.tokens[found.pattern().as_usize()]];
            let Range { mut start, mut end } = found.range();
            if token.special && !recognize.allows(&found.range()) {
                continue;
            }
            let in_word = whole[..start].ends_with(is_word) || whole[end..].starts_with(is_word);
            if token.single_word && in_word {
                continue;
            }
            if token.lstrip {
                start = whole[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = whole.len() - whole[end..].trim_start().len();
            }
            if done < start {
                parts.push((slice(done..start), None));
            }
            let part = slice(start..end);
            let value = part.get().to_owned();
            let len = value.len();
            parts.push((part, Some(vec![Token::new(token.id, value, (0, len))])));
            done = end;
        }
        if done < whole.len() {
            parts.push((slice(done..whole.len()), None));
        }
        parts
    }
}

/// What a regular expression calls `\w`, nearly.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
