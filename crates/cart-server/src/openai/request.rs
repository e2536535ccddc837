//! What clients ask for, as OpenAI writes it, and what that is to the engine.

use cart_engine::runtime::GenerationRequest;
use cart_engine::{Message, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::chunk::Shape;
use super::parameters::{Defaults, Parameters};
use super::tools::{CallParameter, ToolChoice, Tools};
use crate::error::ApiError;

/// Most alternatives per token in a chat, as OpenAI has it.
const CHAT_TOP_LOGPROBS: u64 = 20;
/// Tokens of a completion that says nothing, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    #[serde(flatten)]
    chat: ChatParameters,
    #[serde(flatten)]
    parameters: Parameters,
}

/// Parameters of a chat alone.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatParameters {
    messages: Option<Vec<ChatMessage>>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<ToolChoice>,
    parallel_tool_calls: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ChatMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<CallParameter>>,
    tool_call_id: Option<String>,
    name: Option<String>,
}

/// Text, or parts of it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// The body of `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionRequest {
    #[serde(flatten)]
    completion: CompletionParameters,
    #[serde(flatten)]
    parameters: Parameters,
}

/// Parameters of a completion alone.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionParameters {
    prompt: Option<PromptParameter>,
    logprobs: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PromptParameter {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// A request as the engine takes it, and how its answer is to look.
pub(crate) struct Asked {
    /// For the engine.
    pub(crate) request: GenerationRequest,
    /// Which cartridge; the first if absent.
    pub(crate) model: Option<String>,
    /// Chat or completion.
    pub(crate) shape: Shape,
    /// What the model may call.
    pub(crate) tools: Option<Tools>,
    /// Whether the answer comes in parts.
    pub(crate) stream: bool,
    /// Whether a last part says how many tokens there were.
    pub(crate) include_usage: bool,
}

/// A body that can be read as a request.
pub(crate) trait IntoAsked {
    /// Checks it, and puts the server's defaults where it says nothing.
    fn into_asked(self, defaults: Defaults) -> Result<Asked, ApiError>;
}

impl IntoAsked for ChatRequest {
    fn into_asked(self, defaults: Defaults) -> Result<Asked, ApiError> {
        let hint = "an array of at least one {\"role\", \"content\"}";
        let Self { chat, parameters } = self;
        let messages = chat.messages.ok_or(ApiError::Missing { param: "messages", hint })?;
        if messages.is_empty() {
            let found = "an empty array".to_owned();
            let allowed = "at least one message";
            return Err(ApiError::Invalid { param: "messages", found, allowed });
        }
        let messages = messages.into_iter().map(ChatMessage::into_message);
        let prompt = Prompt::Chat(messages.collect::<Result<_, _>>()?);
        let logprobs = chat.logprobs.unwrap_or(false);
        let top = chat_top_logprobs(logprobs, chat.top_logprobs)?;
        let choice = chat.tool_choice.as_ref();
        let tools = Tools::offered(chat.tools, choice, chat.parallel_tool_calls)?;
        if tools.is_some() && parameters.grammar()?.is_some() {
            return Err(ApiError::Invalid {
                param: "response_format",
                found: "another one than `text`, with `tools`".to_owned(),
                allowed: "`text`, or set `tool_choice` to `none`",
            });
        }
        Ok(Asked {
            tools,
            model: parameters.model(),
            stream: parameters.stream(),
            include_usage: parameters.include_usage(),
            shape: Shape::Chat { logprobs },
            request: GenerationRequest { prompt, options: parameters.options(top, defaults)? },
        })
    }
}

impl IntoAsked for CompletionRequest {
    fn into_asked(self, mut defaults: Defaults) -> Result<Asked, ApiError> {
        let hint = "a string, or an array of token ids";
        let Self { completion, parameters } = self;
        let prompt = completion.prompt.ok_or(ApiError::Missing { param: "prompt", hint })?.one()?;
        defaults.max_tokens = Some(COMPLETION_TOKENS);
        let top = completion.logprobs.unwrap_or(0);
        let top = usize::try_from(top).unwrap_or(usize::MAX);
        Ok(Asked {
            tools: None,
            model: parameters.model(),
            stream: parameters.stream(),
            include_usage: parameters.include_usage(),
            shape: Shape::Completion { logprobs: completion.logprobs.is_some() },
            request: GenerationRequest { prompt, options: parameters.options(top, defaults)? },
        })
    }
}

fn chat_top_logprobs(logprobs: bool, top: Option<u64>) -> Result<usize, ApiError> {
    let param = "top_logprobs";
    match top {
        None | Some(0) => Ok(0),
        Some(_) if !logprobs => {
            let found = "set, but `logprobs` is not true".to_owned();
            Err(ApiError::Invalid { param, found, allowed: "0, or set `logprobs` too" })
        }
        Some(top) if top > CHAT_TOP_LOGPROBS => {
            Err(ApiError::Invalid { param, found: top.to_string(), allowed: "0 to 20" })
        }
        Some(top) => Ok(top as usize),
    }
}

impl ChatMessage {
    fn into_message(self) -> Result<Message, ApiError> {
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                parts.into_iter().map(Part::into_text).collect::<Result<_, _>>()?
            }
        };
        let calls = self.tool_calls.into_iter().flatten().map(CallParameter::into_call);
        Ok(Message {
            role: self.role,
            content,
            tool_calls: calls.collect::<Result<_, _>>()?,
            tool_call_id: self.tool_call_id,
            name: self.name,
        })
    }
}

