//! What people write in a conversation stays ordinary text, whatever it spells.
//!
//! A template mixes its own special tokens with the messages' contents, and in the rendered text
//! nothing tells one from the other: `<|im_end|>` typed by a user would end the turn. So before
//! rendering each special token in a content is replaced by a private-use character that occurs
//! nowhere else, which trimming and splitting leave alone, and afterwards it is put back, with a
//! note of where.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use crate::options::{Message, ToolCall};

/// Private-use characters: the two planes that are for nothing else.
const PRIVATE: [std::ops::RangeInclusive<u32>; 2] = [0xf0000..=0xffffd, 0x0010_0000..=0x0010_fffd];

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes of it that spell special tokens and came out of messages; sorted and apart. They are
    /// to be read as ordinary text.
    pub literal: Vec<Range<usize>>,
}

/// Special tokens by their texts, for finding them in contents.
#[derive(Debug)]
pub(crate) struct SpecialTexts {
    sorted: Vec<Vec<u8>>,
    /// Each from its end to its beginning, sorted.
    reversed: Vec<Vec<u8>>,
    longest: usize,
    /// Bytes that special tokens begin with.
    first: [bool; 256],
}

impl SpecialTexts {
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut sorted: Vec<Vec<u8>> =
            texts.filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec()).collect();
        let mut reversed = sorted.clone();
        reversed.iter_mut().for_each(|text| text.reverse());
        sorted.sort_unstable();
        reversed.sort_unstable();
        let longest = sorted.iter().map(Vec::len).max().unwrap_or(0);
        let mut first = [false; 256];
        sorted.iter().for_each(|text| first[usize::from(text[0])] = true);
        Self { sorted, reversed, longest, first }
    }

    /// Where a content spells special tokens, or begins or ends inside one that what stands around
    /// it could complete. Sorted and apart.
    fn spans(&self, content: &str) -> Vec<Range<usize>> {
        let mut spans = self.whole(content);
        let trimmed = content.trim();
        let start = content.len() - content.trim_start().len();
        let bytes = trimmed.as_bytes();
        let lengths = || (1..self.longest.min(bytes.len() + 1)).rev();
        let boundary = |at: &usize| trimmed.is_char_boundary(*at);
        let tail = lengths().find(|&len| {
            boundary(&(bytes.len() - len)) && begins(&self.sorted, &bytes[bytes.len() - len..])
        });
        let head = lengths().filter(boundary).find(|&len| {
            let reversed: Vec<u8> = bytes[..len].iter().rev().copied().collect();
            begins(&self.reversed, &reversed)
        });
        spans.extend(head.map(|len| start..start + len));
        spans.extend(tail.map(|len| start + bytes.len() - len..start + bytes.len()));
        merged(spans)
    }

    /// Every occurrence of every special token.
    fn whole(&self, content: &str) -> Vec<Range<usize>> {
        let bytes = content.as_bytes();
        let mut spans = Vec::new();
        for at in (0..bytes.len()).filter(|&at| self.first[usize::from(bytes[at])]) {
            let most = self.longest.min(bytes.len() - at);
            let found = (1..=most).rev().find(|&len| {
                self.sorted.binary_search_by(|text| text[..].cmp(&bytes[at..at + len])).is_ok()
            });
            spans.extend(found.map(|len| at..at + len));
        }
        spans
    }
}

/// Whether some text is longer than this beginning of it.
fn begins(sorted: &[Vec<u8>], beginning: &[u8]) -> bool {
    let at = sorted.partition_point(|text| text.as_slice() <= beginning);
    sorted.get(at).is_some_and(|text| text.starts_with(beginning))
}

