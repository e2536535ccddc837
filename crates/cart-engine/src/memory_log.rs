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

/// What becomes of a memory whose log can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// It is told nothing more: somebody relies on the log.
    Required,
    /// It goes on without: the log is there for whoever looks for it later.
    WhilePossible,
}

/// Where the records of a memory go.
pub(crate) struct MemoryLog {
    /// None once a record is missing: what came after it could not be replayed.
    open: Option<Open>,
    keeping: Keeping,
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
        keeping: Keeping,
    ) -> Result<Self, MemoryLogError> {
        let (writer, head) = if is_new {
            LogWriter::begin(memory.space(), memory.normalization(), memory.config())?
        } else {
            LogWriter::continuing(memory)?
        };
        sink.write_all(&head).and_then(|()| sink.flush()).map_err(MemoryLogError::Write)?;
        Ok(Self { open: Some(Open { writer, sink }), keeping })
    }

    /// Ends the log: the memory is about to change in a way that is no record.
    pub(crate) fn end(&mut self) {
        self.open = None;
    }

    /// Does one thing to a memory and writes it down. A record that can't be written ends the log, which is an
    /// error where it is required.
    pub(crate) fn apply(
        &mut self,
        memory: &mut UnifiedMemory,
        input: &Input,
    ) -> Result<Outcome, MemoryLogError> {
        let Some(mut open) = self.open.take() else {
            return match self.keeping {
                Keeping::Required => Err(MemoryLogError::Ended),
                Keeping::WhilePossible => Ok(memory.apply(input)?),
            };
        };
        let outcome = match memory.apply(input) {
            Ok(outcome) => outcome,
            Err(refused) => {
                self.open = Some(open);
                return Err(refused.into());
            }
        };
        match open.write(input, &outcome) {
            Ok(()) => self.open = Some(open),
            Err(error) if self.keeping == Keeping::Required => return Err(error),
            Err(_) => {}
        }
        Ok(outcome)
    }
}

impl Open {
    fn write(&mut self, input: &Input, outcome: &Outcome) -> Result<(), MemoryLogError> {
        let record = self.writer.record(input, outcome)?;
        let written = self.sink.write_all(&record).and_then(|()| self.sink.flush());
        written.map_err(MemoryLogError::Write)
    }
}

#[cfg(test)]
mod tests {
    use cart_format::SpaceId;
    use cart_memory::{MemoryConfig, Normalization, Observation};

    use super::*;

    /// A disk that takes so many writes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn observed(memory: &UnifiedMemory) -> Input {
        let at = memory.now() + 1;
        let key = vec![1.0, at as f32];
        let seen = Observation { key, text: format!("text {at}"), ..Observation::default() };
        Input::Observe { at, seen }
    }

    fn told(keeping: Keeping) -> (UnifiedMemory, MemoryLog) {
        let normalization = Normalization::identity(2).unwrap();
        let config = MemoryConfig::default();
        let memory = UnifiedMemory::new(SpaceId::of(b"test"), normalization, config).unwrap();
        // Its head and one record.
        let log = MemoryLog::begin(&memory, true, Box::new(Disk(2)), keeping).unwrap();
        (memory, log)
    }

    #[test]
    fn a_full_disk_ends_a_log_that_is_required_and_not_a_memory_that_is_not() {
        let (mut memory, mut log) = told(Keeping::Required);
        for expected in [true, false, false] {
            let input = observed(&memory);
            assert_eq!(log.apply(&mut memory, &input).is_ok(), expected);
        }
        let (mut memory, mut log) = told(Keeping::WhilePossible);
        for _ in 0..4 {
            let input = observed(&memory);
            log.apply(&mut memory, &input).unwrap();
        }
        assert_eq!(memory.now(), 4);
        log.end();
        let input = observed(&memory);
        log.apply(&mut memory, &input).unwrap();
    }
}
