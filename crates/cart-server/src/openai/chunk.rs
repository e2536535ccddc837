//! Answers and parts of answers, as OpenAI writes them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cart_engine::runtime::{Resident, StreamSummary};
use cart_engine::{FinishReason, GenerateEvent, Said, ToolCall};
use cart_format::TokenLogprob;
use serde_json::{Map, Value, json};

/// Which endpoint's answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `chat.completion`.
    Chat {
        /// Whether log-probabilities are wanted.
        logprobs: bool,
    },
    /// `text_completion`.
    Completion {
        /// Whether log-probabilities are wanted.
        logprobs: bool,
    },
}

/// Writes one answer, whole or in parts.
pub(crate) struct Writer {
    shape: Shape,
    id: String,
    created: u64,
    include_usage: bool,
    resident: Arc<Resident>,
    /// Characters written so far, where a completion's log-probabilities count them.
    offset: usize,
    /// Calls of tools written so far.
    calls: usize,
}

/// Seconds since 1970: what `created` is.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Shape {
    fn logprobs(self) -> bool {
        match self {
            Self::Chat { logprobs } | Self::Completion { logprobs } => logprobs,
        }
    }

    fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat { .. } => "chatcmpl-",
            Self::Completion { .. } => "cmpl-",
        }
    }
}

impl Writer {
    pub(crate) fn new(
        shape: Shape,
        request_id: &str,
        include_usage: bool,
        resident: Arc<Resident>,
    ) -> Self {
        let id = format!("{}{request_id}", shape.id_prefix());
        Self { shape, id, created: unix_seconds(), include_usage, resident, offset: 0, calls: 0 }
    }

