//! Tools: what a request offers, what a model may be made to call, and what earlier turns called.

use cart_engine::{Constraint, GenerateOptions, ToolCall, ToolFormat, ToolParser};
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// Most tools of a request, as OpenAI has it.
const MOST: usize = 128;

/// The parameter `tool_choice`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// A function that has to be called.
    Named { function: FunctionName },
}

/// A function by its name.
#[derive(Debug, Deserialize)]
pub(crate) struct FunctionName {
    name: String,
}

/// A call in an assistant's message, as clients send it back.
#[derive(Debug, Deserialize)]
pub(crate) struct CallParameter {
    #[serde(default)]
    id: String,
    function: CalledFunction,
}

/// A function with what it was given.
#[derive(Debug, Deserialize)]
struct CalledFunction {
    name: String,
    /// JSON of an object, as text.
    arguments: String,
}

/// What a model may call, and what it has to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tools {
    /// As the client wrote them, for the template.
    written: Vec<Value>,
    /// Names, with the schemas of their arguments.
    functions: Vec<(String, Value)>,
    /// Whether one of them has to be called.
    required: Option<Required>,
    /// Whether several may be called in one answer.
    pub(crate) parallel: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Required {
    Any,
    Named(String),
}

impl CallParameter {
    /// # Errors
    /// The arguments are no JSON object.
    pub(crate) fn into_call(self) -> Result<ToolCall, ApiError> {
        let CalledFunction { name, arguments } = self.function;
        let empty = arguments.trim().is_empty();
        let text = if empty { "{}" } else { arguments.as_str() };
        match serde_json::from_str::<Value>(text) {
            Ok(arguments) if arguments.is_object() => Ok(ToolCall { id: self.id, name, arguments }),
            _ => Err(ApiError::Invalid {
                param: "messages.tool_calls.function.arguments",
                found: format!("`{}`", arguments.chars().take(80).collect::<String>()),
                allowed: "a text that is a JSON object",
            }),
        }
    }
}

impl Tools {
    /// What a request offers; none where it offers nothing, or says that none is to be called.
    ///
    /// # Errors
    /// A tool is none, there are too many, or one is chosen that is not there.
    pub(crate) fn offered(
        written: Option<Vec<Value>>,
        choice: Option<&ToolChoice>,
        parallel: Option<bool>,
    ) -> Result<Option<Self>, ApiError> {
        let written = written.unwrap_or_default();
        if written.len() > MOST {
            let found = format!("an array of {} tools", written.len());
            return Err(ApiError::Invalid { param: "tools", found, allowed: "up to 128 tools" });
        }
        let functions: Vec<(String, Value)> =
            written.iter().map(function).collect::<Result<_, _>>()?;
        let unknown = |found: String| {
            let allowed = "`none`, `auto`, `required`, or {\"type\": \"function\", \"function\": {\"name\"}} of one of `tools`";
            Err(ApiError::Invalid { param: "tool_choice", found, allowed })
        };
        let required = match choice {
            Some(ToolChoice::Mode(mode)) if mode == "none" => return Ok(None),
            None if functions.is_empty() => return Ok(None),
            Some(ToolChoice::Mode(mode)) if mode == "auto" && functions.is_empty() => {
                return Ok(None);
            }
            None => None,
            Some(ToolChoice::Mode(mode)) if mode == "auto" => None,
            Some(ToolChoice::Mode(mode)) if mode == "required" && !functions.is_empty() => {
                Some(Required::Any)
            }
            Some(ToolChoice::Mode(mode)) if mode == "required" => {
                return unknown("`required`, but there are no `tools`".to_owned());
            }
            Some(ToolChoice::Mode(mode)) => {
                return unknown(format!("`{}`", mode.chars().take(40).collect::<String>()));
            }
            Some(ToolChoice::Named { function: FunctionName { name } }) => {
                if !functions.iter().any(|(known, _)| known == name) {
                    let name: String = name.chars().take(80).collect();
                    return unknown(format!("the function `{name}`, which is none of `tools`"));
                }
                Some(Required::Named(name.clone()))
            }
        };
        Ok(Some(Self { written, functions, required, parallel: parallel.unwrap_or(true) }))
    }

