//! A real server on a loopback port, over a real cartridge, asked by a real client.

#![expect(clippy::unwrap_used, reason = "in a test, helpers too, a panic is the failure")]

mod answers;
mod beginning;
mod client;
mod conversations;
mod given;
mod keeping;
mod memories;
mod refusals;
mod room;
mod shutdown;
mod swaps;
mod watching;
