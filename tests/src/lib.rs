//! What the journeys share: the real `cart` binary with a store of its own, the schemas that every
//! report and document is held against, models to pack, and repeatable damage.
//!
//! Begin with [`Cart`], which runs commands and validates what they print and write. Models come
//! from [`models`], servers from [`Server`], damage from [`damage`].
#![allow(
    clippy::unwrap_used,
    reason = "a failure here is a failed test, and the panic says which line"
)]

mod cart;
mod chance;
pub mod damage;
#[cfg(unix)]
mod database;
mod gguf;
pub mod models;
mod namespace;
mod places;
mod safetensors;
pub mod schemas;
mod server;

pub use cart::{Cart, Done};
pub use chance::Chance;
#[cfg(unix)]
pub use database::Database;
pub use gguf::{GgufTensor, gguf_bytes};
pub use namespace::with_small_file_system;
pub use places::{binary, fixture, fixtures, skip, test_model};
pub use safetensors::{RawTensor, read_safetensors, safetensors_bytes};
pub use server::Server;
