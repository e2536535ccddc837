//! Sessions that `cart serve` saves.

use std::time::Duration;

use cart_server::{SessionLimits, Sessions};
use cart_store::Store;
use clap::Args;

use super::watching::seconds;
use crate::failure::Failure;

/// Whether sessions are saved, how many and how long.
#[derive(Args)]
#[command(next_help_heading = "Sessions")]
pub(crate) struct SessionArgs {
    /// Save what conversations (`memory.session` of a request) remember in the store, before each answer that writes to memory
    /// is acknowledged, and take them up again after a restart
    #[arg(long)]
    sessions: bool,
    /// With --sessions: most sessions; a request with the name of another one gets 429
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "sessions")]
    max_sessions: usize,
    /// With --sessions: seconds for which a session is kept that is not written to [default: 30 days]
    #[arg(long, value_name = "SECONDS", requires = "sessions")]
    session_expiry: Option<f64>,
}

impl SessionArgs {
    /// Where sessions are saved, if they are.
    pub(super) fn kept_in(&self, store: &Store) -> Result<Option<Sessions>, Failure> {
        if !self.sessions {
            return Ok(None);
        }
        let usual = SessionLimits::default();
        let expiry = match self.session_expiry {
            None => usual.expiry,
            Some(given) => seconds("--session-expiry", given)?,
        };
        if expiry < Duration::from_secs(1) {
            return Err(Failure::arguments(
                "--session-expiry is under a second; allowed: 1 or more",
            ));
        }
        let limits = SessionLimits { most: self.max_sessions, expiry };
        Ok(Some(Sessions::new(store.clone(), limits)))
    }
}
