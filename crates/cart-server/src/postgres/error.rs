//! Why a database can't be used.

use cart_engine::long_term::LongTermError;
use cart_format::SpaceId;
use cart_memory::RestoreError;
use postgres::error::SqlState;
use thiserror::Error;

use super::Address;

/// Why a database can't be used.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// It can't be reached, or refuses a statement.
    #[error("{}", said(.0))]
    Sql(#[from] postgres::Error),
    /// It has memories, but none of this space.
    #[error(
        "it has long-term memory of {}, and none of space {}; its vectors were made by other models: name another database, or begin a memory of this space beside them (--ltm-begin)",
        named(found),
        expected.short()
    )]
    OtherSpaces {
        /// The space that was asked for.
        expected: SpaceId,
        /// The spaces that it has.
        found: Vec<String>,
    },
    /// It has no memory of this space to be read.
    #[error("it has no long-term memory of space {}; it has {}", expected.short(), named(found))]
    NoSpace {
        /// The space that was asked for.
        expected: SpaceId,
        /// The spaces that it has.
        found: Vec<String>,
    },
    /// The tables are of a later layout.
    #[error("its tables are of layout {found}; this version reads up to {known}: use a newer cart")]
    Layout {
        /// The layout found.
        found: i32,
        /// The latest that is known.
        known: i32,
    },
    /// The memory was deleted.
    #[error("its long-term memory of this space was deleted while it was in use")]
    Gone,
    /// What is there makes no memory.
    #[error("what it has makes no memory: {0}")]
    Restore(#[from] RestoreError),
    /// A settlement that can't be read.
    #[error("the record of an offer can't be read: {0}")]
    Settlement(#[from] serde_json::Error),
}

impl DatabaseError {
    pub(super) fn at(self, address: &Address) -> LongTermError {
        let place = address.to_string();
        let away = self.is_away();
        let source = Box::new(self);
        if away {
            LongTermError::Away { place, source }
        } else {
            LongTermError::Unusable { place, source }
        }
    }

    /// Whether it may be otherwise the next time.
    fn is_away(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        // No state: the connection itself. The classes are connection, transaction, resources, operator.
        let class =
            |state: &SqlState| ["08", "40", "25", "53", "55", "57"].contains(&&state.code()[..2]);
        error.code().is_none_or(class)
    }
}

/// The library says only `db error`; what the database said is its source.
fn said(error: &postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn named(spaces: &[String]) -> String {
    let short = |space: &String| space.chars().take(12).collect::<String>();
    match spaces {
        [] => "none".to_owned(),
        [one] => format!("space {}", short(one)),
        several => format!("spaces {}", several.iter().map(short).collect::<Vec<_>>().join(", ")),
    }
}
