//! How a template writes calls of tools, and how they are found in an answer.

use serde_json::{Map, Value, json};

use crate::constraint::Grammar;
use crate::options::ToolCall;

const OPENING: &str = "<tool_call>";
const CLOSING: &str = "</tool_call>";
const MISTRAL: &str = "[TOOL_CALLS]";

/// How a template writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name", "arguments"}</tool_call>`, as Hermes and Qwen have it.
    Hermes,
    /// `[TOOL_CALLS][{"name", "arguments"}]`, as Mistral has it.
    Mistral,
    /// `{"name", "parameters"}`, as Llama 3 has it.
    Llama,
    /// `{"name", "arguments"}`: what a template that lists tools is taken to mean where it shows no marks.
    Json,
}

impl ToolFormat {
    /// What a template that lists tools means by its text; none where it asks for calls in tags of their own
    /// (`<function=NAME>`), which are not read.
    pub(super) fn of(template: &str) -> Option<Self> {
        if template.contains("<function=") {
            None
        } else if template.contains(OPENING) {
            Some(Self::Hermes)
        } else if template.contains(MISTRAL) {
            Some(Self::Mistral)
        } else if template.contains(r#""parameters": "#) || template.contains("python_tag") {
            Some(Self::Llama)
        } else {
            Some(Self::Json)
        }
    }

    /// The grammar of a call of one of these tools.
    ///
    /// * `tools`: names, with the JSON Schemas of their arguments; at least one
    pub fn grammar(self, tools: &[(String, Value)]) -> Grammar {
        let calls: Vec<Value> = tools
            .iter()
            .enumerate()
            .map(|(index, (name, parameters))| self.call_schema(index, name, parameters))
            .collect();
        let call = if calls.len() == 1 { calls[0].clone() } else { json!({ "anyOf": calls }) };
        match self {
            Self::Hermes => Grammar::Framed {
                before: format!("{OPENING}\n"),
                schema: call,
                after: format!("\n{CLOSING}"),
            },
            Self::Mistral => {
                Grammar::JsonSchema(json!({ "type": "array", "items": call, "minItems": 1 }))
            }
            Self::Llama | Self::Json => Grammar::JsonSchema(call),
        }
    }

    /// The text after a call, where there is one.
    pub fn closing(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some(CLOSING)
    }

    fn call_schema(self, index: usize, name: &str, parameters: &Value) -> Value {
        let mut arguments = match parameters {
            Value::Object(fields) => fields.clone(),
            _ => Map::new(),
        };
        if arguments.is_empty() {
            arguments.insert("type".to_owned(), json!("object"));
            arguments.insert("additionalProperties".to_owned(), json!(false));
        }
        // References of the parameters are meant from their own root.
        if !arguments.contains_key("$id") {
            arguments.insert("$id".to_owned(), json!(format!("cart:tool/{index}")));
        }
        let key = self.arguments_key();
        json!({
            "type": "object",
            "properties": { "name": { "const": name }, key: arguments },
            "required": ["name", key],
            "additionalProperties": false,
        })
    }

    fn arguments_key(self) -> &'static str {
        if self == Self::Llama { "parameters" } else { "arguments" }
    }
}

/// Part of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What is for people.
    pub content: String,
    /// What is for tools. Their ids are empty.
    pub calls: Vec<ToolCall>,
}

/// Finds calls of tools in an answer that comes in pieces. What may be part of a call is held back.
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    /// The tools that there are.
    names: Vec<String>,
    held: String,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space has come.
    Start,
    /// In text for people.
    Text,
    /// In what may be a call.
    Call,
    /// After a call.
    Between,
}