    /// Whether each token's log-probability is wanted.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.shape.logprobs()
    }

    /// The stream goes on with another generation.
    /// What the stream runs on.
    pub(crate) fn resident(&self) -> &Arc<Resident> {
        &self.resident
    }

    pub(crate) fn moved(&mut self, resident: Arc<Resident>) {
        self.resident = resident;
    }

    /// The first part of a chat, which says who speaks.
    pub(crate) fn opening(&self) -> Option<Value> {
        match self.shape {
            Shape::Chat { .. } => {
                Some(self.part(json!({ "role": "assistant", "content": "" }), None, None))
            }
            Shape::Completion { .. } => None,
        }
    }

    /// A part for a token, where there is something to say.
    ///
    /// * `text`: what is to be shown of it
    pub(crate) fn token(&mut self, event: &GenerateEvent, text: &str) -> Option<Value> {
        let logprobs = self.shape.logprobs().then(|| self.logprobs(event));
        if text.is_empty() && logprobs.is_none() {
            return None;
        }
        Some(self.part(self.delta(text), logprobs, None))
    }

    /// A part for text that was held back, where there is some.
    pub(crate) fn text(&self, text: &str) -> Option<Value> {
        (!text.is_empty()).then(|| self.part(self.delta(text), None, None))
    }

    /// A part for the call of a tool.
    pub(crate) fn call(&mut self, call: &ToolCall) -> Value {
        let mut written = written_call(call);
        written["index"] = json!(self.calls);
        self.calls += 1;
        self.part(json!({ "tool_calls": [written] }), None, None)
    }

    /// The last part of a choice.
    pub(crate) fn closing(&self, summary: &StreamSummary) -> Value {
        let delta = match self.shape {
            Shape::Chat { .. } => json!({}),
            Shape::Completion { .. } => json!(""),
        };
        let mut part = self.part(delta, None, Some(finish_name(summary.finish, self.calls)));
        part["cart"] = self.extension(summary);
        part
    }

    /// The part after the last, if the client asked how many tokens there were.
    pub(crate) fn usage_part(&self, summary: &StreamSummary) -> Option<Value> {
        self.include_usage.then(|| {
            let mut part = self.head(true);
            part.insert("choices".to_owned(), json!([]));
            part.insert("usage".to_owned(), usage(summary));
            Value::Object(part)
        })
    }

    /// The whole answer.
    pub(crate) fn whole(
        &self,
        said: &Said,
        logprobs: Vec<Value>,
        summary: &StreamSummary,
    ) -> Value {
        let wanted = self.shape.logprobs();
        let finish = finish_name(summary.finish, said.calls.len());
        let choice = match self.shape {
            Shape::Chat { .. } => json!({
                "index": 0,
                "message": message(said),
                "logprobs": wanted.then(|| join_chat(logprobs)),
                "finish_reason": finish,
            }),
            Shape::Completion { .. } => json!({
                "index": 0,
                "text": said.content,
                "logprobs": wanted.then(|| join_completion(&logprobs)),
                "finish_reason": finish,
            }),
        };
        let mut answer = self.head(false);
        answer.insert("choices".to_owned(), json!([choice]));
        answer.insert("usage".to_owned(), usage(summary));
        answer.insert("cart".to_owned(), self.extension(summary));
        Value::Object(answer)
    }

    /// Log-probabilities of one token, in the shape of the endpoint.
    pub(crate) fn logprobs(&mut self, event: &GenerateEvent) -> Value {
        let value = match self.shape {
            Shape::Chat { .. } => {
                let mut entry = self.entry(event.token, event.logprob);
                let top: Vec<Value> = event
                    .top_logprobs
                    .iter()
                    .map(|best| self.entry(best.token, best.logprob))
                    .collect();
                entry["top_logprobs"] = Value::Array(top);
                json!({ "content": [entry] })
            }
            Shape::Completion { .. } => json!({
                "tokens": [self.resident.token_text(event.token)],
                "token_logprobs": [event.logprob],
                "top_logprobs": [self.top_by_text(&event.top_logprobs)],
                "text_offset": [self.offset],
            }),
        };
        self.offset += event.text_delta.chars().count();
        value
    }

    fn part(&self, delta: Value, logprobs: Option<Value>, finish: Option<&'static str>) -> Value {
        let key = match self.shape {
            Shape::Chat { .. } => "delta",
            Shape::Completion { .. } => "text",
        };
        let mut part = self.head(true);
        part.insert(
            "choices".to_owned(),
            json!([{
                "index": 0,
                key: delta,
                "logprobs": logprobs,
                "finish_reason": finish,
            }]),
        );
        if self.include_usage {
            part.insert("usage".to_owned(), Value::Null);
        }
        Value::Object(part)
    }

    fn delta(&self, text: &str) -> Value {
        match self.shape {
            Shape::Chat { .. } => json!({ "content": text }),
            Shape::Completion { .. } => json!(text),
        }
    }

    fn head(&self, part: bool) -> Map<String, Value> {
        let object = match (self.shape, part) {
            (Shape::Chat { .. }, true) => "chat.completion.chunk",
            (Shape::Chat { .. }, false) => "chat.completion",
            (Shape::Completion { .. }, _) => "text_completion",
        };
        let head = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.resident.name(),
            "system_fingerprint": self.resident.manifest().short(),
        });
        match head {
            Value::Object(fields) => fields,
            _ => unreachable!("json! of braces is an object"),
        }
    }

    /// What OpenAI's shape has no place for: generation, and what memory did.
    fn extension(&self, summary: &StreamSummary) -> Value {
        json!({
            "generation": self.resident.generation(),
            "manifest": self.resident.manifest(),
            "moved": summary.moved,
            "memory": summary.memory,
        })
    }

    fn entry(&self, token: u32, logprob: f64) -> Value {
        let text = self.resident.token_text(token);
        // A token that is part of a character has no text of its own, and its bytes are not told.
        let bytes = (!text.contains('\u{fffd}')).then(|| text.as_bytes().to_vec());
        json!({ "token": text, "logprob": logprob, "bytes": bytes })
    }

    fn top_by_text(&self, top: &[TokenLogprob]) -> Value {
        let mut by_text = Map::new();
        for best in top {
            // Two tokens can read the same; the better one stands.
            by_text.entry(self.resident.token_text(best.token)).or_insert(json!(best.logprob));
        }
        Value::Object(by_text)
    }
}

fn usage(summary: &StreamSummary) -> Value {
    json!({
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
    })
}

/// An assistant's message, whole.
fn message(said: &Said) -> Value {
    // Beside calls there need not be anything for people.
    let content = (said.calls.is_empty() || !said.content.is_empty()).then_some(&said.content);
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !said.calls.is_empty() {
        message["tool_calls"] = said.calls.iter().map(written_call).collect();
    }
    message
}

fn written_call(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments.to_string() },
    })
}

/// OpenAI says `stop` for a stop string and for the end of the text alike.
///
/// * `calls`: of tools, in the answer
fn finish_name(finish: FinishReason, calls: usize) -> &'static str {
    match finish {
        FinishReason::Stop | FinishReason::Eos if calls > 0 => "tool_calls",
        FinishReason::Stop | FinishReason::Eos => "stop",
        FinishReason::Length => "length",
    }
}

fn join_chat(parts: Vec<Value>) -> Value {
    let content: Vec<Value> = parts.into_iter().map(|mut part| part["content"][0].take()).collect();
    json!({ "content": content, "refusal": null })
}

fn join_completion(parts: &[Value]) -> Value {
    let column = |name: &str| -> Vec<Value> { parts.iter().map(|p| p[name][0].clone()).collect() };
    json!({
        "tokens": column("tokens"),
        "token_logprobs": column("token_logprobs"),
        "top_logprobs": column("top_logprobs"),
        "text_offset": column("text_offset"),
    })
}
