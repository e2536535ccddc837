//! HTTP over the engine: OpenAI-compatible endpoints with streaming, and the state, swap and
//! metrics of the running cartridge.
//!
//! Begin with [`AppState`] (a runtime, or several as [`Models`], the store that swaps come from, and [`ServerOptions`]),
//! [`serve`], which runs until its shutdown future ends, and [`shutdown_signal`]. Every refusal is
//! an [`ApiError`] in the shape that OpenAI's clients read.

mod admin;
mod app;
mod body;
mod error;
mod events;
mod keys;
mod live;
mod log;
mod metrics;
mod models;
mod openai;
mod openapi;
mod origin;
mod page;
pub mod postgres;
mod request_id;
mod serve;
mod sessions;
mod tls;
mod view;

pub use admin::{Admin, AdminToken, AdminTokenError};
pub use app::{AppState, ServerOptions, router};
pub use error::ApiError;
pub use keys::{ApiKeyError, ApiKeys, KeySource};
pub use log::{RequestLog, WatchLog};
pub use models::{ModelRules, Models};
pub use serve::{ServeError, Served, serve, shutdown_signal};
pub use sessions::{SessionError, SessionLimits, Sessions};
pub use tls::{TlsError, TlsIdentity};
