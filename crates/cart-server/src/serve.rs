//! The life of a server: it listens, drains, and ends.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::serve::{Listener, ListenerExt as _};
use cart_engine::runtime::RuntimeHandle;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::app::{AppState, router};
use crate::sessions::Sessions;
use crate::tls::TlsListener;

/// How often a drain looks whether streams are left.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is looked whether sessions have expired.
const EXPIRY_LOOK: Duration = Duration::from_mins(1);
/// How long connections may take to close after the last stream.
const CLOSING: Duration = Duration::from_secs(5);

/// Why a server ended early.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The listener.
    #[error("the server can't go on listening: {0}")]
    Listen(#[from] std::io::Error),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Streams that were cut off because they took longer than the limit.
    pub cut_off: usize,
}

/// Serves until `shutdown` ends and the running streams with it.
///
/// New generations are refused with 503 from then on, while running ones may end within
/// [`shutdown_limit`](crate::ServerOptions::shutdown_limit); those that don't are closed with an
/// error. The runtime is left running: it is the caller's.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Served, ServeError> {
    let (drained, cut_off) = oneshot::channel();
    let (close, closing) = oneshot::channel();
    let idle = tokio::spawn(unload_idle(state.clone()));
    let expiring = state.options().sessions.clone().map(expire_sessions).map(tokio::spawn);
    let draining = state.clone();
    tokio::spawn(async move {
        shutdown.await;
        let cut = drain(&draining).await;
        // The receivers live as long as the server.
        let _ = drained.send(cut);
        let _ = close.send(());
    });
    if let Some(identity) = state.options().tls.clone() {
        listen(TlsListener::new(listener, &identity)?, state, closing).await?;
    } else {
        // A token is a small packet; waiting to fill one would hold tokens back.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        listen(listener, state, closing).await?;
    }
    idle.abort();
    if let Some(task) = expiring {
        task.abort();
    }
    Ok(Served { cut_off: cut_off.await.unwrap_or(0) })
}

/// Answers connections until `closing`, and then until they have closed, or a while.
async fn listen<L>(
    listener: L,
    state: AppState,
    closing: oneshot::Receiver<()>,
) -> Result<(), ServeError>
where
    L: Listener<Addr: std::fmt::Debug>,
{
    let (end, ended) = oneshot::channel();
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(async move {
        let _ = closing.await;
        let _ = end.send(());
    });
    let stuck = async {
        let _ = ended.await;
        tokio::time::sleep(CLOSING).await;
    };
    tokio::select! {
        served = async { server.await } => served?,
        () = stuck => {}
    }
    Ok(())
}

/// Refuses what is new, waits for what runs, and cuts off what takes too long.
async fn drain(state: &AppState) -> usize {
    state.drain();
    let begun = Instant::now();
    while begun.elapsed() < state.options().shutdown_limit {
        let open = |runtime: &RuntimeHandle| runtime.open_requests();
        if state.models().runtimes().iter().map(open).sum::<usize>() == 0 {
            return 0;
        }
        tokio::time::sleep(LOOK).await;
    }
    let runtimes = state.models().runtimes();
    let cut_off = move || runtimes.iter().map(RuntimeHandle::cut_off).sum();
    let cut = tokio::task::spawn_blocking(cut_off);
    cut.await.unwrap_or(0)
}

/// Looks for cartridges that nobody asks any more, as long as it is let.
async fn unload_idle(state: AppState) {
    let mut looks = tokio::time::interval(LOOK * 10);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if state.is_draining() {
            return;
        }
        let state = state.clone();
        // One that fails is tried again at the next look.
        let _ = tokio::task::spawn_blocking(move || state.models().unload_idle()).await;
    }
}

/// Looks for sessions that have expired, as long as it is let.
async fn expire_sessions(sessions: Sessions) {
    let mut looks = tokio::time::interval(EXPIRY_LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let sessions = sessions.clone();
        // One that can't be deleted is tried again at the next look.
        let _ = tokio::task::spawn_blocking(move || sessions.expire()).await;
    }
}

/// Ends at the first SIGINT (Ctrl-C) or SIGTERM.
pub async fn shutdown_signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupt => {}
        () = terminate() => {}
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminate() {
    std::future::pending().await
}
