//! Which database.

use std::fmt;
use std::time::Duration;

use postgres::Config;
use postgres::config::{Host, SslMode};
use thiserror::Error;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long a statement may take, or a transaction may be idle: a server that hangs does not hold up the others for longer.
const SESSION: &str = "-c statement_timeout=15000 -c lock_timeout=15000 \
                       -c idle_in_transaction_session_timeout=15000 -c application_name=cart";
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(15);

/// Which database, and who asks. Shown without user and password.
#[derive(Clone)]
pub struct Address(Config);

/// Why an address can't be used.
#[derive(Debug, Error)]
pub enum AddressError {
    /// It can't be read.
    #[error("not an address of PostgreSQL: {0}; write postgres://USER@HOST:PORT/DATABASE")]
    Unreadable(#[source] postgres::Error),
    /// TLS is asked for.
    #[error(
        "sslmode=require is asked for, and cart speaks to the database without TLS; use a private network or a tunnel, or leave it out"
    )]
    Tls,
}

impl Address {
    /// Reads `postgres://USER@HOST:PORT/DATABASE` or `host=… user=… dbname=…`.
    ///
    /// * `password`: used where the text has none
    ///
    /// # Errors
    /// It is no such address, or it asks for TLS.
    pub fn new(text: &str, password: Option<&str>) -> Result<Self, AddressError> {
        let mut config: Config = text.parse().map_err(AddressError::Unreadable)?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(AddressError::Tls);
        }
        if let Some(password) = password.filter(|_| config.get_password().is_none()) {
            config.password(password);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECTING);
        }
        if config.get_options().is_none() {
            config.options(SESSION);
        }
        config.tcp_user_timeout(SILENCE).keepalives_idle(SILENCE);
        Ok(Self(config))
    }

    pub(super) fn config(&self) -> &Config {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (index, host) in self.0.get_hosts().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            let ports = self.0.get_ports();
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.0.get_dbname().or(self.0.get_user()).unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_secrets() {
        let shown = |text: &str| Address::new(text, Some("other")).unwrap().to_string();
        assert_eq!(
            shown("postgres://me:secret@db.example:5433/agents"),
            "postgres://db.example:5433/agents"
        );
        assert_eq!(shown("host=a,b user=me password=secret"), "postgres://a,b/me");
        let debug = format!("{:?}", Address::new("postgres://me:secret@h/d", None).unwrap());
        assert!(!debug.contains("secret") && !debug.contains("me:"), "{debug}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert!(matches!(Address::new("mysql://h/d", None), Err(AddressError::Unreadable(_))));
        let tls = Address::new("postgres://h/d?sslmode=require", None);
        assert!(matches!(tls, Err(AddressError::Tls)));
    }
}
