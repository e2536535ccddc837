//! The endpoints that OpenAI's clients know: what they send and what they are answered.

mod answer;
mod chunk;
mod parameters;
mod request;

pub(crate) use answer::answer;
pub(crate) use chunk::unix_seconds;
pub(crate) use parameters::Defaults;
pub(crate) use request::{ChatRequest, CompletionRequest, IntoAsked};
