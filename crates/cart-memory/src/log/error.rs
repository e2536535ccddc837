//! Why a log is refused.

use cart_format::MemoryId;
use cart_format::json::JsonError;
use thiserror::Error;

use crate::config::ConfigError;
use crate::normalization::NormalizationError;
use crate::observation::MemoryError;

/// Why a log can't be opened or replayed. Records are counted from 0, the head being the first.
#[derive(Debug, Error)]
pub enum LogError {
    /// It begins with something else.
    #[error("this is no memory log; one begins with `CARTMLG1`")]
    Magic,
    /// Cut before the end of the first record.
    #[error(
        "the log is cut at byte {bytes}, within its first record; nothing of it can be replayed"
    )]
    NoHead {
        /// Bytes there are.
        bytes: usize,
    },
    /// A byte is not what was written.
    #[error("record {record} at byte {offset} was changed after it was written; {}", self.rest())]
    Edited {
        /// The record.
        record: u64,
        /// Where it begins.
        offset: usize,
    },
    /// A record that no reader would take.
    #[error("the record has {found} {what}; allowed: {most}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much is allowed.
        most: u32,
    },
    /// A number that JSON can't hold.
    #[error("the record can't be written: {0}")]
    Number(#[source] JsonError),
    /// A document that is not canonical JSON.
    #[error("record {record} can't be read: {source}")]
    Document {
        /// The record.
        record: u64,
        /// What the reader said.
        #[source]
        source: JsonError,
    },
    /// A document with other fields.
    #[error("record {record} can't be read: {source}; was it written by a later version?")]
    Fields {
        /// The record.
        record: u64,
        /// What the reader said, with the field's name.
        #[source]
        source: serde_json::Error,
    },
    /// Another number of floats than the input needs.
    #[error("record {record} has {} floats, its input needs {}", problem.0, problem.1)]
    Floats {
        /// The record, counted without the head.
        record: u64,
        /// Floats found and needed.
        problem: (usize, usize),
    },
    /// The head says neither or both of how the log begins.
    #[error("the log's head says neither settings nor the memory that it goes on from, or both")]
    Head,
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Centre and scale can't be used.
    #[error(transparent)]
    Normalization(#[from] NormalizationError),
    /// The log goes on from another memory.
    #[error(
        "the log goes on from memory {}, {}; give that one",
        expected.short(),
        found.map_or("but none was given".to_owned(), |found| format!("not {}", found.short()))
    )]
    Base {
        /// The memory given.
        found: Option<MemoryId>,
        /// The memory that it goes on from.
        expected: MemoryId,
    },
    /// The memory refuses an input.
    #[error("record {record} ({op}) is refused: {source}")]
    Refused {
        /// The record, counted without the head.
        record: u64,
        /// Its operation.
        op: &'static str,
        /// Why.
        #[source]
        source: MemoryError,
    },
    /// This program decides otherwise than the one that wrote the log.
    #[error(
        "at record {record} ({op}) the memory decides otherwise than the log says; it was written under other rules"
    )]
    OtherDecisions {
        /// The record, counted without the head.
        record: u64,
        /// Its operation.
        op: &'static str,
    },
}

impl LogError {
    /// How many operations stand before the first record that was changed, where one was.
    pub fn operations_before(&self) -> Option<u64> {
        match self {
            Self::Edited { record, .. } => record.checked_sub(1),
            _ => None,
        }
    }

    fn rest(&self) -> String {
        match self.operations_before() {
            Some(before) => {
                format!("the {before} operations before it can be replayed, or take another copy")
            }
            None => "nothing of it can be replayed; take another copy".to_owned(),
        }
    }
}
