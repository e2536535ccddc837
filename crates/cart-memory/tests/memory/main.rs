//! The memory's rules, each by a case that was worked out by hand, and its laws as properties.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod dreams;
mod frozen;
mod given;
mod joins;
mod late;
mod logs;
mod long_term;
mod neighbours;
mod properties;
mod recall;
mod refusals;
mod rules;
mod shared;
mod short_term;
mod shuffle;
mod snapshot;
mod traces;
mod twin;
