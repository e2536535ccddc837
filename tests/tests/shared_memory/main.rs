//! Servers that share one long-term memory in a real PostgreSQL: nothing that was acknowledged is lost, whatever is killed when.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod servers;
mod sixteen;
