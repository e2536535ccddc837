//! The log of a memory: everything that was done to it, with the decisions that followed (spec 37).
//!
//! Replaying a log rebuilds the memory bit for bit. A record's digest covers the one before, so an
//! edit is noticed unless every digest after it was computed again, which only a digest kept
//! elsewhere shows. A log that was cut opens up to its last whole record.

mod bytes;
mod error;
mod statistics;

use cart_format::{Hasher, MemoryId, SpaceId};
use serde::{Deserialize, Serialize};

use bytes::{Chain, LogReader, Payload};
pub use error::LogError;
pub use statistics::{Curve, LogStatistics, ReadStatistics, WriteStatistics};

use crate::event::MemoryEvent;
use crate::{Input, MemoryConfig, Normalization, Outcome, UnifiedMemory};

/// What a log begins with.
pub const MAGIC: [u8; 8] = *b"CARTMLG1";

/// The first record: where the log begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// Space of the vectors.
    space: SpaceId,
    /// Settings; absent where the log goes on from a memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<MemoryConfig>,
    /// The memory that the log goes on from; absent where it begins with an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<MemoryId>,
}

/// A record's document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// What was done; its vectors are empty here and come as raw f32 beside the document.
    input: Input,
    /// The lengths of these vectors, in order of declaration.
    lengths: Vec<u32>,
    events: Vec<MemoryEvent>,
}

/// One thing that was done, and what was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// What was done.
    pub input: Input,
    /// The decisions that followed, with their energies, cosines and rates.
    pub events: Vec<MemoryEvent>,
}

/// Writes a log, record by record, as bytes that are only ever appended.
#[derive(Clone, Debug)]
pub struct LogWriter {
    chain: Chain,
    records: u64,
}

impl LogWriter {
    /// A log that begins with an empty memory; returns its first bytes.
    ///
    /// # Errors
    /// The settings are larger than what a reader takes.
    pub fn begin(
        space: SpaceId,
        normalization: &Normalization,
        config: &MemoryConfig,
    ) -> Result<(Self, Vec<u8>), LogError> {
        let head = Head { space, config: Some(config.clone()), base: None };
        let floats = [normalization.centre(), normalization.scale()].concat();
        Self::with_head(&head, &floats)
    }

    /// A log that goes on from a memory as it is now; returns its first bytes.
    ///
    /// # Errors
    /// None that occurs: the head is a few hundred bytes.
    pub fn continuing(memory: &UnifiedMemory) -> Result<(Self, Vec<u8>), LogError> {
        let base = Some(memory.snapshot().id());
        Self::with_head(&Head { space: memory.space(), config: None, base }, &[])
    }

    fn with_head(head: &Head, floats: &[f32]) -> Result<(Self, Vec<u8>), LogError> {
        let mut chain = Chain::new();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(chain.record(&Payload::new(head, floats.to_vec())?));
        Ok((Self { chain, records: 0 }, bytes))
    }

    /// The bytes of the next record: to be appended before anything else is done.
    ///
    /// # Errors
    /// The record is larger than what a reader takes. The log is as it was then.
    pub fn record(&mut self, input: &Input, outcome: &Outcome) -> Result<Vec<u8>, LogError> {
        let mut input = input.clone();
        let (lengths, floats) = bytes::take_floats(&mut input);
        let document = Document { input, lengths, events: outcome.events.clone() };
        let payload = Payload::new(&document, floats)?;
        self.records += 1;
        Ok(self.chain.record(&payload))
    }

    /// Digest of everything so far: what names this log.
    pub fn digest(&self) -> [u8; 32] {
        self.chain.digest()
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }
}

/// A log that was opened: whole records only.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryLog {
    space: SpaceId,
    start: Start,
    /// Every whole record, in order.
    pub records: Vec<LogRecord>,
    /// Bytes of the records that were read; where all were, what comes after was cut and can be
    /// dropped before more is appended.
    pub whole_bytes: usize,
    /// Digest of the whole records.
    pub digest: [u8; 32],
}

/// Where a log begins.
#[derive(Clone, Debug, PartialEq)]
enum Start {
    Empty { normalization: Normalization, config: Box<MemoryConfig> },
    Continues { base: MemoryId },
}

