//! What a request hears from the token loop.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::resident::Resident;
use crate::sync::mpsc;
use crate::{FinishReason, GenerateEvent, MemoryUse, StartError, StepError};

/// Where the events of a stream go. The token loop calls it between two steps, so it must not wait.
pub trait EventSink: Send {
    /// Takes an event.
    fn deliver(&mut self, event: StreamEvent);

    /// Whether nobody listens any more. The stream is dropped then.
    fn is_closed(&self) -> bool;
}

/// A channel's sender notices only at an event that nobody listens; then it is dropped.
#[derive(Debug)]
pub struct ChannelSink {
    sender: Option<mpsc::Sender<StreamEvent>>,
}

impl ChannelSink {
    /// A sink, and where its events arrive.
    pub fn new() -> (Self, mpsc::Receiver<StreamEvent>) {
        let (sender, receiver) = mpsc::channel();
        (Self { sender: Some(sender) }, receiver)
    }
}

impl EventSink for ChannelSink {
    fn deliver(&mut self, event: StreamEvent) {
        self.sender = self.sender.take().filter(|sender| sender.send(event).is_ok());
    }

    fn is_closed(&self) -> bool {
        self.sender.is_none()
    }
}

/// What happened to a stream. The first is `Started` or `Failed`, the last `Done` or `Failed`.
#[derive(Debug)]
pub enum StreamEvent {
    /// The stream has a place, and its prompt was accepted.
    Started {
        /// The generation that it runs on.
        resident: Arc<Resident>,
        /// Tokens of its prompt.
        prompt_tokens: usize,
    },
    /// A token was generated.
    Token(GenerateEvent),
    /// A swap moved the stream to another generation; its text goes on.
    Moved {
        /// The generation that it runs on now.
        resident: Arc<Resident>,
    },
    /// It ended.
    Done(StreamSummary),
    /// It can't go on.
    Failed(StreamError),
}

/// A stream that ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamSummary {
    /// Tokens of the prompt, as the first generation counted them.
    pub prompt_tokens: usize,
    /// Tokens generated, on all generations together.
    pub completion_tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// How often a swap moved it.
    pub moved: usize,
    /// What memory did on the last generation; none where it took no part.
    pub memory: Option<MemoryUse>,
}

/// Why a stream failed.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The request can't be started.
    #[error(transparent)]
    Start(StartError),
    /// A step failed.
    #[error("the generation failed: {0}")]
    Step(StepError),
    /// Other streams had every place for longer than a request may wait.
    #[error("no place was free within {waited:?}; try again in a moment")]
    NoPlace {
        /// How long it waited.
        waited: Duration,
    },
    /// A swap was told to end the streams that ran.
    #[error("the cartridge was changed to {name}, and what ran was ended with that; ask again")]
    Aborted {
        /// What runs now.
        name: String,
    },
    /// The runtime is being shut down, and the stream took longer than it may.
    #[error("the server is shutting down; this stream was cut off")]
    ShuttingDown,
}
