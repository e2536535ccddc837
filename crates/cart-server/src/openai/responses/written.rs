//! A response as OpenAI writes it: an object, and events on the way to it.

use cart_engine::runtime::StreamSummary;
use cart_engine::{FinishReason, Said, ToolCall};
use serde_json::{Map, Value, json};

use super::{Events, ResponseRequest};
use crate::error::ApiError;
use crate::openai::answer::Begun;
use crate::openai::unix_seconds;

/// A response while it comes about.
pub(super) struct Written {
    id: String,
    created: u64,
    /// What the request said, which the response repeats.
    asked: Map<String, Value>,
    /// The items that are whole.
    items: Vec<Value>,
    /// The text of the message that is open.
    open: Option<String>,
    status: &'static str,
    error: Value,
    incomplete: Value,
    usage: Value,
    events: Events,
    /// Events so far.
    number: u64,
}

impl Written {
    pub(super) fn new(id: String, request: &ResponseRequest, begun: &Begun) -> Self {
        let given = json!({
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata.clone().unwrap_or_else(|| json!({})),
            "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": request.previous(),
            "reasoning": { "effort": null, "summary": null },
            "store": request.stores(),
            "temperature": request.temperature.unwrap_or(begun.temperature),
            "text": { "format": request.format().cloned().unwrap_or_else(|| json!({ "type": "text" })) },
            "tool_choice": request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
            "tools": request.tools.clone().unwrap_or_default(),
            "top_p": request.top_p.unwrap_or(begun.top_p),
            "truncation": "disabled",
            "user": request.user,
        });
        let Value::Object(asked) = given else { unreachable!("it is written as an object") };
        Self {
            id,
            created: unix_seconds(),
            asked,
            items: Vec::new(),
            open: None,
            status: "in_progress",
            error: Value::Null,
            incomplete: Value::Null,
            usage: Value::Null,
            events: Events::new(),
            number: 0,
        }
    }

    /// The response as it is now.
    pub(super) fn response(&self, begun: &Begun) -> Value {
        let mut response = self.asked.clone();
        let own = [
            ("id", json!(self.id)),
            ("object", json!("response")),
            ("created_at", json!(self.created)),
            ("status", json!(self.status)),
            ("error", self.error.clone()),
            ("incomplete_details", self.incomplete.clone()),
            ("model", json!(begun.resident.name())),
            ("output", json!(self.items)),
            ("usage", self.usage.clone()),
            (
                "cart",
                json!({
                    "generation": begun.resident.generation(),
                    "manifest": begun.resident.manifest(),
                }),
            ),
        ];
        response.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(response)
    }

    /// The events with which it begins.
    pub(super) fn opening(&mut self, begun: &Begun) -> Events {
        let response = self.response(begun);
        self.event("response.created", json!({ "response": response }));
        self.event("response.in_progress", json!({ "response": response }));
        self.take_events()
    }

    pub(super) fn take_events(&mut self) -> Events {
        std::mem::take(&mut self.events)
    }

    /// A piece of text.
    pub(super) fn text(&mut self, piece: &str) {
        if piece.is_empty() {
            return;
        }
        if self.open.is_none() {
            self.open = Some(String::new());
            let item = self.message("in_progress", None);
            self.at_item("response.output_item.added", json!({ "item": item }));
            let part = text_part("");
            self.at_text("response.content_part.added", json!({ "part": part }));
        }
        if let Some(open) = &mut self.open {
            open.push_str(piece);
        }
        self.at_text("response.output_text.delta", json!({ "delta": piece, "logprobs": [] }));
    }

    /// Text and calls, as they were found in the answer.
    pub(super) fn said(&mut self, said: &Said) {
        self.text(&said.content);
        for call in &said.calls {
            self.close();
            self.call(call);
        }
    }

