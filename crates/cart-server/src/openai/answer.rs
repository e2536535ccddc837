//! From the events of a stream to an answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cart_engine::runtime::{GenerationRequest, Resident, StreamEvent, StreamSummary};
use cart_engine::{Said, ToolCall, ToolParser};
use futures_util::Stream;
use serde_json::Value;
use tokio::sync::mpsc;

use super::chunk::Writer;
use super::keeping::Keeps;
use super::request::Asked;
use super::tools::Tools;
use crate::app::AppState;
use crate::error::ApiError;
use crate::events;
use crate::keys::KeyName;
use crate::models::Model;

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
    holder: Option<KeyName>,
    asked: Asked,
) -> Result<Response, ApiError> {
    let (shape, include_usage, stream) = (asked.shape, asked.include_usage, asked.stream);
    let Begun { events, pace, calls, resident, .. } = begin(&state, holder, asked).await?;
    let writer = Writer::new(shape, request_id, include_usage, resident);
    if stream {
        let keep_alive = KeepAlive::default();
        let parts = parts(writer, events, pace, calls);
        return Ok(Sse::new(parts).keep_alive(keep_alive).into_response());
    }
    let value = whole(writer, events, pace, calls).await?;
    Ok(Json(value).into_response())
}

/// A stream that has started.
pub(super) struct Begun {
    pub(super) events: Events,
    pub(super) pace: Pace,
    pub(super) calls: Option<Calls>,
    pub(super) resident: Arc<Resident>,
    pub(super) prompt_tokens: usize,
    /// How it is drawn.
    pub(super) temperature: f64,
    pub(super) top_p: f64,
}

/// Has a request started.
///
/// # Errors
/// The runtime refuses it, or it can't begin.
pub(super) async fn begin(
    state: &AppState,
    holder: Option<KeyName>,
    asked: Asked,
) -> Result<Begun, ApiError> {
    let asked_at = Instant::now();
    let (sink, mut events) = events::channel();
    let model = state.model(asked.model.as_deref()).await?;
    let keeps = Keeps::of(state, &asked.request);
    keeps.open(state, &model).await?;
    let Prepared { request, calls } = prepared(state, &model, asked.request, asked.tools).await?;
    let sampling = &request.options.sampling;
    let (temperature, top_p) = (f64::from(sampling.temperature), f64::from(sampling.top_p));
    model.runtime().submit(request, Box::new(sink))?;
    // From here on its token loop counts the request.
    drop(model);
    let (resident, prompt_tokens) = started(&mut events).await?;
    state.metrics().prompt(prompt_tokens);
    state.metrics().used(holder.as_ref(), 0, prompt_tokens as u64, 0);
    let pace = Pace { state: state.clone(), holder, keeps, last: asked_at, tokens: 0 };
    Ok(Begun { events, pace, calls, resident, prompt_tokens, temperature, top_p })
}

/// A request that is ready for the engine, and what finds calls in its answer.
struct Prepared {
    request: GenerationRequest,
    calls: Option<Calls>,
}

/// Puts in what depends on the cartridge that runs, where that holds up no stream: how its template writes
/// calls, and the automaton of what the answer is held to.
async fn prepared(
    state: &AppState,
    model: &Arc<Model>,
    mut request: GenerationRequest,
    tools: Option<Tools>,
) -> Result<Prepared, ApiError> {
    if tools.is_none() && request.options.constraint.is_none() {
        return Ok(Prepared { request, calls: None });
    }
    let (state, model) = (state.clone(), Arc::clone(model));
    let prepared = tokio::task::spawn_blocking(move || {
        let active = model.runtime().active()?;
        let agent = active.agent();
        let mut calls = None;
        if let Some(tools) = &tools {
            let template = agent.chat_template().ok_or(ApiError::NoTools)?;
            let format = template.tool_format().ok_or(ApiError::NoTools)?;
            tools.apply(format, &mut request.options);
            calls = Some(Calls { state, parser: tools.parser(format), parallel: tools.parallel });
        }
        if let Some(constraint) = &request.options.constraint {
            let param = if tools.is_some() { "tools" } else { "response_format" };
            let made = agent.compile(constraint.grammar().clone());
            let refuse = |source| ApiError::Constraint { param, source };
            request.options.constraint = Some(made.map_err(refuse)?);
        }
        Ok::<_, ApiError>(Prepared { request, calls })
    });
    prepared.await.map_err(|_| ApiError::TaskLost)?
}

/// Finds the calls in an answer.
pub(super) struct Calls {
    state: AppState,
    parser: ToolParser,
    /// Whether several may be in one answer.
    parallel: bool,
}