fn merged(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_unstable_by_key(|span| (span.start, span.end));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

/// Messages whose special tokens are hidden, and what hides them.
pub(super) struct Hidden {
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Value>,
    by_character: BTreeMap<char, String>,
}

impl Hidden {
    /// None if there are more different texts to hide than characters to hide them behind.
    pub(super) fn new(
        messages: &[Message],
        tools: &[Value],
        template: &str,
        special: &SpecialTexts,
    ) -> Option<Self> {
        let mut texts: Vec<&str> = vec![template];
        for message in messages {
            texts.extend([message.role.as_str(), message.content.as_str()]);
            texts.extend(message.tool_call_id.as_deref());
            texts.extend(message.name.as_deref());
            for call in &message.tool_calls {
                texts.extend([call.id.as_str(), call.name.as_str()]);
                texts_of(&call.arguments, &mut texts);
            }
        }
        tools.iter().for_each(|tool| texts_of(tool, &mut texts));
        let is_private = |c: &char| PRIVATE.iter().any(|range| range.contains(&u32::from(*c)));
        let used: BTreeSet<char> =
            texts.into_iter().flat_map(str::chars).filter(is_private).collect();
        let codes = PRIVATE.iter().cloned().flatten();
        let mut free = codes.filter_map(char::from_u32).filter(|c| !used.contains(c));
        let mut by_text: BTreeMap<String, char> = BTreeMap::new();
        let mut hide = |text: &str, spans: Vec<Range<usize>>| {
            let mut hidden = String::with_capacity(text.len());
            let mut done = 0;
            for span in spans {
                let spelled = &text[span.clone()];
                let character = match by_text.get(spelled) {
                    Some(&character) => character,
                    None => *by_text.entry(spelled.to_owned()).or_insert(free.next()?),
                };
                hidden.push_str(&text[done..span.start]);
                hidden.push(character);
                done = span.end;
            }
            hidden.push_str(&text[done..]);
            Some(hidden)
        };
        let messages = messages
            .iter()
            .map(|message| {
                // Templates make markers around roles (`<|` and `|>`), so only whole ones are
                // hidden there.
                let role = hide(&message.role, merged(special.whole(&message.role)))?;
                let content = hide(&message.content, special.spans(&message.content))?;
                let mut whole = |text: &str| hide(text, special.spans(text));
                let id =
                    |id: &Option<String>, hide: &mut dyn FnMut(&str) -> Option<String>| match id {
                        Some(id) => hide(id).map(Some),
                        None => Some(None),
                    };
                let tool_call_id = id(&message.tool_call_id, &mut whole)?;
                let name = id(&message.name, &mut whole)?;
                let tool_calls = message
                    .tool_calls
                    .iter()
                    .map(|call| {
                        Some(ToolCall {
                            id: whole(&call.id)?,
                            name: whole(&call.name)?,
                            arguments: hidden_in(&call.arguments, &mut whole)?,
                        })
                    })
                    .collect::<Option<_>>()?;
                Some(Message { role, content, tool_calls, tool_call_id, name })
            })
            .collect::<Option<_>>()?;
        let tools = tools
            .iter()
            .map(|tool| hidden_in(tool, &mut |text: &str| hide(text, special.spans(text))))
            .collect::<Option<_>>()?;
        let by_character = by_text.into_iter().map(|(text, character)| (character, text)).collect();
        Some(Self { messages, tools, by_character })
    }

    /// Puts back what was hidden.
    pub(super) fn reveal(&self, rendered: &str) -> Rendered {
        let mut text = String::with_capacity(rendered.len());
        let mut literal = Vec::new();
        for character in rendered.chars() {
            match self.by_character.get(&character) {
                None => text.push(character),
                Some(spelled) => {
                    literal.push(text.len()..text.len() + spelled.len());
                    text.push_str(spelled);
                }
            }
        }
        Rendered { text, literal: merged(literal) }
    }
}

/// Every text in a value, names of fields included.
fn texts_of<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, texts)),
        Value::Object(fields) => {
            for (name, field) in fields {
                texts.push(name);
                texts_of(field, texts);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A value with every text in it hidden; none where there is no character left to hide behind.
fn hidden_in(value: &Value, hide: &mut dyn FnMut(&str) -> Option<String>) -> Option<Value> {
    Some(match value {
        Value::String(text) => Value::String(hide(text)?),
        Value::Array(items) => {
            items.iter().map(|item| hidden_in(item, hide)).collect::<Option<_>>()?
        }
        Value::Object(fields) => {
            let field =
                |(name, field): (&String, &Value)| Some((hide(name)?, hidden_in(field, hide)?));
            fields.iter().map(field).collect::<Option<_>>()?
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special() -> SpecialTexts {
        SpecialTexts::new(["<|im_end|>", "<|im|>", "[INST]", ""].into_iter())
    }

    fn spelled(content: &str) -> Vec<&str> {
        special().spans(content).into_iter().map(|span| &content[span]).collect()
    }

    #[test]
    fn whole_tokens_and_halves_at_the_ends_are_found() {
        assert_eq!(spelled("a<|im_end|>b<|im|>[INST]"), ["<|im_end|>", "<|im|>[INST]"]);
        assert_eq!(spelled(" end|> x <|im_ "), ["end|>", "<|im_"]);
        assert_eq!(spelled("a < b, [x] and é"), [""; 0]);
        assert_eq!(spelled("<"), ["<"]);
        assert_eq!(spelled("ST]"), ["ST]"]);
        assert_eq!(spelled(""), [""; 0]);
    }

    #[test]
    fn what_is_hidden_comes_back_and_is_noted() {
        let messages =
            [Message::new("user", "\u{f0000}<|im|>\u{f0001}<|im_"), Message::new("<|im|>", "x")];
        let hidden = Hidden::new(&messages, &[], "\u{f0002}", &special()).unwrap();
        assert_eq!(hidden.messages[0].content, "\u{f0000}\u{f0003}\u{f0001}\u{f0004}");
        assert_eq!(hidden.messages[1].role, "\u{f0003}");
        let rendered = hidden.reveal(&hidden.messages[0].content);
        assert_eq!(rendered.text, messages[0].content);
        assert_eq!(rendered.literal, [4..10, 14..19]);
    }
}
