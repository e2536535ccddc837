//! Every refusal of the server, in the shape that OpenAI's clients read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cart_engine::runtime::{EmbedError, RuntimeError, StreamError, SubmitError};
use cart_engine::swap::SwapError;
use cart_engine::{ConstraintError, StartError, StepError};
use serde_json::{Value, json};
use thiserror::Error;

use crate::sessions::SessionError;

/// Why a request was refused.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8: byte {at} is not part of a character; send JSON in UTF-8")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// The body is not JSON, or not of this endpoint's schema.
    #[error("the body can't be read: {source}; send the JSON object that this endpoint takes")]
    Body {
        /// What the reader said, with line and column.
        source: serde_json::Error,
    },
    /// The body was cut off, or its encoding is wrong.
    #[error("the body did not arrive whole; send it again")]
    Incomplete,
    /// The body is over the limit.
    #[error("the body is over {allowed} bytes; send a smaller one, or raise the server's limit")]
    TooLarge {
        /// The limit.
        allowed: usize,
    },
    /// A parameter that is required.
    #[error("`{param}` is missing; {hint}")]
    Missing {
        /// The parameter.
        param: &'static str,
        /// What to send.
        hint: &'static str,
    },
    /// A page of another site asks a server that asks for no key.
    #[error(
        "a page of {found} sent this, and this server asks for no key: pages of other sites may not ask it; start it with --api-key to let them in with one"
    )]
    ForeignOrigin {
        /// What the browser calls the site, cut.
        found: String,
    },
    /// A server of this machine is called by a name that is not this machine's.
    #[error(
        "this server is for its own machine, and was called as `{found}`; allowed: an address, or localhost; with --admin-token any name"
    )]
    ForeignHost {
        /// The name, cut.
        found: String,
    },
    /// The store's names can't be listed.
    #[error(transparent)]
    Names {
        /// Why.
        source: cart_store::RefError,
    },
    /// A parameter with a value that is not allowed.
    #[error("`{param}` is {found}; allowed: {allowed}")]
    Invalid {
        /// The parameter.
        param: &'static str,
        /// What was sent, cut.
        found: String,
        /// What may be sent.
        allowed: &'static str,
    },
    /// A parameter of OpenAI's that this server does not have.
    #[error("`{param}` is not supported by this server; leave it out")]
    Unsupported {
        /// The parameter.
        param: &'static str,
    },
    /// Vectors of another length than the model's.
    #[error(
        "`dimensions` is {found}; allowed: {allowed}, which this model's embeddings have, or leave it out"
    )]
    Dimensions {
        /// What was asked for.
        found: u64,
        /// What there is.
        allowed: u64,
    },
    /// Texts can't be embedded.
    #[error(transparent)]
    Embed(Box<EmbedError>),
    /// The answer can't be held to what was asked.
    #[error("`{param}` can't be kept: {source}")]
    Constraint {
        /// What asked for it.
        param: &'static str,
        /// Why.
        source: ConstraintError,
    },
    /// The model knows no tools.
    #[error(
        "the chat template of this model knows no tools, or calls them in a way that is not read; leave `tools` out, or set `tool_choice` to `none`"
    )]
    NoTools,
    /// No such path.
    #[error(
        "there is nothing at {method} {path}; see /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings and /cart/state"
    )]
    NoRoute {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The path is there, the method is not.
    #[error("{path} does not take {method}")]
    Method {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// No such model.
    #[error("model `{model}` is not being served; `GET /v1/models` lists what is")]
    NoModel {
        /// The name asked for.
        model: String,
    },
    /// A cartridge that a request names can't be loaded.
    #[error("model `{model}` can't be loaded: {source}")]
    Load {
        /// The name asked for.
        model: String,
        /// Why.
        source: Box<RuntimeError>,
    },
    /// The runtime did not take the request.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The stream ended with an error.
    #[error(transparent)]
    Stream(Box<StreamError>),
    /// A swap was refused.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// A ref that a swap names can't be resolved.
    #[error("`{reference}` can't be resolved: {source}")]
    Reference {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<cart_store::ResolveError>,
    },
    /// Answers are for those who have a key.
    #[error(
        "this server asks for an API key as `Authorization: Bearer KEY`, and {sent} was sent; whoever runs it gives them out"
    )]
    ApiKey {
        /// `none` or `another one`.
        sent: &'static str,
    },
    /// Swaps are for those who have the token.
    #[error(
        "swap and rollback need the server's admin token as `Authorization: Bearer TOKEN`, and {sent} was sent; `cart swap` takes it as --admin-token or $CART_ADMIN_TOKEN"
    )]
    AdminToken {
        /// `none` or `another one`.
        sent: &'static str,
    },
    /// Others reach the server, and it has no token.
    #[error(
        "swap and rollback are off: the server listens beyond this machine and has no admin token; start it with --admin-token, or on a loopback address"
    )]
    AdminOff,
    /// A response that is not kept.
    #[error(
        "no response `{id}` is kept; those with `store` false, of others and of before a restart are not"
    )]
    NoResponse {
        /// The id asked for.
        id: String,
    },
    /// A response to go on from that is not kept.
    #[error("no response `{id}` is kept to go on from; send the conversation in `input`")]
    NoPrevious {
        /// The id asked for.
        id: String,
    },
    /// Sessions are not saved here.
    #[error("this server saves no sessions; start it with --sessions")]
    NoSessions,
    /// A session that is not saved.
    #[error("no session `{name}` is saved; GET /cart/sessions lists those that are")]
    NoSession {
        /// The name asked for.
        name: String,
    },
    /// A session can't be saved, read or deleted.
    #[error("session `{name}`: {source}")]
    Session {
        /// Its name.
        name: String,
        /// Why.
        source: Box<SessionError>,
    },
    /// The server is shutting down.
    #[error("the server is shutting down; try again in a moment, or another instance")]
    ShuttingDown,
    /// A bug: a task of the server ended early.
    #[error("a task of the server ended without an answer; this is a bug")]
    TaskLost,
}