impl Calls {
    /// The next piece of the answer; the last one where there is none.
    pub(super) fn said(&mut self, piece: Option<&str>) -> Said {
        let mut said = match piece {
            Some(piece) => self.parser.push(piece),
            None => self.parser.finish(),
        };
        if !self.parallel {
            said.calls.truncate(1);
        }
        for call in &mut said.calls {
            // Nine letters and digits: Mistral's templates take no other ids.
            call.id = format!("{:09x}", self.state.draw() & 0xf_ffff_ffff);
        }
        said
    }
}

pub(super) type Events = mpsc::UnboundedReceiver<StreamEvent>;

/// Waits for a place, and for the prompt to be accepted.
async fn started(events: &mut Events) -> Result<(Arc<Resident>, usize), ApiError> {
    match events.recv().await {
        Some(StreamEvent::Started { resident, prompt_tokens }) => Ok((resident, prompt_tokens)),
        Some(StreamEvent::Failed(error)) => Err(error.into()),
        _ => Err(ApiError::TaskLost),
    }
}

async fn whole(
    mut writer: Writer,
    mut events: Events,
    mut pace: Pace,
    calls: Option<Calls>,
) -> Result<Value, ApiError> {
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
                pace.save(writer.resident()).await?;
                let said = match calls {
                    None => Said { content: text, calls: Vec::new() },
                    Some(mut calls) => {
                        let mut said = calls.said(Some(&text));
                        let last = calls.said(None);
                        said.content.push_str(&last.content);
                        said.calls.extend(last.calls);
                        said
                    }
                };
                return Ok(writer.whole(&said, logprobs, &summary));
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
    calls: Option<Calls>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let (ready, ended, opened) = (VecDeque::new(), false, false);
    let begin = Parts { writer, events, pace, calls, ready, ended, opened };
    futures_util::stream::unfold(begin, |mut parts| async move {
        let data = parts.next().await?;
        Some((Ok(Event::default().data(data)), parts))
    })
}

struct Parts {
    writer: Writer,
    events: Events,
    pace: Pace,
    calls: Option<Calls>,
    /// Parts that are written already.
    ready: VecDeque<String>,
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
            if let Some(part) = self.ready.pop_front() {
                return Some(part);
            }
            if self.ended {
                return None;
            }
            match self.events.recv().await {
                Some(StreamEvent::Done(mut summary)) => {
                    committed(&mut summary, self.pace.state.options().commit_wait).await;
                    match self.pace.save(self.writer.resident()).await {
                        Ok(()) => self.finish(&summary),
                        Err(error) => self.fail(&error),
                    }
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
                let said = self.calls.as_mut().map(|calls| calls.said(Some(&event.text_delta)));
                let text = said.as_ref().map_or(&event.text_delta, |said| &said.content);
                let part = self.writer.token(&event, text);
                self.ready.extend(part.map(|part| part.to_string()));
                self.call(said.unwrap_or_default().calls);
            }
            StreamEvent::Moved { resident } => self.writer.moved(resident),
            StreamEvent::Failed(error) => self.fail(&error.into()),
            StreamEvent::Done(_) | StreamEvent::Started { .. } => self.fail(&ApiError::TaskLost),
        }
    }

    fn finish(&mut self, summary: &StreamSummary) {
        self.ended = true;
        if let Some(said) = self.calls.as_mut().map(|calls| calls.said(None)) {
            let rest = self.writer.text(&said.content);
            self.ready.extend(rest.map(|part| part.to_string()));
            self.call(said.calls);
        }
        self.ready.push_back(self.writer.closing(summary).to_string());
        self.ready.extend(self.writer.usage_part(summary).map(|part| part.to_string()));
        self.ready.push_back("[DONE]".to_owned());
    }

    fn call(&mut self, calls: Vec<ToolCall>) {
        for call in calls {
            let part = self.writer.call(&call);
            self.ready.push_back(part.to_string());
        }
    }

    /// An error ends the stream without `[DONE]`, so no client takes it for a whole answer.
    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.ready.push_back(error.body().to_string());
    }
}

/// Waits until what the generation offered to a shared long-term memory is committed, so that the answer can say so;
/// not longer than `most`, and not where the memory can't be reached.
pub(super) async fn committed(summary: &mut StreamSummary, most: Duration) {
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
pub(super) struct Pace {
    state: AppState,
    holder: Option<KeyName>,
    keeps: Keeps,
    last: Instant,
    tokens: u64,
}

impl Drop for Pace {
    /// Also where the client went away.
    fn drop(&mut self) {
        self.state.metrics().used(self.holder.as_ref(), 0, 0, self.tokens);
    }
}

impl Pace {
    /// Saves what was remembered, before the answer is acknowledged.
    pub(super) async fn save(&self, resident: &Arc<Resident>) -> Result<(), ApiError> {
        self.keeps.save(&self.state, resident).await
    }

    pub(super) fn token(&mut self) {
        let now = Instant::now();
        self.state.metrics().token(self.tokens == 0, now - self.last);
        self.tokens += 1;
        self.last = now;
    }
}
