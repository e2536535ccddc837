//! One long-term memory for many conversations.
//!
//! Each conversation has a memory of its own over a snapshot of the long-term memory
//! ([`UnifiedMemory::conversation`]). One thread, the owner, takes what the conversations offer and puts it into
//! the long-term memory through a [`LongTerm`]: the agent's own memory, or a database that several
//! servers share. Readers load the latest snapshot and wait for nobody. An offer is settled when it is
//! committed, not before; until then it is in the owner's journal.

mod conversations;
mod embedded;
mod journal;
mod link;
mod owner;
mod sharing;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cart_format::{ManifestId, SpaceId};
use cart_memory::{Offered, Settlement, SlotId, UnifiedMemory};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::CalibrationError;
pub(crate) use conversations::Conversations;
pub(crate) use embedded::Embedded;
pub use journal::JournalError;
pub(crate) use link::{Link, Ticket};
pub use link::{LongTermState, LongTermUse, OfferUse};
pub(crate) use owner::OwnerOptions;

/// Where a long-term memory lives that many share.
pub trait LongTerm: Send {
    /// Where it is, for people; without secrets.
    fn place(&self) -> String;

    /// The memory as it was when it was last looked at or changed here.
    fn memory(&self) -> Option<Arc<UnifiedMemory>>;

    /// Takes in what others have changed.
    ///
    /// # Errors
    /// It can't be reached, or what is there can't be read.
    fn refresh(&mut self) -> Result<(), LongTermError>;

    /// Puts offers into it, in order, each once however often it is offered: all of them are there when
    /// this returns, or after an error none, as far as anyone can know.
    ///
    /// Returns what became of each.
    ///
    /// # Errors
    /// It can't be reached, or what is there can't be read.
    fn consolidate(&mut self, offers: &[PendingOffer]) -> Result<Vec<Settlement>, LongTermError>;

    /// Notes that entries were read, so that they are not pruned.
    ///
    /// # Errors
    /// It can't be reached.
    fn note_reads(&mut self, entries: &[SlotId]) -> Result<(), LongTermError>;
}

/// What gives the long-term memory of a model, if others hold it.
pub trait LongTermSource: fmt::Debug + Send + Sync {
    /// The long-term memory of the seed's space. Where there is none it begins with the entries of the seed.
    ///
    /// # Errors
    /// It can't be reached or made, or what is there can't be read.
    fn open(&self, seed: &UnifiedMemory) -> Result<Box<dyn LongTerm>, LongTermError>;

    /// The folder in which offers wait that could not be committed.
    fn journal(&self) -> Option<PathBuf>;

    /// A number that nobody else draws, here or elsewhere, to tell offers apart; each time another one.
    fn draw(&self) -> u64;
}

/// Where conversations are that were saved.
pub trait SavedConversations: fmt::Debug + Send + Sync {
    /// The memory of a conversation of this space; none where none of this name was saved.
    ///
    /// # Errors
    /// There is one, and it can't be read.
    fn conversation(
        &self,
        name: &str,
        space: SpaceId,
    ) -> Result<Option<UnifiedMemory>, Box<dyn Error + Send + Sync>>;

    /// What a cartridge remembered outside of conversations when that was saved last.
    ///
    /// # Errors
    /// There is something, and it can't be read.
    fn own(
        &self,
        cartridge: ManifestId,
    ) -> Result<Option<UnifiedMemory>, Box<dyn Error + Send + Sync>>;
}

/// Why a long-term memory can't be used.
#[derive(Debug, Error)]
pub enum LongTermError {
    /// Nobody answers, or the connection broke. It may come back.
    #[error("the long-term memory at {place} can't be reached: {source}")]
    Away {
        /// Where it is.
        place: String,
        /// What was said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answers, and what is there can't be used.
    #[error("the long-term memory at {place} can't be used: {source}")]
    Unusable {
        /// Where it is.
        place: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A conversation was saved, and what was saved can't be used.
    #[error("what was saved of {what} can't be taken up: {source}; delete it, or repair the store")]
    Saved {
        /// Of what.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A new memory can't be begun.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The system gives no thread.
    #[error("the thread of the long-term memory can't be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Tells an offer from every other, also those of other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId([u8; 16]);

impl OfferId {
    /// * `process`: a number that only this process has; `count`: counted in it
    pub fn new(process: u64, count: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&process.to_be_bytes());
        bytes[8..].copy_from_slice(&count.to_be_bytes());
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for OfferId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OfferId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("an offer's id is 32 hexadecimal digits");
        let number = u128::from_str_radix(&text, 16).map_err(|_| wrong())?;
        if text.len() == 32 { Ok(Self(number.to_be_bytes())) } else { Err(wrong()) }
    }
}

/// An offer that waits for its commit.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingOffer {
    /// Its id.
    pub id: OfferId,
    /// What is offered.
    pub offered: Offered,
}
