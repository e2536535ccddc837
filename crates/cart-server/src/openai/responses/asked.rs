//! What `/v1/responses` is asked, as a chat.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::openai::ChatRequest;

/// The body of `POST /v1/responses`.
#[derive(Debug, Deserialize)]
pub(crate) struct ResponseRequest {
    pub(super) model: Option<String>,
    input: Option<Value>,
    pub(super) instructions: Option<String>,
    previous_response_id: Option<String>,
    store: Option<bool>,
    stream: Option<bool>,
    pub(super) max_output_tokens: Option<u64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) tools: Option<Vec<Value>>,
    pub(super) tool_choice: Option<Value>,
    pub(super) parallel_tool_calls: Option<bool>,
    pub(super) text: Option<Value>,
    pub(super) metadata: Option<Value>,
    pub(super) user: Option<String>,
    seed: Option<i64>,
    memory: Option<Value>,
    background: Option<bool>,
    conversation: Option<Value>,
}

impl ResponseRequest {
    /// Refuses what this server does not do.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if self.background == Some(true) {
            return Err(ApiError::Unsupported { param: "background" });
        }
        if self.conversation.as_ref().is_some_and(|given| !given.is_null()) {
            return Err(ApiError::Unsupported { param: "conversation" });
        }
        Ok(())
    }

    pub(super) fn previous(&self) -> Option<&str> {
        self.previous_response_id.as_deref()
    }

    pub(super) fn stores(&self) -> bool {
        self.store.unwrap_or(true)
    }

    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// The input as messages of a chat.
    pub(super) fn messages(&self) -> Result<Vec<Value>, ApiError> {
        let hint = "a string, or an array of items";
        match &self.input {
            None | Some(Value::Null) => Err(ApiError::Missing { param: "input", hint }),
            Some(Value::String(text)) => Ok(vec![json!({ "role": "user", "content": text })]),
            Some(Value::Array(items)) if !items.is_empty() => items.iter().map(message).collect(),
            Some(other) => {
                let found = short(other);
                Err(ApiError::Invalid { param: "input", found, allowed: hint })
            }
        }
    }

    /// The chat that it is, with what was said before.
    pub(super) fn chat(&self, messages: &[Value]) -> Result<ChatRequest, ApiError> {
        let system =
            self.instructions.as_ref().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<&Value> = system.iter().chain(messages).collect();
        let mut chat = Map::new();
        chat.insert("messages".to_owned(), json!(messages));
        let tools = self.tools.as_ref().filter(|tools| !tools.is_empty());
        let tools = tools.map(|tools| tools.iter().map(tool).collect::<Result<Vec<_>, _>>());
        let given = [
            ("model", self.model.as_ref().map(|model| json!(model))),
            ("max_completion_tokens", self.max_output_tokens.map(|most| json!(most))),
            ("temperature", self.temperature.map(|value| json!(value))),
            ("top_p", self.top_p.map(|value| json!(value))),
            ("seed", self.seed.map(|seed| json!(seed))),
            ("memory", self.memory.clone()),
            ("tools", tools.transpose()?.map(|tools| json!(tools))),
            ("tool_choice", self.tool_choice.as_ref().map(choice)),
            ("parallel_tool_calls", self.parallel_tool_calls.map(|several| json!(several))),
            ("response_format", self.format().map(response_format)),
        ];
        for (name, value) in given {
            if let Some(value) = value.filter(|value| !value.is_null()) {
                chat.insert(name.to_owned(), value);
            }
        }
        serde_json::from_value(Value::Object(chat)).map_err(|source| ApiError::Body { source })
    }

    /// What the answer has to be, where it says so.
    pub(super) fn format(&self) -> Option<&Value> {
        self.text.as_ref()?.get("format").filter(|format| !format.is_null())
    }
}

