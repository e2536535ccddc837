//! Whom the experiment is about, and what the memory made of what they said.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use cart_engine::Agent;
use cart_memory::log::MemoryLog;
use cart_memory::{Input, MemoryEvent};

use super::report::{Sentence, Turn};
use crate::failure::Failure;

/// Somebody with a name, and then with another one.
pub(super) struct Person {
    pub(super) first: String,
    pub(super) second: String,
    /// With a memory of its own.
    pub(super) agent: Agent,
    log: Log,
    /// Records that were looked at.
    seen: usize,
}

/// A log of a memory, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Person {
    pub(super) fn new(agent: &Agent, first: String, second: String) -> Result<Self, Failure> {
        let (agent, log) = (agent.fork(), Log::default());
        agent.set_memory(None).map_err(Failure::bug)?;
        agent.log_memory(Box::new(log.clone())).map_err(Failure::refused)?;
        Ok(Self { first, second, agent, log, seen: 0 })
    }

    pub(super) fn introduction(&self) -> String {
        format!("Hello! My name is {}. Please remember my name.", self.first)
    }

    pub(super) fn repetition(&self) -> String {
        format!("My name is {}.", self.first)
    }

    pub(super) fn correction(&self) -> String {
        format!("Actually, my name is {}, not {}.", self.second, self.first)
    }

    /// What the memory made of what it was told since this was asked last.
    pub(super) fn turn(&mut self) -> Result<Turn, Failure> {
        let bytes = self.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let log = MemoryLog::open(&bytes).map_err(Failure::bug)?;
        let mut sentences = Vec::new();
        for record in &log.records[self.seen..] {
            let Input::Observe { seen, .. } = &record.input else { continue };
            let weighed = record.events.iter().find_map(|event| match event {
                MemoryEvent::Surprised { z, needed, offered, .. } => Some((*z, *needed, *offered)),
                _ => None,
            });
            let Some((z, needed, written)) = weighed else { continue };
            let count = seen.surprise.len().max(1) as f32;
            let surprise = seen.surprise.iter().sum::<f32>() / count;
            sentences.push(Sentence { text: seen.text.clone(), surprise, z, needed, written });
        }
        self.seen = log.records.len();
        Ok(Turn { sentences })
    }
}