    /// The answer is whole.
    pub(super) fn finish(&mut self, summary: &StreamSummary, begun: &Begun) {
        self.close();
        let cut = summary.finish == FinishReason::Length;
        self.status = if cut { "incomplete" } else { "completed" };
        if cut {
            self.incomplete = json!({ "reason": "max_output_tokens" });
        }
        self.usage = json!({
            "input_tokens": begun.prompt_tokens,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": summary.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": begun.prompt_tokens + summary.completion_tokens,
        });
        let kind = if cut { "response.incomplete" } else { "response.completed" };
        let response = self.response(begun);
        self.event(kind, json!({ "response": response }));
    }

    /// The answer failed.
    pub(super) fn fail(&mut self, error: &ApiError, begun: &Begun) {
        self.status = "failed";
        let said = &error.body()["error"];
        self.error = json!({ "code": said["code"], "message": said["message"] });
        let response = self.response(begun);
        self.event("response.failed", json!({ "response": response }));
    }

    /// What was answered, as messages of a chat that goes on.
    pub(super) fn messages(&self) -> Vec<Value> {
        let message = |item: &Value| match item["type"].as_str() {
            Some("function_call") => json!({ "role": "assistant", "content": null, "tool_calls": [{
                "id": item["call_id"], "type": "function",
                "function": { "name": item["name"], "arguments": item["arguments"] },
            }] }),
            _ => json!({ "role": "assistant", "content": item["content"][0]["text"] }),
        };
        self.items.iter().map(message).collect()
    }

    /// Ends the message that is open.
    fn close(&mut self) {
        let Some(text) = self.open.clone() else { return };
        self.at_text("response.output_text.done", json!({ "text": text, "logprobs": [] }));
        self.at_text("response.content_part.done", json!({ "part": text_part(&text) }));
        let item = self.message("completed", Some(&text));
        self.at_item("response.output_item.done", json!({ "item": item }));
        self.items.push(item);
        self.open = None;
    }

    fn call(&mut self, call: &ToolCall) {
        let id = self.item_id("fc");
        let arguments = call.arguments.to_string();
        let item = |status: &str, arguments: &str| {
            json!({
                "type": "function_call", "id": id, "call_id": call.id, "name": call.name,
                "arguments": arguments, "status": status,
            })
        };
        self.at_item("response.output_item.added", json!({ "item": item("in_progress", "") }));
        let kind = "response.function_call_arguments.delta";
        self.at_item(kind, json!({ "item_id": id, "delta": arguments }));
        let kind = "response.function_call_arguments.done";
        let done = json!({ "item_id": id, "name": call.name, "arguments": arguments });
        self.at_item(kind, done);
        let item = item("completed", &arguments);
        self.at_item("response.output_item.done", json!({ "item": item }));
        self.items.push(item);
    }

    /// The message that is open; without a text it has no part yet.
    fn message(&self, status: &str, text: Option<&str>) -> Value {
        let content: Vec<Value> = text.map(text_part).into_iter().collect();
        json!({
            "type": "message", "id": self.item_id("msg"), "status": status, "role": "assistant",
            "content": content,
        })
    }

    fn item_id(&self, kind: &str) -> String {
        let own = self.id.strip_prefix("resp_").unwrap_or(&self.id);
        format!("{kind}_{own}{:02x}", self.items.len())
    }

    /// An event of the text that is open.
    fn at_text(&mut self, kind: &str, mut fields: Value) {
        fields["item_id"] = json!(self.item_id("msg"));
        fields["content_index"] = json!(0);
        self.at_item(kind, fields);
    }

    /// An event of the item that is next.
    fn at_item(&mut self, kind: &str, mut fields: Value) {
        fields["output_index"] = json!(self.items.len());
        self.event(kind, fields);
    }

    fn event(&mut self, kind: &str, mut fields: Value) {
        fields["type"] = json!(kind);
        fields["sequence_number"] = json!(self.number);
        self.number += 1;
        self.events.push_back(fields);
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
