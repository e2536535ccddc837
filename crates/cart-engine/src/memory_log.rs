//! The log of a memory while it is used: every input with the decisions that followed, written down
//! as it happens (spec 37).

use std::fmt;
use std::io::Write;

use cart_memory::log::{LogError, LogWriter};
use cart_memory::{Input, MemoryError, Outcome, UnifiedMemory};
use thiserror::Error;

use crate::calibration::CalibrationError;

/// Why a memory could not be told something, or not be logged.
#[derive(Debug, Error)]
pub enum MemoryLogError {
    /// A new memory could not be begun.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The memory refused. Nothing was written down, and it is as it was.
    #[error("the memory refused: {0}")]
    Memory(#[from] MemoryError),
    /// The record is larger than what a log takes.
    #[error("the memory's log can't go on: {0}")]
    Record(#[from] LogError),
    /// The log can't be written. What it has is whole up to its last record.
    #[error("the memory's log can't be written: {0}")]
    Write(#[source] std::io::Error),
    /// The log ended before: it could not be written, or the memory was changed past it.
    #[error("the memory's log has ended, because it no longer tells all; begin another")]
    Ended,
}

/// Where the records of a memory go.
pub(crate) struct MemoryLog {
    /// None once a record is missing: what came after it could not be replayed.
    open: Option<Open>,
}

struct Open {
    writer: LogWriter,
    sink: Box<dyn Write + Send>,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.open.as_ref().map(|open| open.writer.records());
        f.debug_struct("MemoryLog").field("records", &records).finish_non_exhaustive()
    }
}

impl MemoryLog {
    /// Begins a log and writes its head.
    ///
    /// * `memory`: the memory that it goes on from; an empty one where the agent has none yet
    pub(crate) fn begin(
        memory: &UnifiedMemory,
        is_new: bool,
        mut sink: Box<dyn Write + Send>,
    ) -> Result<Self, MemoryLogError> {
        let (writer, head) = if is_new {
            LogWriter::begin(memory.space(), memory.normalization(), memory.config())?
        } else {
            LogWriter::continuing(memory)?
        };
        sink.write_all(&head).and_then(|()| sink.flush()).map_err(MemoryLogError::Write)?;
        Ok(Self { open: Some(Open { writer, sink }) })
    }

    /// Ends the log: the memory is about to change in a way that is no record.
    pub(crate) fn end(&mut self) {
        self.open = None;
    }

    /// Does one thing to a memory and writes it down. A record that can't be written ends the log.
    pub(crate) fn apply(
        &mut self,
        memory: &mut UnifiedMemory,
        input: &Input,
    ) -> Result<Outcome, MemoryLogError> {
        let Some(mut open) = self.open.take() else { return Err(MemoryLogError::Ended) };
        let outcome = match memory.apply(input) {
            Ok(outcome) => outcome,
            Err(refused) => {
                self.open = Some(open);
                return Err(refused.into());
            }
        };
        let record = open.writer.record(input, &outcome)?;
        let written = open.sink.write_all(&record).and_then(|()| open.sink.flush());
        written.map_err(MemoryLogError::Write)?;
        self.open = Some(open);
        Ok(outcome)
    }
}
