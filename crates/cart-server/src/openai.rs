//! The endpoints that OpenAI's clients know: what they send and what they are answered.

mod answer;
mod chunk;
mod embeddings;
mod format;
mod parameters;
mod request;
mod tools;

pub(crate) use answer::answer;
pub(crate) use chunk::unix_seconds;
pub(crate) use embeddings::{EmbeddingRequest, embed};
pub(crate) use parameters::Defaults;
pub(crate) use request::{ChatRequest, CompletionRequest, IntoAsked};