    /// Puts them into the options of a generation.
    pub(crate) fn apply(&self, format: ToolFormat, options: &mut GenerateOptions) {
        options.tools.clone_from(&self.written);
        if let Some(required) = &self.required {
            let may = |(name, _): &&(String, Value)| match required {
                Required::Any => true,
                Required::Named(named) => name == named,
            };
            let callable: Vec<_> = self.functions.iter().filter(may).cloned().collect();
            options.constraint = Some(Constraint::new(format.grammar(&callable)));
        }
        if !self.parallel {
            options.stop.extend(format.closing().map(str::to_owned));
        }
    }

    /// Finds calls in an answer.
    pub(crate) fn parser(&self, format: ToolFormat) -> ToolParser {
        let names = self.functions.iter().map(|(name, _)| name.clone());
        ToolParser::new(format, names.collect())
    }
}

/// A tool's name, and the schema of its arguments.
fn function(tool: &Value) -> Result<(String, Value), ApiError> {
    let invalid = |found: String| {
        let allowed = "{\"type\": \"function\", \"function\": {\"name\", \"description\", \"parameters\"}}, the name of 1 to 64 letters, digits, `_` and `-`, the parameters a JSON Schema";
        Err(ApiError::Invalid { param: "tools", found, allowed })
    };
    if tool["type"] != "function" {
        return invalid(format!("a tool of type {}", cut(&tool["type"])));
    }
    let name = tool["function"]["name"].as_str().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
        return invalid(format!("a function with the name {}", cut(&tool["function"]["name"])));
    }
    let parameters = tool["function"]["parameters"].clone();
    if !matches!(parameters, Value::Null | Value::Object(_)) {
        return invalid(format!("a function with the parameters {}", cut(&parameters)));
    }
    Ok((name.to_owned(), parameters))
}

/// A value as text, cut.
fn cut(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name } })
    }

    fn offered(tools: &[Value], choice: Value) -> Result<Option<Tools>, String> {
        let choice: Option<ToolChoice> = serde_json::from_value(choice).unwrap();
        let offered = Tools::offered(Some(tools.to_vec()), choice.as_ref(), None);
        offered.map_err(|error| error.body()["error"]["param"].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_choice_says_whether_and_what_has_to_be_called() {
        let tools = [tool("add"), tool("stop")];
        let required = |choice: Value| offered(&tools, choice).unwrap().map(|tools| tools.required);
        assert_eq!(required(json!(null)), Some(None));
        assert_eq!(required(json!("auto")), Some(None));
        assert_eq!(required(json!("none")), None);
        assert_eq!(required(json!("required")), Some(Some(Required::Any)));
        let named = json!({ "type": "function", "function": { "name": "stop" } });
        assert_eq!(required(named), Some(Some(Required::Named("stop".to_owned()))));
        assert_eq!(offered(&[], json!("auto")), Ok(None));
    }

    #[test]
    fn tools_that_are_none_and_choices_of_nothing_are_refused() {
        let other = json!({ "type": "function", "function": { "name": "other" } });
        for (tools, choice, param) in [
            (vec![tool("add")], other, "tool_choice"),
            (vec![tool("add")], json!("always"), "tool_choice"),
            (Vec::new(), json!("required"), "tool_choice"),
            (vec![tool("")], json!(null), "tools"),
            (vec![tool("a b")], json!(null), "tools"),
            (vec![json!({ "type": "search" })], json!(null), "tools"),
            (vec![tool("add"); MOST + 1], json!(null), "tools"),
        ] {
            assert_eq!(offered(&tools, choice).unwrap_err(), param);
        }
    }
}
