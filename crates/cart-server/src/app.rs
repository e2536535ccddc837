//! What the handlers share, and which path leads to which.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use cart_engine::MemoryOptions;
use cart_engine::runtime::RuntimeHandle;
use cart_store::Store;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::body::read_json;
use crate::error::ApiError;
use crate::live;
use crate::metrics::Metrics;
use crate::openai::{self, ChatRequest, CompletionRequest, Defaults, IntoAsked};
use crate::request_id::{self, RequestId};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Longest body of a request, in bytes.
    pub body_limit: usize,
    /// How long running streams may take to end after the shutdown began.
    pub shutdown_limit: Duration,
    /// How memory takes part in requests that don't say.
    pub memory: MemoryOptions,
    /// Who may swap and roll back.
    pub admin: Admin,
    /// How long an answer waits for the commit of what it offered to a shared long-term memory.
    pub commit_wait: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            body_limit: 8 << 20,
            shutdown_limit: Duration::from_secs(30),
            memory: MemoryOptions::default(),
            admin: Admin::default(),
            commit_wait: Duration::from_secs(1),
        }
    }
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    runtime: RuntimeHandle,
    store: Store,
    options: ServerOptions,
    metrics: Metrics,
    started: SystemTime,
    draining: AtomicBool,
    draws: AtomicU64,
    /// Randomness of the process, for seeds and ids that nobody gave.
    chance: RandomState,
}

impl AppState {
    /// A server over a runtime. Swaps resolve their refs in `store`.
    pub fn new(runtime: RuntimeHandle, store: Store, options: ServerOptions) -> Self {
        Self(Arc::new(Shared {
            runtime,
            store,
            options,
            metrics: Metrics::new(),
            started: SystemTime::now(),
            draining: AtomicBool::new(false),
            draws: AtomicU64::new(0),
            chance: RandomState::new(),
        }))
    }

    /// The runtime.
    pub fn runtime(&self) -> &RuntimeHandle {
        &self.0.runtime
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn options(&self) -> &ServerOptions {
        &self.0.options
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// From now on new generations and swaps are refused.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// A number that can't be guessed and does not come twice.
    pub(crate) fn draw(&self) -> u64 {
        let mut hasher = self.0.chance.build_hasher();
        hasher.write_u64(self.0.draws.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }

    fn started_unix(&self) -> u64 {
        self.0.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn defaults(&self) -> Defaults {
        Defaults {
            memory: self.options().memory.clone(),
            max_tokens: None,
            seed: self.draw(),
            now: Duration::from_secs(openai::unix_seconds()),
        }
    }
}

/// Every path of the server.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(generate::<ChatRequest>))
        .route("/v1/completions", post(generate::<CompletionRequest>))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/cart/state", get(live::state))
        .route("/cart/swap", post(live::swap))
        .route("/cart/rollback", post(live::rollback))
        .route("/healthz", get(live::health))
        .route("/metrics", get(metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(state.options().body_limit))
        .layer(from_fn_with_state(state.clone(), around))
        .with_state(state)
}

/// Gives every request an id, and counts every answer.
async fn around(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = request_id::of(&request).unwrap_or_else(|| RequestId::drawn(state.draw()));
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    id.write(response.headers_mut());
    state.metrics().answered(route.as_deref().unwrap_or("none"), response.status().as_u16());
    response
}

async fn generate<T: IntoAsked + DeserializeOwned>(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let asked = read_json::<T>(request, state.options().body_limit).await?;
    let asked = asked.into_asked(state.defaults())?;
    openai::answer(state, id.as_str(), asked).await
}

async fn models(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model_entry(&state)] }))
}

async fn model(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let active = state.runtime().state().active.clone();
    let hex = active.manifest.hex();
    let by_id = id.len() >= 6 && hex.starts_with(&id);
    if id != active.name && !by_id {
        return Err(ApiError::NoModel { model: id.chars().take(80).collect() });
    }
    Ok(Json(model_entry(&state)))
}

fn model_entry(state: &AppState) -> Value {
    let active = state.runtime().state().active.clone();
    json!({
        "id": active.name,
        "object": "model",
        "created": state.started_unix(),
        "owned_by": "cart",
        "manifest": active.manifest,
        "generation": active.generation,
    })
}

async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics().render(&state.runtime().state());
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    (headers, Bytes::from(text)).into_response()
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    let path = uri.path().chars().take(200).collect();
    ApiError::NoRoute { method: method.to_string(), path }
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::Method { method: method.to_string(), path: uri.path().to_owned() }
}
