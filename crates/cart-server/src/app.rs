//! What the handlers share, and which path leads to which.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use cart_engine::MemoryOptions;
use cart_engine::runtime::RuntimeHandle;
use cart_store::Store;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::body::read_json;
use crate::error::ApiError;
use crate::keys;
use crate::keys::{ApiKeys, KeyName};
use crate::live;
use crate::log::{Answered, RequestLog};
use crate::metrics::Metrics;
use crate::models::{Listed, Model, Models, unknown};
use crate::openai::{
    self, ChatRequest, CompletionRequest, Defaults, EmbeddingRequest, IntoAsked, Responses,
};
use crate::openapi;
use crate::origin;
use crate::page;
use crate::request_id::{self, RequestId};
use crate::sessions::Sessions;
use crate::tls::TlsIdentity;
use crate::view;

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
    /// Who may ask for answers; everyone where there are none.
    pub keys: ApiKeys,
    /// What connections are encrypted with; they are not where there is none.
    pub tls: Option<TlsIdentity>,
    /// What is written down about requests.
    pub log: RequestLog,
    /// Where sessions are saved; nowhere if absent.
    pub sessions: Option<Sessions>,
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
            keys: ApiKeys::default(),
            tls: None,
            log: RequestLog::Off,
            sessions: None,
            commit_wait: Duration::from_secs(1),
        }
    }
}

/// A path of the server.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    /// What a request has to carry, before its body is read.
    guard: Guard,
    handler: fn() -> MethodRouter<AppState>,
}

/// What a request to a path has to carry, where the server has keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    None,
    /// A key.
    Key,
    /// A key, or the admin token.
    KeyOrToken,
    /// What [`Admin`] asks for, which the handler looks at; a key where it asks for nothing.
    Admin,
}

/// Every path.
pub(crate) const ROUTES: [Route; 21] = [
    Route::new("/v1/chat/completions", Guard::Key, || post(generate::<ChatRequest>)),
    Route::new("/v1/completions", Guard::Key, || post(generate::<CompletionRequest>)),
    Route::new("/v1/embeddings", Guard::Key, || post(embeddings)),
    Route::new("/v1/responses", Guard::Key, || post(openai::create)),
    Route::new("/v1/responses/{id}", Guard::Key, || get(openai::retrieve).delete(openai::delete)),
    Route::new("/v1/models", Guard::Key, || get(models)),
    Route::new("/v1/models/{*id}", Guard::Key, || get(model)),
    Route::new("/cart/state", Guard::KeyOrToken, || get(live::state)),
    Route::new("/cart/swap", Guard::Admin, || post(live::swap)),
    Route::new("/cart/rollback", Guard::Admin, || post(live::rollback)),
    Route::new("/cart/memory", Guard::KeyOrToken, || get(view::memory)),
    Route::new("/cart/cartridge", Guard::KeyOrToken, || get(view::cartridge)),
    Route::new("/cart/names", Guard::KeyOrToken, || get(view::names)),
    Route::new("/", Guard::None, || get(page::html)),
    Route::new("/page.css", Guard::None, || get(page::style)),
    Route::new("/page.js", Guard::None, || get(page::script)),
    Route::new("/cart/sessions", Guard::KeyOrToken, || get(live::sessions)),
    Route::new("/cart/sessions/{*name}", Guard::KeyOrToken, || {
        get(live::session).delete(live::delete_session)
    }),
    Route::new("/healthz", Guard::None, || get(live::health)),
    Route::new("/metrics", Guard::KeyOrToken, || get(metrics)),
    Route::new("/openapi.json", Guard::None, || get(openapi::document)),
];

impl Route {
    const fn new(
        path: &'static str,
        guard: Guard,
        handler: fn() -> MethodRouter<AppState>,
    ) -> Self {
        Self { path, guard, handler }
    }
}

impl Guard {
    /// Whose key a request carries.
    ///
    /// # Errors
    /// It lacks the key that it needs.
    fn check(
        self,
        options: &ServerOptions,
        headers: &HeaderMap,
    ) -> Result<Option<KeyName>, ApiError> {
        let needed = match self {
            Self::None => false,
            Self::Key => true,
            Self::KeyOrToken => !options.admin.is_sent(headers),
            Self::Admin => matches!(options.admin, Admin::Open),
        };
        if !needed || options.keys.is_empty() {
            return Ok(None);
        }
        let sent = if keys::bearer(headers).is_some() { "another one" } else { "none" };
        options.keys.holder(headers).map(Some).ok_or(ApiError::ApiKey { sent })
    }
}

/// Whose key a request carries, where it needs one.
#[derive(Clone, Debug)]
pub(crate) struct Holder(Option<KeyName>);

impl Holder {
    pub(crate) fn name(&self) -> Option<&KeyName> {
        self.0.as_ref()
    }
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    models: Models,
    store: Store,
    options: ServerOptions,
    metrics: Metrics,
    responses: Responses,
    started: SystemTime,
    draining: AtomicBool,
    draws: AtomicU64,
    /// Randomness of the process, for seeds and ids that nobody gave.
    chance: RandomState,
}

