//! The endpoints that OpenAI's clients know: what they send and what they are answered.

mod answer;
mod chunk;
mod embeddings;
mod format;
mod keeping;
mod parameters;
mod request;
mod responses;
mod tools;

pub(crate) use answer::answer;
pub(crate) use chunk::unix_seconds;
pub(crate) use embeddings::{EmbeddingRequest, embed};
pub(crate) use parameters::Defaults;
pub(crate) use request::{ChatRequest, CompletionRequest, IntoAsked};
pub(crate) use responses::{Responses, create, delete, retrieve};

/// The structs that bodies are read into, for the test that holds the OpenAPI document to them.
#[cfg(test)]
pub(crate) mod read {
    pub(crate) use super::parameters::{MemoryParameter, Parameters};
    pub(crate) use super::request::{ChatMessage, ChatParameters, CompletionParameters};
    pub(crate) use super::responses::ResponseRequest;
    pub(crate) use super::tools::CallParameter;
    pub(crate) use super::{EmbeddingRequest, format::ResponseFormat};
}