/// An item of the input as a message.
fn message(item: &Value) -> Result<Value, ApiError> {
    let text = |field: &str| item[field].as_str().unwrap_or_default();
    match item["type"].as_str().unwrap_or("message") {
        "message" if item["role"].is_string() => {
            let role = if text("role") == "developer" { "system" } else { text("role") };
            Ok(json!({ "role": role, "content": content(&item["content"])? }))
        }
        "function_call" => Ok(json!({ "role": "assistant", "content": null, "tool_calls": [{
            "id": text("call_id"), "type": "function",
            "function": { "name": text("name"), "arguments": text("arguments") },
        }] })),
        "function_call_output" => Ok(json!({
            "role": "tool", "tool_call_id": text("call_id"), "content": content(&item["output"])?,
        })),
        _ => Err(ApiError::Invalid {
            param: "input",
            found: short(item),
            allowed: "items of type `message` with a `role`, `function_call` and `function_call_output`",
        }),
    }
}

/// A text, or the texts of its parts.
fn content(content: &Value) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        other => {
            let allowed = "a string, or an array of parts of type `input_text` or `output_text`";
            Err(ApiError::Invalid { param: "input", found: short(other), allowed })
        }
    }
}

fn part(part: &Value) -> Result<String, ApiError> {
    let kind = part["type"].as_str().unwrap_or_default();
    match part["text"].as_str() {
        Some(text) if ["input_text", "output_text", "text"].contains(&kind) => Ok(text.to_owned()),
        _ => Err(ApiError::Invalid {
            param: "input",
            found: format!("a part {}", short(part)),
            allowed: "parts of type `input_text` or `output_text` with a `text`",
        }),
    }
}

/// A function as a chat offers it.
fn tool(tool: &Value) -> Result<Value, ApiError> {
    if tool["type"] != "function" {
        let found = short(tool);
        return Err(ApiError::Invalid {
            param: "tools",
            found,
            allowed: "tools of type `function`",
        });
    }
    let mut function = tool.as_object().cloned().unwrap_or_default();
    function.remove("type");
    Ok(json!({ "type": "function", "function": function }))
}

fn choice(choice: &Value) -> Value {
    match choice["name"].as_str() {
        Some(name) => json!({ "type": "function", "function": { "name": name } }),
        None => choice.clone(),
    }
}

fn response_format(format: &Value) -> Value {
    if format["type"] != "json_schema" {
        return format.clone();
    }
    let mut schema = format.as_object().cloned().unwrap_or_default();
    schema.remove("type");
    json!({ "type": "json_schema", "json_schema": schema })
}

/// The beginning of a value, for people.
fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Value) -> ResponseRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn items_become_messages() {
        let given = request(json!({ "input": [
            { "role": "developer", "content": "Be brief." },
            { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "a" },
                { "type": "input_text", "text": "b" }] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c", "output": "7" },
        ] }));
        let messages = given.messages().unwrap();
        assert_eq!(messages[0], json!({ "role": "system", "content": "Be brief." }));
        assert_eq!(messages[1]["content"], "ab");
        assert_eq!(messages[2]["tool_calls"][0]["function"]["name"], "f");
        assert_eq!(messages[3], json!({ "role": "tool", "tool_call_id": "c", "content": "7" }));
        for bad in [
            json!([]),
            json!(7),
            json!([{ "type": "image" }]),
            json!([{ "role": "user" }]),
            json!([{ "role": "user", "content": [{ "type": "input_image" }] }]),
        ] {
            assert!(request(json!({ "input": bad })).messages().is_err(), "{bad}");
        }
    }

    #[test]
    fn functions_and_formats_are_as_a_chat_has_them() {
        let function = json!({ "type": "function", "name": "f", "parameters": {}, "strict": true });
        let chat = json!({ "type": "function", "function": { "name": "f", "parameters": {}, "strict": true } });
        assert_eq!(tool(&function).unwrap(), chat);
        assert!(tool(&json!({ "type": "web_search" })).is_err());
        assert_eq!(choice(&json!("auto")), json!("auto"));
        let one = json!({ "type": "function", "function": { "name": "f" } });
        assert_eq!(choice(&json!({ "type": "function", "name": "f" })), one);
        let format = json!({ "type": "json_schema", "name": "n", "schema": {} });
        let expected =
            json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": {} } });
        assert_eq!(response_format(&format), expected);
    }
}