impl AppState {
    /// A server over a runtime. Swaps resolve their refs in `store`.
    pub fn new(runtime: RuntimeHandle, store: Store, options: ServerOptions) -> Self {
        Self::with_models(Models::one(runtime), store, options)
    }

    /// A server over several cartridges. Those that are loaded on demand come from `store` too.
    pub fn with_models(models: Models, store: Store, options: ServerOptions) -> Self {
        Self(Arc::new(Shared {
            models,
            store,
            options,
            metrics: Metrics::new(),
            responses: Responses::default(),
            started: SystemTime::now(),
            draining: AtomicBool::new(false),
            draws: AtomicU64::new(0),
            chance: RandomState::new(),
        }))
    }

    /// What answers requests that name no model.
    pub fn runtime(&self) -> &RuntimeHandle {
        self.0.models.first().runtime()
    }

    pub(crate) fn models(&self) -> &Models {
        &self.0.models
    }

    /// What a request means by `model`; it is loaded now if it may be.
    pub(crate) async fn model(&self, model: Option<&str>) -> Result<Arc<Model>, ApiError> {
        if let Some(found) = self.0.models.loaded(model) {
            return Ok(found);
        }
        let model = model.unwrap_or_default().to_owned();
        if !self.0.models.loads() {
            return Err(unknown(&model));
        }
        let state = self.clone();
        let load = move || state.models().load(state.store(), &model);
        tokio::task::spawn_blocking(load).await.map_err(|_| ApiError::TaskLost)?
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

    /// The responses that can be asked for later.
    pub(crate) fn responses(&self) -> &Responses {
        &self.0.responses
    }

    pub(crate) fn defaults(&self) -> Defaults {
        Defaults {
            memory: self.options().memory.clone(),
            max_tokens: None,
            seed: self.draw(),
            now: Duration::from_secs(openai::unix_seconds()),
        }
    }
}

/// Every path of the server, as its OpenAPI document lists them.
pub fn router(state: AppState) -> Router {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(state.options().body_limit))
        .layer(from_fn_with_state(state.clone(), around))
        .with_state(state)
}

/// Gives every request an id, refuses those without the key that they need, and counts every answer.
async fn around(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = request_id::of(&request).unwrap_or_else(|| RequestId::drawn(state.draw()));
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = ROUTES.iter().find(|route| Some(route.path) == path);
    let guard = route.map_or(Guard::None, |route| route.guard);
    let (begun, method) = (Instant::now(), request.method().clone());
    let mut known = None;
    let admitted = guard.check(state.options(), request.headers()).and_then(|holder| {
        let admin = &state.options().admin;
        // Where there are keys, paths that matter have asked for one.
        let is_known = !state.options().keys.is_empty() || admin.is_sent(request.headers());
        origin::check(admin, is_known, request.method(), request.headers())?;
        Ok(holder)
    });
    let mut response = match admitted {
        Ok(holder) => {
            known.clone_from(&holder);
            request.extensions_mut().insert(id.clone());
            request.extensions_mut().insert(Holder(holder.clone()));
            let response = next.run(request).await;
            state.metrics().used(holder.as_ref(), 1, 0, 0);
            response
        }
        Err(refused) => refused.into_response(),
    };
    id.write(response.headers_mut());
    let path = route.map_or("none", |route| route.path);
    let status = response.status().as_u16();
    state.metrics().answered(path, status);
    state.options().log.write(&Answered {
        id: &id,
        method: method.as_str(),
        route: path,
        status,
        holder: known.as_ref(),
        took: begun.elapsed(),
    });
    response
}

async fn generate<T: IntoAsked + DeserializeOwned>(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    Extension(Holder(holder)): Extension<Holder>,
    request: Request,
) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let asked = read_json::<T>(request, state.options().body_limit).await?;
    let asked = asked.into_asked(state.defaults())?;
    openai::answer(state, id.as_str(), holder, asked).await
}

async fn embeddings(
    State(state): State<AppState>,
    Extension(Holder(holder)): Extension<Holder>,
    request: Request,
) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let asked: EmbeddingRequest = read_json(request, state.options().body_limit).await?;
    openai::embed(state, holder, asked).await
}

async fn models(State(state): State<AppState>) -> Json<Value> {
    let listed = state.models().list();
    let data: Vec<Value> = listed.iter().map(|listed| model_entry(&state, listed)).collect();
    Json(json!({ "object": "list", "data": data }))
}

async fn model(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let listed = state.models().list();
    let found = listed.iter().find(|listed| listed.is_called(&id)).ok_or_else(|| unknown(&id))?;
    Ok(Json(model_entry(&state, found)))
}

fn model_entry(state: &AppState, listed: &Listed) -> Value {
    json!({
        "id": listed.id,
        "object": "model",
        "created": state.started_unix(),
        "owned_by": "cart",
        "manifest": listed.manifest,
        "generation": listed.generation,
        "name": listed.name,
        "loaded": listed.state.is_some(),
    })
}

async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics().render(&state.runtime().state(), state.models());
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
