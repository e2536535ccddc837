//! Who may change what the server runs.

use std::fmt;
use std::net::SocketAddr;

use axum::http::HeaderMap;
use thiserror::Error;

use crate::error::ApiError;
use crate::keys::bearer;

/// Who may swap and roll back.
#[derive(Clone, Debug, Default)]
pub enum Admin {
    /// Whoever reaches the server.
    #[default]
    Open,
    /// Whoever sends this token, as `Authorization: Bearer TOKEN`.
    Token(AdminToken),
    /// Nobody.
    Off,
}

/// A secret; its debug form does not show it.
#[derive(Clone)]
pub struct AdminToken(String);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an admin token has 16 to 4096 characters, which are visible and ASCII; this one has {found}{}",
    if *visible { "" } else { ", some of which are not" })]
pub struct AdminTokenError {
    /// Its length in characters.
    found: usize,
    /// Whether all of them are visible and ASCII.
    visible: bool,
}

impl Admin {
    /// What a server on this address allows: with a token, whoever has it; without one, whoever
    /// reaches it where that is only this machine, and nobody where others may.
    pub fn on(address: SocketAddr, token: Option<AdminToken>) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if address.ip().to_canonical().is_loopback() => Self::Open,
            None => Self::Off,
        }
    }

    /// Refuses a request that may not change what runs.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let token = match self {
            Self::Open => return Ok(()),
            Self::Off => return Err(ApiError::AdminOff),
            Self::Token(token) => token,
        };
        let sent = bearer(headers);
        if sent.is_some_and(|sent| token.is(sent)) {
            return Ok(());
        }
        Err(ApiError::AdminToken { sent: if sent.is_some() { "another one" } else { "none" } })
    }

    /// Whether a request carries the token, where there is one.
    pub(crate) fn is_sent(&self, headers: &HeaderMap) -> bool {
        match (self, bearer(headers)) {
            (Self::Token(token), Some(sent)) => token.is(sent),
            _ => false,
        }
    }
}

impl AdminToken {
    /// Takes a secret.
    ///
    /// # Errors
    /// It is too short to be one, or can't be sent in a header.
    pub fn new(token: String) -> Result<Self, AdminTokenError> {
        let found = token.chars().count();
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && (16..=4096).contains(&found) {
            return Ok(Self(token));
        }
        Err(AdminTokenError { found, visible })
    }

    /// Takes as long for a token that is nearly right as for one that is not right at all.
    fn is(&self, sent: &[u8]) -> bool {
        let differing = self.0.bytes().zip(sent).fold(0, |seen, (a, b)| seen | (a ^ b));
        self.0.len() == sent.len() && std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_only_this_machine_is_trusted() {
        let on = |address: &str| Admin::on(address.parse().unwrap(), None);
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(matches!(on(here), Admin::Open), "{here}");
        }
        for elsewhere in ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(on(elsewhere), Admin::Off), "{elsewhere}");
        }
    }

    #[test]
    fn a_token_is_long_enough_visible_and_not_shown() {
        for bad in ["", "short", "sixteen and more", "sixteen-characterö", &"x".repeat(4097)] {
            assert!(AdminToken::new(bad.to_owned()).is_err(), "{bad}");
        }
        let token = AdminToken::new("0123456789abcdef".to_owned()).unwrap();
        assert!(!format!("{token:?}").contains("0123"));
        assert!(token.is(b"0123456789abcdef"));
        for other in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
    }
}
