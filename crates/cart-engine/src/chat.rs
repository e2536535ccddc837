//! Conversations to text, by the cartridge's own chat template.

mod literal;
mod tool_format;

use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::{Value as Json, json};
use thiserror::Error;

use self::literal::Hidden;
pub use self::literal::Rendered;
pub(crate) use self::literal::SpecialTexts;
pub use self::tool_format::{Said, ToolFormat, ToolParser};
use crate::calendar;
use crate::options::{Message, ToolCall};
use crate::tokenizer::Tokenizer;

/// Why a conversation can't be turned into text.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The template is not one.
    #[error("the chat template can't be read; pack the model again with a working template")]
    Template(#[source] Error),
    /// The template refuses the conversation, or fails on it.
    #[error("the chat template refuses the conversation: {source}")]
    Refused {
        /// What it said.
        #[source]
        source: Error,
    },
    /// There is no character left that could hide a special token in a message.
    #[error("the conversation uses every private-use character of Unicode; leave some of them out")]
    TooManyCharacters,
    /// The template has no place for tools.
    #[error(
        "the cartridge's chat template knows nothing of tools; leave `tools` out, or serve a model that was made for them"
    )]
    NoTools,
    /// There is nothing to answer.
    #[error("the conversation is empty; give at least one message")]
    Empty,
}

/// What is escaped for HTML in JSON, and what it stands for.
const HTML_ESCAPES: [(&str, char); 4] =
    [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With what comes before an answer of the assistant.
    Answer,
    /// With the last message.
    Closed,
}

/// A Jinja template, rendered as `transformers` does it: blocks are trimmed, Python's string and
/// dictionary methods work, and `raise_exception` and `strftime_now` are there.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Takes a template.
    ///
    /// * `bos`, `eos`: the texts of the tokens that begin and end a text, or empty
    ///
    /// # Errors
    /// It is no template.
    pub fn new(source: String, bos: String, eos: String) -> Result<Self, ChatError> {
        let source = without_generation(source);
        environment(Duration::ZERO).template_from_str(&source).map_err(ChatError::Template)?;
        Ok(Self { source, bos, eos })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text, up to where the assistant's answer begins.
    ///
    /// * `now`: what the template is told about the time, since 1970-01-01 UTC
    ///
    /// # Errors
    /// There are no messages, or the template refuses them.
    pub fn render(&self, messages: &[Message], now: Duration) -> Result<String, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::Empty);
        }
        self.render_as(messages, Ending::Answer, now)
    }

    /// The conversation as text for this tokenizer, with a note of where messages spell special
    /// tokens, which are to be read as ordinary text ([`Tokenizer::encode_except`]). The template
    /// sees a private-use character in place of each of them.
    ///
    /// # Errors
    /// The template refuses the messages.
    pub fn render_for(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        ending: Ending,
        now: Duration,
    ) -> Result<Rendered, ChatError> {
        self.render_with_tools(tokenizer, (messages, &[]), ending, now)
    }

    /// As [`ChatTemplate::render_for`], telling the model about tools.
    ///
    /// * `tools`: as OpenAI writes them, `{"type": "function", "function": {…}}`
    ///
    /// # Errors
    /// The template knows nothing of tools, or refuses the messages.
    pub fn render_with_tools(
        &self,
        tokenizer: &Tokenizer,
        (messages, tools): (&[Message], &[Json]),
        ending: Ending,
        now: Duration,
    ) -> Result<Rendered, ChatError> {
        if !tools.is_empty() && !self.lists_tools() {
            return Err(ChatError::NoTools);
        }
        let hidden = Hidden::new(messages, tools, &self.source, tokenizer.special_texts())
            .ok_or(ChatError::TooManyCharacters)?;
        let rendered = self.render_values(&hidden.messages, &hidden.tools, ending, now)?;
        Ok(hidden.reveal(&rendered))
    }

    /// Whether the template tells a model about tools.
    pub fn lists_tools(&self) -> bool {
        let environment = environment(Duration::ZERO);
        let template = environment.template_from_str(&self.source);
        template.is_ok_and(|template| template.undeclared_variables(false).contains("tools"))
    }

    /// How the template writes calls of tools; none where it knows nothing of tools, or writes calls in a way
    /// that is not read.
    pub fn tool_format(&self) -> Option<ToolFormat> {
        if self.lists_tools() { ToolFormat::of(&self.source) } else { None }
    }

    /// The conversation as text, with the ending that is asked for. It may be empty.
    ///
    /// # Errors
    /// The template refuses the messages.
    pub fn render_as(
        &self,
        messages: &[Message],
        ending: Ending,
        now: Duration,
    ) -> Result<String, ChatError> {
        self.render_values(messages, &[], ending, now)
    }

    fn render_values(
        &self,
        messages: &[Message],
        tools: &[Json],
        ending: Ending,
        now: Duration,
    ) -> Result<String, ChatError> {
        // A template asks whether there are tools by asking whether this is something.
        let tools = match tools {
            [] => Value::from(()),
            tools => tools.iter().map(seen).collect(),
        };
        let environment = environment(now);
        let template = environment.template_from_str(&self.source).map_err(ChatError::Template)?;
        template
            .render(context! {
                messages => turns(messages),
                tools => tools,
                documents => (),
                add_generation_prompt => ending == Ending::Answer,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            })
            .map_err(|source| ChatError::Refused { source })
    }
}