impl MemoryLog {
    /// Opens a log. A record that was cut at the end is left out.
    ///
    /// # Errors
    /// It does not begin as a log, its first record is cut, or a byte was changed.
    pub fn open(bytes: &[u8]) -> Result<Self, LogError> {
        Self::open_first(bytes, u64::MAX)
    }

    /// Opens the first operations of a log, whatever comes after them.
    ///
    /// # Errors
    /// As [`MemoryLog::open`], within these operations.
    pub fn open_first(bytes: &[u8], most: u64) -> Result<Self, LogError> {
        let mut reader = LogReader::open(bytes)?;
        let (head, floats): (Head, Vec<f32>) =
            reader.next()?.ok_or(LogError::NoHead { bytes: bytes.len() })?;
        let start = start(&head, floats)?;
        let mut records = Vec::new();
        while (records.len() as u64) < most {
            let Some((document, floats)) = reader.next::<Document>()? else { break };
            let Document { mut input, lengths, events } = document;
            bytes::put_floats(&mut input, &lengths, &floats)
                .map_err(|problem| LogError::Floats { record: records.len() as u64, problem })?;
            records.push(LogRecord { input, events });
        }
        let (whole_bytes, digest) = (reader.offset(), reader.digest());
        Ok(Self { space: head.space, start, records, whole_bytes, digest })
    }

    /// The memory that the log goes on from; none where it begins with an empty one.
    pub fn base(&self) -> Option<MemoryId> {
        match self.start {
            Start::Continues { base } => Some(base),
            Start::Empty { .. } => None,
        }
    }

    /// A log that goes on from what this one's whole records left.
    pub fn resume(&self) -> LogWriter {
        LogWriter { chain: Chain::after(self.digest), records: self.records.len() as u64 }
    }

    /// The memory that the log begins with.
    ///
    /// * `base`: the memory that it goes on from, where it does
    ///
    /// # Errors
    /// Another base is asked for, or none was given.
    pub fn beginning(&self, base: Option<&UnifiedMemory>) -> Result<UnifiedMemory, LogError> {
        match (&self.start, base) {
            (Start::Empty { normalization, config }, _) => {
                Ok(UnifiedMemory::new(self.space, normalization.clone(), (**config).clone())?)
            }
            (Start::Continues { base: expected }, given) => {
                let found = given.map(|memory| memory.snapshot().id());
                match given.filter(|_| found == Some(*expected)) {
                    Some(memory) => Ok(memory.clone()),
                    None => Err(LogError::Base { found, expected: *expected }),
                }
            }
        }
    }
}

fn start(head: &Head, floats: Vec<f32>) -> Result<Start, LogError> {
    match (&head.config, head.base) {
        (Some(config), None) => {
            let half = floats.len() / 2;
            let (centre, scale) = floats.split_at(half);
            let normalization = Normalization::new(centre.to_vec(), scale.to_vec())?;
            Ok(Start::Empty { normalization, config: Box::new(config.clone()) })
        }
        (None, Some(base)) if floats.is_empty() => Ok(Start::Continues { base }),
        _ => Err(LogError::Head),
    }
}

impl UnifiedMemory {
    /// The memory that a log leads to, bit for bit, after every decision in it was taken again.
    ///
    /// * `base`: the memory that the log goes on from; none where it begins with an empty one
    ///
    /// # Errors
    /// The base is another one, the memory refuses an input, or decides otherwise than the log says.
    pub fn replay(log: &MemoryLog, base: Option<&UnifiedMemory>) -> Result<Self, LogError> {
        Self::replay_watched(log, base, |_| {})
    }

    /// As [`UnifiedMemory::replay`].
    ///
    /// * `watch`: sees the memory after each record
    ///
    /// # Errors
    /// As [`UnifiedMemory::replay`].
    pub fn replay_watched(
        log: &MemoryLog,
        base: Option<&UnifiedMemory>,
        mut watch: impl FnMut(&UnifiedMemory),
    ) -> Result<Self, LogError> {
        let mut memory = log.beginning(base)?;
        for (record, LogRecord { input, events }) in log.records.iter().enumerate() {
            let record = record as u64;
            let outcome = memory.apply(input).map_err(|source| LogError::Refused {
                record,
                op: input.name(),
                source,
            })?;
            if outcome.events != *events {
                return Err(LogError::OtherDecisions { record, op: input.name() });
            }
            watch(&memory);
        }
        Ok(memory)
    }
}

/// SHA-256 over parts.
fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}
