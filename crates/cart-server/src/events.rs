//! The channel from the engine's thread to a request's task.

use cart_engine::runtime::{EventSink, StreamEvent};
use tokio::sync::mpsc;

/// The engine's end: it never waits. What a slow client leaves unread is bounded by the tokens that
/// it asked for.
pub(crate) struct Sink(mpsc::UnboundedSender<StreamEvent>);

/// A channel for one request.
pub(crate) fn channel() -> (Sink, mpsc::UnboundedReceiver<StreamEvent>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sink(sender), receiver)
}

impl EventSink for Sink {
    fn deliver(&mut self, event: StreamEvent) {
        // A receiver that is gone shows in `is_closed`, and the stream is dropped.
        let _ = self.0.send(event);
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}