/// Seconds after which a refused client may try again.
const RETRY_AFTER: &str = "1";

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotUtf8 { .. }
            | Self::Body { .. }
            | Self::Incomplete
            | Self::Missing { .. }
            | Self::Invalid { .. }
            | Self::Unsupported { .. }
            | Self::Dimensions { .. }
            | Self::Constraint { .. }
            | Self::NoTools
            | Self::NoPrevious { .. }
            | Self::Submit(SubmitError::Options(_)) => StatusCode::BAD_REQUEST,
            Self::NoRoute { .. }
            | Self::NoModel { .. }
            | Self::NoResponse { .. }
            | Self::NoSessions
            | Self::NoSession { .. }
            | Self::Reference { .. } => StatusCode::NOT_FOUND,
            Self::Session { source, .. } => match **source {
                SessionError::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::ApiKey { .. } | Self::AdminToken { .. } => StatusCode::UNAUTHORIZED,
            Self::AdminOff | Self::ForeignOrigin { .. } | Self::ForeignHost { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Submit(SubmitError::Busy { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Submit(SubmitError::Stopped) | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Embed(error) => embed_status(error),
            Self::Stream(error) => stream_status(error),
            Self::Load { source, .. } if is_room(source) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Load { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Swap(error) => swap_status(error),
            Self::TaskLost | Self::Names { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            StatusCode::INTERNAL_SERVER_ERROR => "server_error",
            StatusCode::CONFLICT => "conflict_error",
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            _ => "invalid_request_error",
        }
    }

    fn param(&self) -> Option<&'static str> {
        match self {
            Self::Missing { param, .. }
            | Self::Invalid { param, .. }
            | Self::Constraint { param, .. }
            | Self::Unsupported { param } => Some(param),
            Self::NoModel { .. } | Self::Load { .. } => Some("model"),
            Self::Dimensions { .. } => Some("dimensions"),
            Self::NoTools => Some("tools"),
            Self::Embed(error) if embed_status(error) == StatusCode::BAD_REQUEST => Some("input"),
            Self::Reference { .. } => Some("ref"),
            Self::Session { .. } => Some("memory.session"),
            Self::NoPrevious { .. } => Some("previous_response_id"),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotUtf8 { .. } => "invalid_utf8",
            Self::Body { .. } => "invalid_json",
            Self::Incomplete => "incomplete_body",
            Self::TooLarge { .. } => "body_too_large",
            Self::Missing { .. } => "missing_parameter",
            Self::ForeignOrigin { .. } => "foreign_origin",
            Self::ForeignHost { .. } => "foreign_host",
            Self::Names { .. } => "store",
            Self::Invalid { .. }
            | Self::Dimensions { .. }
            | Self::Submit(SubmitError::Options(_)) => "invalid_value",
            Self::Unsupported { .. } | Self::NoTools => "unsupported_parameter",
            Self::NoRoute { .. } => "not_found",
            Self::Method { .. } => "method_not_allowed",
            Self::NoModel { .. } => "model_not_found",
            Self::Load { source, .. } if is_room(source) => "no_room",
            Self::Load { .. } => "load_failed",
            Self::Submit(SubmitError::Busy { .. }) => "queue_full",
            Self::Submit(SubmitError::Stopped) | Self::ShuttingDown => "shutting_down",
            Self::Constraint { .. } => "invalid_schema",
            Self::Embed(error) => embed_code(error),
            Self::Stream(error) => stream_code(error),
            Self::NoResponse { .. } => "response_not_found",
            Self::NoPrevious { .. } => "previous_response_not_found",
            Self::NoSessions => "sessions_off",
            Self::NoSession { .. } => "session_not_found",
            Self::Session { source, .. } => match **source {
                SessionError::Full { .. } => "too_many_sessions",
                _ => "session_not_saved",
            },
            Self::Swap(error) => error.code(),
            Self::Reference { .. } => "reference_not_found",
            Self::ApiKey { .. } => "invalid_api_key",
            Self::AdminToken { .. } => "admin_token",
            Self::AdminOff => "admin_off",
            Self::TaskLost => "internal_error",
        }
    }

    /// `{"error": {"message", "type", "param", "code"}}`.
    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.to_string(),
            "type": self.kind(),
            "param": self.param(),
            "code": self.code(),
        }})
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        Self::Stream(Box::new(error))
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Submit(error) => Self::Submit(error),
            EmbedError::ShuttingDown => Self::ShuttingDown,
            error => Self::Embed(Box::new(error)),
        }
    }
}

