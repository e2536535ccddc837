//! Why a trace is refused: which line, which field, what was found, what is allowed.

use cart_format::json::JsonError;
use thiserror::Error;

use crate::config::ConfigError;
use crate::fusion::FusionError;
use crate::normalization::NormalizationError;
use crate::observation::MemoryError;
use crate::vector::VectorError;

/// Why a line of a trace is refused.
#[derive(Debug, Error)]
#[error("line {line}{}: {problem}", self.place())]
pub struct TraceError {
    /// The line, counted from 1.
    pub line: usize,
    /// The field, where it is known.
    pub field: Option<String>,
    /// What is wrong.
    #[source]
    pub problem: TraceProblem,
}

impl TraceError {
    fn place(&self) -> String {
        self.field.as_ref().map_or(String::new(), |field| format!(", field `{field}`"))
    }
}

/// What is wrong with a line of a trace.
#[derive(Debug, Error)]
pub enum TraceProblem {
    /// Nothing in it.
    #[error(
        "the trace is empty; its first line is {{\"trace\":\"cart.memory-trace/1\",\"dim\":…}}"
    )]
    Empty,
    /// Not JSON.
    #[error("this is no JSON: {0}")]
    Syntax(#[source] JsonError),
    /// A value that JSON does not have.
    #[error("NaN and infinities are no JSON; every value must be finite")]
    NotANumber,
    /// Not an object.
    #[error("expected an object with an `op`, found {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// Another format.
    #[error("the trace says `{found}`; this program reads `cart.memory-trace/1`")]
    Format {
        /// What it says.
        found: String,
    },
    /// An operation that does not exist.
    #[error(
        "there is no operation `{found}`; allowed: observe, advance, cycle, recall, recall_tokens, associate, address, supersede, set_gate, prompt, attach_goal, counterfactual, novelty, reflect, successors"
    )]
    UnknownOp {
        /// Its name.
        found: String,
    },
    /// A field that the operation does not have.
    #[error("the operation has no such field")]
    UnknownField,
    /// A field that the operation needs.
    #[error("is missing; the operation needs it")]
    Missing,
    /// Another kind of value.
    #[error("is {found}, expected {expected}")]
    Kind {
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A whole number out of its range.
    #[error("is {found}; allowed: whole numbers, {least} to {most}")]
    Whole {
        /// The value.
        found: String,
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
    /// A number that f32 can't hold.
    #[error("is {found:e} at index {index}; allowed: up to 3.4e38 in size")]
    TooLarge {
        /// The value.
        found: f64,
        /// Where; 0 for a single number.
        index: usize,
    },
    /// Centre or scale of another length.
    #[error("has {found} values, expected `dim` = {expected}")]
    Length {
        /// Values found.
        found: usize,
        /// Values expected.
        expected: usize,
    },
    /// Settings that can't be read.
    #[error("the settings can't be read: {message}")]
    Config {
        /// What the reader said, with the setting's name.
        message: String,
    },
    /// A setting out of its range.
    #[error(transparent)]
    Setting(ConfigError),
    /// Centre or scale that can't be used.
    #[error(transparent)]
    Normalization(NormalizationError),
    /// Parts that don't make a key.
    #[error(transparent)]
    Parts(FusionError),
    /// Neither an energy nor what it comes from.
    #[error("is missing; give `energy` (0 to 1), or `surprise` (nats), from which it comes")]
    NoEnergy,
    /// The memory refuses it.
    #[error(transparent)]
    Refused(MemoryError),
}

/// The field that a memory's refusal is about.
pub(super) fn field_of(error: &MemoryError) -> Option<&'static str> {
    use MemoryError as E;
    Some(match error {
        E::Vector(problem) => match what(problem) {
            "token keys" => "token_keys",
            "prompt" | "goal vector" => "vector",
            other => other,
        },
        E::Energy { .. } => "energy",
        E::Gate { .. } => "gate",
        E::TokenKeys { .. } => "token_keys",
        E::SurpriseLength { .. } | E::Surprise { .. } => "surprise",
        E::NoValue => "text",
        E::SpanTooLong { .. } => "token_ids",
        E::TimeRanBack { .. } | E::TickTooLarge { .. } => "at",
        E::NoSuchSlot { .. } | E::SupersedesItself { .. } => "slot",
        E::Cycles { .. } => "cycles",
        E::Perturbation { name, .. } => name,
        E::RuleNotSet { .. } | E::NothingToShuffle { .. } => return None,
    })
}

fn what(problem: &VectorError) -> &'static str {
    match problem {
        VectorError::Dimension { what, .. }
        | VectorError::NotFinite { what, .. }
        | VectorError::Zero { what, .. }
        | VectorError::TooLong { what, .. } => what,
    }
}

/// The field in which a line that is no JSON has `NaN` or `Infinity`, as some writers put it.
pub(super) fn not_a_number(line: &str) -> Option<String> {
    let (mut in_string, mut escaped) = (false, false);
    let (mut start, mut last) = (0, "");
    for (at, letter) in line.char_indices() {
        if in_string {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    in_string = false;
                    if line[at + 1..].trim_start().starts_with(':') {
                        last = &line[start..at];
                    }
                }
                _ => {}
            }
        } else if letter == '"' {
            in_string = true;
            start = at + 1;
        } else if ["NaN", "Infinity", "nan", "inf"].iter().any(|word| line[at..].starts_with(word))
        {
            return Some(last.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_with_a_value_that_json_lacks_is_named() {
        let found = |line| not_a_number(line);
        assert_eq!(found(r#"{"op": "observe", "key": [0.1, NaN]}"#).as_deref(), Some("key"));
        assert_eq!(
            found(r#"{"text": "NaN \" inf", "energy" : -Infinity}"#).as_deref(),
            Some("energy")
        );
        assert_eq!(found(r#"{"text": "NaN", "energy" : 1"#), None);
    }
}
