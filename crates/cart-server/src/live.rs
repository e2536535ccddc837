//! The cartridge that runs: its state, its swap, its health.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use cart_engine::runtime::{Resident, RuntimeState};
use cart_engine::swap::{InFlight, Loading, MemoryPolicy, SwapError, SwapReport, SwapRequest};
use cart_memory::StoreKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::AppState;
use crate::body::read_json;
use crate::error::ApiError;
use crate::sessions::{SessionError, Sessions};

/// The body of `POST /cart/swap`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwapBody {
    #[serde(rename = "ref")]
    reference: Option<String>,
    /// Which of several cartridges; the first if absent.
    model: Option<String>,
    #[serde(default)]
    in_flight: InFlight,
    #[serde(default)]
    memory: MemoryPolicy,
    /// Whether what runs is unloaded first.
    #[serde(default)]
    stop_first: bool,
}

/// The body of `POST /cart/rollback`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackBody {
    /// Which of several cartridges; the first if absent.
    model: Option<String>,
    #[serde(default)]
    in_flight: InFlight,
}

/// The query of `GET /cart/state`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StateQuery {
    /// Which of several cartridges; the first if absent.
    model: Option<String>,
}

pub(crate) async fn state(
    State(state): State<AppState>,
    Query(asked): Query<StateQuery>,
) -> Result<Json<RuntimeState>, ApiError> {
    let model = state.models().named(asked.model.as_deref())?;
    Ok(Json((*model.runtime().state()).clone()))
}

pub(crate) async fn health(State(state): State<AppState>) -> Response {
    let now = state.runtime().state();
    let (status, word) = if !state.runtime().is_running() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopped")
    } else if state.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    };
    let body = json!({
        "status": word,
        "model": now.active.name,
        "generation": now.active.generation,
    });
    (status, Json(body)).into_response()
}

pub(crate) async fn swap(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<SwapReport>, ApiError> {
    state.options().admin.check(request.headers())?;
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let body: SwapBody = read_json(request, state.options().body_limit).await?;
    let hint = "name the cartridge to swap to: name, name:tag, or an id";
    let reference = body.reference.clone().ok_or(ApiError::Missing { param: "ref", hint })?;
    // On its own thread and not tied to this request: a client that goes away stops no swap.
    let task = tokio::task::spawn_blocking(move || {
        let outcome = swap_now(&state, reference, &body);
        count(&state, "done", &outcome);
        outcome
    });
    task.await.map_err(|_| ApiError::TaskLost)?.map(Json)
}

pub(crate) async fn rollback(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<SwapReport>, ApiError> {
    state.options().admin.check(request.headers())?;
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let body: RollbackBody = read_json(request, state.options().body_limit).await?;
    let task = tokio::task::spawn_blocking(move || {
        let model = state.models().named(body.model.as_deref())?;
        let outcome = model.runtime().rollback(body.in_flight).map_err(ApiError::from);
        count(&state, "rolled_back", &outcome);
        outcome
    });
    task.await.map_err(|_| ApiError::TaskLost)?.map(Json)
}

/// `GET /cart/sessions`.
pub(crate) async fn sessions(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let listed = with_sessions(state, "", |sessions, _| sessions.list()).await?;
    Ok(Json(json!({ "sessions": listed })))
}

/// `GET /cart/sessions/NAME`: the session, and what it remembers.
pub(crate) async fn session(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let asked = name.clone();
    let found = with_sessions(state, &name, move |sessions, active| {
        sessions.find(active.agent().space(), &asked)
    });
    let (saved, memory) = found.await?.ok_or(ApiError::NoSession { name })?;
    let texts: Vec<Value> = memory
        .slots()
        .filter(|(at, _)| at.store == StoreKind::Stm)
        .map(|(_, slot)| {
            json!({ "text": slot.value.text, "source": slot.source, "energy": slot.energy })
        })
        .collect();
    Ok(Json(json!({ "session": saved, "remembers": texts })))
}

/// `DELETE /cart/sessions/NAME`.
pub(crate) async fn delete_session(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let asked = name.clone();
    let deleted = with_sessions(state, &name, move |sessions, active| {
        active.agent().forget_conversation(&asked);
        sessions.delete(active.agent().space(), &asked)
    });
    if deleted.await? {
        return Ok(Json(json!({ "session": name, "deleted": true })));
    }
    Err(ApiError::NoSession { name })
}

/// Does something with the saved sessions where that holds up nobody.
async fn with_sessions<T: Send + 'static>(
    state: AppState,
    name: &str,
    act: impl FnOnce(&Sessions, &Resident) -> Result<T, SessionError> + Send + 'static,
) -> Result<T, ApiError> {
    let name = name.to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let sessions = state.options().sessions.as_ref().ok_or(ApiError::NoSessions)?;
        let active = state.runtime().active()?;
        let done = act(sessions, &active);
        done.map_err(|source| ApiError::Session { name, source: Box::new(source) })
    });
    task.await.map_err(|_| ApiError::TaskLost)?
}

fn swap_now(state: &AppState, reference: String, body: &SwapBody) -> Result<SwapReport, ApiError> {
    let model = state.models().named(body.model.as_deref())?;
    let store = state.store();
    let found = store.resolve(&reference).and_then(|found| store.open_cartridge(&found));
    let cartridge = match found {
        Ok(cartridge) => cartridge,
        Err(source) => return Err(ApiError::Reference { reference, source: Box::new(source) }),
    };
    let &SwapBody { in_flight, memory, stop_first, .. } = body;
    let loading = if stop_first { Loading::InPlace } else { Loading::Beside };
    let request = SwapRequest { name: reference, cartridge, in_flight, memory, loading };
    Ok(model.runtime().swap(request)?)
}

fn count(state: &AppState, done: &'static str, outcome: &Result<SwapReport, ApiError>) {
    match outcome {
        Ok(report) => {
            let pause = Duration::from_secs_f64(report.pause_ms / 1e3);
            state.metrics().swapped(done, Some(pause));
        }
        // A swap that never began is not an outcome of one.
        Err(ApiError::Swap(SwapError::InProgress)) => {}
        Err(_) => state.metrics().swapped("refused", None),
    }
}