impl ToolParser {
    /// A parser for an answer of a template.
    ///
    /// * `names`: the tools that there are
    pub fn new(format: ToolFormat, names: Vec<String>) -> Self {
        Self { format, names, held: String::new(), place: Place::Start }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Said {
        self.held.push_str(piece);
        let mut said = Said::default();
        while self.advance(&mut said) {}
        said
    }

    /// What is left, once nothing more comes.
    pub fn finish(&mut self) -> Said {
        let mut said = Said::default();
        let held = std::mem::take(&mut self.held);
        match (self.place, self.format) {
            (Place::Call, ToolFormat::Hermes) => match self.calls(&held) {
                Some(calls) => said.calls = calls,
                None => said.content = format!("{OPENING}{held}"),
            },
            (Place::Call, _) => match self.calls(&held) {
                Some(calls) => said.calls = calls,
                None => said.content = held,
            },
            (Place::Between, _) if held.trim().is_empty() => {}
            _ => said.content = held,
        }
        said
    }

    /// Goes on as far as what is held is certain; false where more has to come.
    fn advance(&mut self, said: &mut Said) -> bool {
        match (self.place, self.format) {
            (Place::Call, ToolFormat::Hermes) => self.close(said),
            (Place::Call, _) => false,
            (Place::Start | Place::Text | Place::Between, ToolFormat::Hermes) => self.open(said),
            (Place::Start, _) => self.begin(),
            (Place::Text | Place::Between, _) => {
                said.content.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    /// Whether an answer without marks is a call shows at its first character.
    fn begin(&mut self) -> bool {
        let begun = self.held.trim_start();
        let possible = begun.starts_with(['{', '[']) || MISTRAL.starts_with(begun);
        if begun.is_empty() {
            return false;
        }
        self.place = if possible { Place::Call } else { Place::Text };
        true
    }

    /// Gives out text up to a call.
    fn open(&mut self, said: &mut Said) -> bool {
        let found = self.held.find(OPENING);
        let opened = found.is_some();
        let text = match found {
            Some(at) => self.before(at, OPENING),
            None => self.before(self.held.len() - beginning(&self.held, OPENING), ""),
        };
        // White space around calls is layout.
        let layout = matches!(self.place, Place::Start | Place::Between);
        if !layout || !text.trim().is_empty() {
            said.content.push_str(&text);
            self.place = Place::Text;
        } else if !opened {
            self.held.insert_str(0, &text);
        }
        if opened {
            self.place = Place::Call;
        }
        opened
    }

    /// Takes what is held up to `at`, and passes over the mark that is there.
    fn before(&mut self, at: usize, mark: &str) -> String {
        let rest = self.held.split_off(at + mark.len());
        let mut before = std::mem::replace(&mut self.held, rest);
        before.truncate(at);
        before
    }

    /// Reads a call up to its end.
    fn close(&mut self, said: &mut Said) -> bool {
        let Some(at) = self.held.find(CLOSING) else { return false };
        let call = self.before(at, CLOSING);
        match self.calls(&call) {
            Some(calls) => said.calls.extend(calls),
            // What is no call is not lost.
            None => said.content.extend([OPENING, &call, CLOSING]),
        }
        self.place = Place::Between;
        true
    }

    /// The calls that a text is, if it is nothing else.
    fn calls(&self, text: &str) -> Option<Vec<ToolCall>> {
        let text = text.trim();
        let text = text.strip_prefix(MISTRAL).unwrap_or(text);
        let calls = match serde_json::from_str(text).ok()? {
            Value::Array(calls) if !calls.is_empty() => calls,
            call @ Value::Object(_) => vec![call],
            _ => return None,
        };
        calls.iter().map(|call| self.call(call)).collect()
    }

    fn call(&self, call: &Value) -> Option<ToolCall> {
        let name = call["name"].as_str()?.to_owned();
        let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
            // Some models write them as a text once more.
            Some(Value::String(text)) => serde_json::from_str(text).ok()?,
            Some(arguments) => arguments.clone(),
            None => Value::Object(Map::new()),
        };
        // JSON that is no call can have a name too.
        let marked = self.format == ToolFormat::Hermes;
        if !arguments.is_object() || !(marked || self.names.contains(&name)) {
            return None;
        }
        Some(ToolCall { id: String::new(), name, arguments })
    }
}

/// Bytes at the end of a text that may begin a mark.
fn beginning(text: &str, mark: &str) -> usize {
    let most = text.len().min(mark.len() - 1);
    (1..=most).rev().find(|&len| text.ends_with(&mark[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "Let me see <- here.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n\
        </tool_call>\n<tool_call>{\"name\": \"stop\"}</tool_call>\n";

    fn parsed(format: ToolFormat, pieces: &[&str]) -> (String, Vec<String>) {
        let mut parser = ToolParser::new(format, vec!["add".to_owned(), "stop".to_owned()]);
        let (mut content, mut calls) = (String::new(), Vec::new());
        let said = pieces.iter().map(|piece| parser.push(piece)).collect::<Vec<_>>();
        for said in said.into_iter().chain([parser.finish()]) {
            content += &said.content;
            calls.extend(said.calls.iter().map(|call| format!("{}{}", call.name, call.arguments)));
        }
        (content, calls)
    }

    #[test]
    fn calls_are_found_however_the_answer_is_cut() {
        let expected = (
            "Let me see <- here.\n".to_owned(),
            vec!["add{\"a\":1}".to_owned(), "stop{}".to_owned()],
        );
        for size in 1..=ANSWER.len() {
            let cuts: Vec<usize> = (0..ANSWER.len()).step_by(size).chain([ANSWER.len()]).collect();
            let pieces: Vec<&str> = cuts.windows(2).map(|ends| &ANSWER[ends[0]..ends[1]]).collect();
            assert_eq!(parsed(ToolFormat::Hermes, &pieces), expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_call_is_text_and_none_of_it_is_lost() {
        for text in [
            "plain",
            "<tool_call>no json</tool_call> after",
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\"",
            " <tool_",
        ] {
            assert_eq!(parsed(ToolFormat::Hermes, &[text]), (text.to_owned(), Vec::new()));
        }
        for text in ["plain {", "{\"name\": \"Anna\", \"age\": 4}", "[1, 2]", "{\"a\": ", "[TOOL"] {
            for format in [ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Json] {
                assert_eq!(parsed(format, &[text]), (text.to_owned(), Vec::new()), "{format:?}");
            }
        }
    }

    #[test]
    fn answers_without_marks_are_calls_when_they_are_json_of_one() {
        let call = ["{\"name\": \"add\", ", "\"parameters\": {\"a\": 1}}"];
        let expected = (String::new(), vec!["add{\"a\":1}".to_owned()]);
        assert_eq!(parsed(ToolFormat::Llama, &call), expected);
        let two = "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}]";
        assert_eq!(parsed(ToolFormat::Mistral, &["[TOOL", &two[5..]]), expected);
        // An unclosed call of a model that ends its turn instead.
        let open = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}";
        assert_eq!(parsed(ToolFormat::Hermes, &[open]), expected);
    }

    #[test]
    fn templates_show_their_format() {
        assert_eq!(ToolFormat::of("… <tool_call> …"), Some(ToolFormat::Hermes));
        assert_eq!(ToolFormat::of("… [TOOL_CALLS] …"), Some(ToolFormat::Mistral));
        assert_eq!(ToolFormat::of("… '<|python_tag|>' …"), Some(ToolFormat::Llama));
        assert_eq!(ToolFormat::of("{{ tools | tojson }}"), Some(ToolFormat::Json));
        assert_eq!(ToolFormat::of("<tool_call><function=f>"), None);
    }
}
