//! A long-term memory in a real PostgreSQL: what a transaction leaves, whoever else is there and whatever breaks.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, helpers too, a panic is the failure")]

mod cutter;
#[allow(unreachable_pub, dead_code, reason = "the journeys of the workspace use the same")]
#[path = "../../../../tests/src/database.rs"]
mod database;
mod transactions;

/// Says on stderr, past the capture of the test runner, that the calling test looked at nothing.
fn skip(reason: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}
