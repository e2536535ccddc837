//! What is saved of an answer before it is acknowledged.

use std::sync::Arc;

use cart_engine::runtime::{GenerationRequest, Resident};

use crate::app::AppState;
use crate::error::ApiError;
use crate::models::Model;
use crate::sessions::{SessionError, Sessions};

/// What is saved of an answer: nothing where memory is not written, or where sessions are not saved.
pub(super) struct Keeps(Option<Kept>);

#[derive(Clone)]
struct Kept {
    sessions: Sessions,
    session: Option<String>,
}

impl Keeps {
    pub(super) fn of(state: &AppState, request: &GenerationRequest) -> Self {
        let memory = &request.options.memory;
        let sessions = state.options().sessions.clone();
        let kept = |sessions| Kept { sessions, session: memory.session.clone() };
        Self(sessions.filter(|_| memory.write).map(kept))
    }

    /// Takes up a session that was saved, where that holds up no stream.
    ///
    /// # Errors
    /// It would be one too many, or what was saved can't be read.
    pub(super) async fn open(&self, state: &AppState, model: &Arc<Model>) -> Result<(), ApiError> {
        let Some(Kept { sessions, session: Some(name) }) = self.0.clone() else { return Ok(()) };
        if state.is_draining() {
            return Err(ApiError::ShuttingDown);
        }
        let model = Arc::clone(model);
        let task = tokio::task::spawn_blocking(move || {
            let active = model.runtime().active()?;
            sessions.check(active.agent(), &name).map_err(|source| failed(&name, source))?;
            // What can't be taken up is told by the generation itself, which asks for it again.
            let _ = active.agent().in_conversation(&name);
            Ok(())
        });
        task.await.map_err(|_| ApiError::TaskLost)?
    }

    /// Saves what was remembered; the answer is acknowledged only then.
    ///
    /// # Errors
    /// The store can't be written.
    pub(super) async fn save(
        &self,
        state: &AppState,
        resident: &Arc<Resident>,
    ) -> Result<(), ApiError> {
        let Some(Kept { sessions, session }) = self.0.clone() else { return Ok(()) };
        let (resident, metrics) = (Arc::clone(resident), state.clone());
        let task = tokio::task::spawn_blocking(move || {
            let saved = sessions.save(resident.agent(), session.as_deref());
            metrics.metrics().session_saved(saved.is_ok());
            saved.map_err(|source| failed(session.as_deref().unwrap_or_default(), source))
        });
        task.await.map_err(|_| ApiError::TaskLost)?
    }
}

fn failed(name: &str, source: SessionError) -> ApiError {
    ApiError::Session { name: name.to_owned(), source: Box::new(source) }
}