/// `{% generation %}` marks what a model is trained on and changes nothing else; the engine does
/// not know it.
fn without_generation(source: String) -> String {
    if !source.contains("generation") {
        return source;
    }
    let mut plain = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        plain.push_str(before);
        let len = tag.find("%}").unwrap_or(tag.len());
        let (inside, after) = tag.split_at(len);
        match inside.trim_matches(['-', '+']).trim() {
            "generation" => plain.push_str(&inside.replace("generation", "if true")),
            "endgeneration" => plain.push_str(&inside.replace("endgeneration", "endif")),
            _ => plain.push_str(inside),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

fn turns(messages: &[Message]) -> Vec<Value> {
    messages.iter().map(|message| seen(&turn(message))).collect()
}

/// JSON as a template sees it; fields keep their order.
fn seen(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (.., number) => Value::from(number.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(seen).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), seen(field))))
        }
    }
}

/// A message as a template sees it: what it does not have, it does not name.
fn turn(message: &Message) -> Json {
    let mut turn = json!({ "role": message.role, "content": message.content });
    let call = |call: &ToolCall| {
        json!({
            "id": call.id,
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments },
        })
    };
    if !message.tool_calls.is_empty() {
        turn["tool_calls"] = message.tool_calls.iter().map(call).collect();
    }
    if let Some(id) = &message.tool_call_id {
        turn["tool_call_id"] = json!(id);
    }
    if let Some(name) = &message.name {
        turn["name"] = json!(name);
    }
    turn
}

fn environment(now: Duration) -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the delimiters are the default ones"));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
        .add_function("strftime_now", move |format: String| calendar::strftime(&format, now));
    environment.add_filter("tojson", to_json);
    // A template is data from outside: it gets a bounded number of steps.
    environment.set_recursion_limit(64);
    environment
}

/// Python's `json.dumps`, as `transformers` has it. The engine's own filter escapes for HTML as
/// well.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?.to_string();
    let mut text = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        text.push_str(before);
        // A backslash in a text is escaped itself, so every escape begins where one is looked for.
        let plain = HTML_ESCAPES.iter().find(|(html, _)| escape.starts_with(html));
        let taken = match plain {
            Some((html, plain)) => {
                text.push(*plain);
                html.len()
            }
            None => 2.min(escape.len()),
        };
        if plain.is_none() {
            text.push_str(&escape[..taken]);
        }
        rest = &escape[taken..];
    }
    text.push_str(rest);
    Ok(Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, ChatError> {
        ChatTemplate::new(source.into(), "<s>".into(), "</s>".into())?
            .render(messages, Duration::from_secs(951_827_696))
    }

    #[test]
    fn the_surroundings_are_those_of_transformers() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if m['role'] == 'user' %}\n\
            [{{ m.content.strip().upper() }}]{{ eos_token }}\n    {% endif %}\n{% endfor %}\n\
            {{ strftime_now('%d %b %Y') }}{% if add_generation_prompt %}>{% endif %}";
        let text = render(source, &[Message::new("user", "  hi <b> ")]).unwrap();
        assert_eq!(text, "<s>\n[HI <B>]</s>\n29 Feb 2000>");
    }

    #[test]
    fn json_is_pythons_and_not_made_safe_for_html() {
        let text =
            render("{{ messages[0].content | tojson }}", &[Message::new("user", "<'\\u003c\n")]);
        assert_eq!(text.unwrap(), r#""<'\\u003c\n""#);
    }

    #[test]
    fn marks_of_what_is_trained_on_change_nothing() {
        let source = "{% for m in messages %}\n  {%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}.";
        assert_eq!(render(source, &[Message::new("user", "x")]).unwrap(), "x.");
    }

    #[test]
    fn refusals_carry_the_templates_own_words() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let error = render(source, &[Message::new("user", "x")]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
        assert!(matches!(render("{{ x }}", &[]), Err(ChatError::Empty)));
        let user = [Message::new("user", "x")];
        assert!(matches!(render("{% if %}", &user), Err(ChatError::Template(_))));
    }
}