/// Whether something can't be loaded now, because others have the memory.
fn is_room(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Room { .. })
}

fn embed_status(error: &EmbedError) -> StatusCode {
    match error {
        EmbedError::NoTokenizer
        | EmbedError::Tokenizer { .. }
        | EmbedError::Empty { .. }
        | EmbedError::TokenOutOfRange { .. }
        | EmbedError::TooLong { .. } => StatusCode::BAD_REQUEST,
        EmbedError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        EmbedError::Submit(_)
        | EmbedError::Calibration(_)
        | EmbedError::Forward(_)
        | EmbedError::Vector { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn embed_code(error: &EmbedError) -> &'static str {
    if embed_status(error) == StatusCode::BAD_REQUEST { "invalid_input" } else { "internal_error" }
}

fn stream_status(error: &StreamError) -> StatusCode {
    match error {
        StreamError::Start(_) | StreamError::Step(StepError::Constraint(_)) => {
            StatusCode::BAD_REQUEST
        }
        StreamError::ShuttingDown | StreamError::NoPlace { .. } | StreamError::Aborted { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        StreamError::Step(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn stream_code(error: &StreamError) -> &'static str {
    match error {
        StreamError::Start(StartError::Constraint(_))
        | StreamError::Step(StepError::Constraint(_)) => "invalid_schema",
        StreamError::Start(_) => "invalid_prompt",
        StreamError::ShuttingDown => "shutting_down",
        StreamError::Aborted { .. } => "swapped",
        StreamError::NoPlace { .. } => "no_place_in_time",
        StreamError::Step(_) => "internal_error",
    }
}

fn swap_status(error: &SwapError) -> StatusCode {
    match error {
        SwapError::InProgress | SwapError::NothingToRollBackTo => StatusCode::CONFLICT,
        SwapError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        SwapError::Lost { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        SwapError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if again.contains(&status) {
            let value = HeaderValue::from_static(RETRY_AFTER);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        if status == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}
