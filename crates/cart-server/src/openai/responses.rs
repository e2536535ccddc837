//! `/v1/responses`: OpenAI's newer endpoint. A request becomes a chat, and its answer a list of items.

mod asked;
mod kept;
mod written;

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use cart_engine::runtime::StreamEvent;
use futures_util::Stream;
use serde_json::{Value, json};

use super::answer::{Begun, begin, committed};
use crate::app::{AppState, Holder};
use crate::body::read_json;
use crate::error::ApiError;

pub(crate) use asked::ResponseRequest;
pub(crate) use kept::Responses;
use written::Written;

/// `POST /v1/responses`.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(holder): Extension<Holder>,
    request: Request,
) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let request: ResponseRequest = read_json(request, state.options().body_limit).await?;
    request.check()?;
    let mut messages = match request.previous() {
        None => Vec::new(),
        Some(id) => {
            let found = state.responses().messages(id, holder.name());
            found.ok_or_else(|| ApiError::NoPrevious { id: id.chars().take(80).collect() })?
        }
    };
    messages.extend(request.messages()?);
    let chat = request.chat(&messages)?;
    let asked = super::IntoAsked::into_asked(chat, state.defaults())?;
    let begun = begin(&state, holder.name().cloned(), asked).await?;
    let id = format!("resp_{:016x}", state.draw());
    let written = Written::new(id, &request, &begun);
    let turn = Turn { state, holder, begun, written, messages, keeps: request.stores() };
    if request.streams() {
        let parts = parts(turn);
        return Ok(Sse::new(parts).keep_alive(KeepAlive::default()).into_response());
    }
    Ok(Json(turn.whole().await?).into_response())
}

/// `GET /v1/responses/ID`.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    Extension(holder): Extension<Holder>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found = state.responses().response(&id, holder.name());
    found.map(Json).ok_or_else(|| ApiError::NoResponse { id: id.chars().take(80).collect() })
}

/// `DELETE /v1/responses/ID`.
pub(crate) async fn delete(
    State(state): State<AppState>,
    Extension(holder): Extension<Holder>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if state.responses().delete(&id, holder.name()) {
        return Ok(Json(json!({ "id": id, "object": "response", "deleted": true })));
    }
    Err(ApiError::NoResponse { id: id.chars().take(80).collect() })
}

/// An answer that is being given.
struct Turn {
    state: AppState,
    holder: Holder,
    begun: Begun,
    written: Written,
    /// The conversation before this answer, without instructions: those are of one request.
    messages: Vec<Value>,
    /// Whether the response can be asked for later.
    keeps: bool,
}

impl Turn {
    async fn whole(mut self) -> Result<Value, ApiError> {
        loop {
            if self.next().await?.is_some() {
                return Ok(self.written.response(&self.begun));
            }
        }
    }

    /// Takes the next event of the stream; gives the events that come of it, and whether it was the last.
    ///
    /// # Errors
    /// The stream failed.
    async fn next(&mut self) -> Result<Option<()>, ApiError> {
        match self.begun.events.recv().await {
            Some(StreamEvent::Token(event)) => {
                self.begun.pace.token();
                match &mut self.begun.calls {
                    None => self.written.text(&event.text_delta),
                    Some(calls) => {
                        let said = calls.said(Some(&event.text_delta));
                        self.written.said(&said);
                    }
                }
                Ok(None)
            }
            Some(StreamEvent::Moved { resident }) => {
                self.begun.resident = resident;
                Ok(None)
            }
            Some(StreamEvent::Done(mut summary)) => {
                committed(&mut summary, self.state.options().commit_wait).await;
                self.begun.pace.save(&self.begun.resident).await?;
                if let Some(calls) = &mut self.begun.calls {
                    let said = calls.said(None);
                    self.written.said(&said);
                }
                self.written.finish(&summary, &self.begun);
                if self.keeps {
                    self.messages.extend(self.written.messages());
                    let response = self.written.response(&self.begun);
                    let messages = std::mem::take(&mut self.messages);
                    self.state.responses().put(response, messages, self.holder.name());
                }
                Ok(Some(()))
            }
            Some(StreamEvent::Failed(error)) => Err(error.into()),
            Some(StreamEvent::Started { .. }) | None => Err(ApiError::TaskLost),
        }
    }
}

/// The answer as OpenAI's events, each with a number. Dropping it closes the channel, which the runtime notices.
fn parts(mut turn: Turn) -> impl Stream<Item = Result<Event, Infallible>> {
    let ready = turn.written.opening(&turn.begun);
    let begin = (turn, ready, false);
    futures_util::stream::unfold(begin, |(mut turn, mut ready, mut ended)| async move {
        let event: Value = loop {
            if let Some(event) = ready.pop_front() {
                break event;
            }
            if ended {
                return None;
            }
            match turn.next().await {
                Ok(last) => ended = last.is_some(),
                Err(error) => {
                    ended = true;
                    turn.written.fail(&error, &turn.begun);
                }
            }
            ready = turn.written.take_events();
        };
        let kind = event["type"].as_str().unwrap_or("message").to_owned();
        let part = Event::default().event(kind).data(event.to_string());
        Some((Ok(part), (turn, ready, ended)))
    })
}

/// Events that wait to be sent.
type Events = VecDeque<Value>;
