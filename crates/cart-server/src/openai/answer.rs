//! From the events of a stream to an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cart_engine::runtime::{Resident, StreamEvent, StreamSummary};
use futures_util::Stream;
use serde_json::Value;
use tokio::sync::mpsc;

use super::chunk::Writer;
use super::request::Asked;
use crate::app::AppState;
use crate::error::ApiError;
use crate::events;

/// How often an answer that waits for a commit looks.
const LOOK: Duration = Duration::from_millis(2);

/// Answers a request. The status is known once the stream has started, so a prompt that the engine
/// refuses gets a status of its own, streamed or not.
///
/// # Errors
/// The runtime refuses the request, or it fails before its first token (or, where the answer is
/// whole, at any time).
pub(crate) async fn answer(
    state: AppState,
    request_id: &str,
    asked: Asked,
) -> Result<Response, ApiError> {
    let asked_at = Instant::now();
    let (sink, mut events) = events::channel();
    state.runtime().submit(asked.request, Box::new(sink))?;
    let (resident, prompt_tokens) = started(&mut events).await?;
    state.metrics().prompt(prompt_tokens);
    let writer = Writer::new(asked.shape, request_id, asked.include_usage, resident);
    let pace = Pace { state, last: asked_at, first: true };
    if asked.stream {
        let keep_alive = KeepAlive::default();
        return Ok(Sse::new(parts(writer, events, pace)).keep_alive(keep_alive).into_response());
    }
    let value = whole(writer, events, pace).await?;
    Ok(Json(value).into_response())
}

type Events = mpsc::UnboundedReceiver<StreamEvent>;

/// Waits for a place, and for the prompt to be accepted.
async fn started(events: &mut Events) -> Result<(Arc<Resident>, usize), ApiError> {
    match events.recv().await {
        Some(StreamEvent::Started { resident, prompt_tokens }) => Ok((resident, prompt_tokens)),
        Some(StreamEvent::Failed(error)) => Err(error.into()),
        _ => Err(ApiError::TaskLost),
    }
}

async fn whole(mut writer: Writer, mut events: Events, mut pace: Pace) -> Result<Value, ApiError> {
    let mut text = String::new();
    let mut logprobs = Vec::new();
    loop {
        match events.recv().await {
            Some(StreamEvent::Token(event)) => {
                pace.token();
                text.push_str(&event.text_delta);
                if writer.wants_logprobs() {
                    logprobs.push(writer.logprobs(&event));
                }
            }
            Some(StreamEvent::Moved { resident }) => writer.moved(resident),
            Some(StreamEvent::Done(mut summary)) => {
                committed(&mut summary, pace.state.options().commit_wait).await;
                return Ok(writer.whole(&text, logprobs, &summary));
            }
            Some(StreamEvent::Failed(error)) => return Err(error.into()),
            Some(StreamEvent::Started { .. }) | None => return Err(ApiError::TaskLost),
        }
    }
}

/// The answer in parts. Dropping it (the client went away) closes the channel, which the runtime
/// notices at the next token.
fn parts(
    writer: Writer,
    events: Events,
    pace: Pace,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let begin = Parts { writer, events, pace, ready: Vec::new(), ended: false, opened: false };
    futures_util::stream::unfold(begin, |mut parts| async move {
        let data = parts.next().await?;
        Some((Ok(Event::default().data(data)), parts))
    })
}

struct Parts {
    writer: Writer,
    events: Events,
    pace: Pace,
    /// Parts that are written already, last first.
    ready: Vec<String>,
    ended: bool,
    opened: bool,
}

impl Parts {
    async fn next(&mut self) -> Option<String> {
        if !self.opened {
            self.opened = true;
            if let Some(opening) = self.writer.opening() {
                return Some(opening.to_string());
            }
        }
        loop {
            if let Some(part) = self.ready.pop() {
                return Some(part);
            }
            if self.ended {
                return None;
            }
            match self.events.recv().await {
                Some(StreamEvent::Done(mut summary)) => {
                    committed(&mut summary, self.pace.state.options().commit_wait).await;
                    self.finish(&summary);
                }
                Some(event) => self.take(event),
                None => self.fail(&ApiError::TaskLost),
            }
        }
    }

    fn take(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Token(event) => {
                self.pace.token();
                let part = self.writer.token(&event);
                self.ready.extend(part.map(|part| part.to_string()));
            }
            StreamEvent::Moved { resident } => self.writer.moved(resident),
            StreamEvent::Failed(error) => self.fail(&error.into()),
            StreamEvent::Done(_) | StreamEvent::Started { .. } => self.fail(&ApiError::TaskLost),
        }
    }

    fn finish(&mut self, summary: &StreamSummary) {
        self.ended = true;
        self.ready.push("[DONE]".to_owned());
        self.ready.extend(self.writer.usage_part(summary).map(|part| part.to_string()));
        self.ready.push(self.writer.closing(summary).to_string());
    }

    /// An error ends the stream without `[DONE]`, so no client takes it for a whole answer.
    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.ready.push(error.body().to_string());
    }
}

/// Waits until what the generation offered to a shared long-term memory is committed, so that the answer can say so;
/// not longer than `most`, and not where the memory can't be reached.
async fn committed(summary: &mut StreamSummary, most: Duration) {
    let used = summary.memory.as_mut().and_then(|memory| memory.long_term.as_mut());
    let Some(used) = used else { return };
    let begun = Instant::now();
    loop {
        used.look();
        if used.pending == 0 || !used.reachable || begun.elapsed() >= most {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Measures the time to the first token and between tokens.
struct Pace {
    state: AppState,
    last: Instant,
    first: bool,
}

impl Pace {
    fn token(&mut self) {
        let now = Instant::now();
        self.state.metrics().token(self.first, now - self.last);
        self.first = false;
        self.last = now;
    }
}