impl Part {
    fn into_text(self) -> Result<String, ApiError> {
        match (self.kind.as_str(), self.text) {
            ("text", Some(text)) => Ok(text),
            _ => Err(ApiError::Invalid {
                param: "messages.content",
                found: format!(
                    "a part of type `{}`",
                    self.kind.chars().take(40).collect::<String>()
                ),
                allowed: "parts of type `text` with a `text`",
            }),
        }
    }
}

impl PromptParameter {
    fn one(self) -> Result<Prompt, ApiError> {
        match self {
            Self::Text(text) => Ok(Prompt::Raw(text)),
            Self::Tokens(ids) if !ids.is_empty() => Ok(Prompt::Tokens(ids)),
            Self::Texts(mut texts) if texts.len() == 1 => Ok(Prompt::Raw(texts.remove(0))),
            Self::TokenLists(mut lists) if lists.len() == 1 => Ok(Prompt::Tokens(lists.remove(0))),
            Self::Tokens(_) | Self::Texts(_) | Self::TokenLists(_) => Err(ApiError::Invalid {
                param: "prompt",
                found: "an array of none or several prompts".to_owned(),
                allowed: "one prompt in a request",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(body: Value) -> Result<Asked, ApiError> {
        serde_json::from_value::<ChatRequest>(body).unwrap().into_asked(Defaults::default())
    }

    fn completion(body: Value) -> Result<Asked, ApiError> {
        serde_json::from_value::<CompletionRequest>(body).unwrap().into_asked(Defaults::default())
    }

    #[test]
    fn parts_of_a_message_are_joined_and_null_is_empty() {
        let asked = chat(json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null},
        ]}))
        .unwrap();
        let expected = vec![Message::new("user", "ab"), Message::new("assistant", "")];
        assert_eq!(asked.request.prompt, Prompt::Chat(expected));
    }

    #[test]
    fn sampling_and_stops_reach_the_engine() {
        let asked =
            completion(json!({"prompt": [7, 8], "stop": "x", "temperature": 0.5, "top_k": 3,
            "top_p": 0.75, "min_p": 0.25, "seed": -1, "max_tokens": 9, "repetition_penalty": 1.5,
            "logprobs": 2, "stream": true, "stream_options": {"include_usage": true},
            "memory": {"prefix": true, "knn": {"k": 3}, "write": true}}))
            .unwrap();
        let options = &asked.request.options;
        assert_eq!(asked.request.prompt, Prompt::Tokens(vec![7, 8]));
        assert_eq!(options.stop, ["x"]);
        assert_eq!(options.sampling.temperature, 0.5);
        assert_eq!((options.sampling.top_k, options.sampling.top_p), (3, 0.75));
        assert_eq!((options.sampling.min_p, options.sampling.seed), (0.25, u64::MAX));
        assert_eq!(options.sampling.repetition_penalty, 1.5);
        assert_eq!((options.max_tokens, options.top_logprobs), (Some(9), 2));
        assert!(options.memory.prefix.is_some() && options.memory.write);
        assert_eq!(options.memory.knn.as_ref().unwrap().k, 3);
        assert!(asked.stream && asked.include_usage);
    }

    #[test]
    fn what_the_server_does_not_do_is_refused_by_name() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"prompt": "p"});
            body[name] = value;
            completion(body).map(|_| ()).unwrap_err().body()["error"].clone()
        };
        for (name, value) in [
            ("n", json!(2)),
            ("max_tokens", json!(0)),
            ("best_of", json!(3)),
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-0.5)),
            ("logit_bias", json!({"7": 1})),
            ("tools", json!([{"type": "function"}])),
            ("response_format", json!({"type": "grammar"})),
            ("suffix", json!("s")),
            ("echo", json!(true)),
            ("model", json!("m".repeat(300))),
            ("prompt", json!(["a", "b"])),
            ("prompt", json!([])),
        ] {
            assert_eq!(with(name, value)["param"], json!(name));
        }
        assert_eq!(with("temperature", json!(-1))["code"], json!("invalid_value"));
        assert_eq!(with("stop", json!([""]))["code"], json!("invalid_value"));
    }

    #[test]
    fn top_logprobs_need_logprobs() {
        let message = json!([{"role": "user", "content": "a"}]);
        assert!(chat(json!({"messages": message, "top_logprobs": 3})).is_err());
        assert!(chat(json!({"messages": message, "logprobs": true, "top_logprobs": 21})).is_err());
        let asked =
            chat(json!({"messages": message, "logprobs": true, "top_logprobs": 3})).unwrap();
        assert_eq!(asked.request.options.top_logprobs, 3);
    }
}
