//! The server that is asked to swap.

use std::time::Duration;

use serde_json::Value;
use ureq::tls::TlsConfig;

use crate::failure::Failure;

/// Why a server did not do what it was asked.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// Whether the same request may be taken a little later.
    pub(super) passes: bool,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.failure
    }
}

/// A running server.
pub(super) struct Server<'a> {
    pub(super) address: &'a str,
    pub(super) token: Option<&'a str>,
    /// How its certificate is judged; none where it is not asked over TLS.
    pub(super) trusted: Option<TlsConfig>,
}

impl Server<'_> {
    /// What runs under a name; under the first one where none is given.
    pub(super) fn state(&self, model: Option<&str>) -> Result<Value, Refused> {
        match model {
            None => self.ask("/cart/state", None),
            Some(model) => self.ask(&format!("/cart/state?model={}", encoded(model)), None),
        }
    }

    /// Posts a body to a path, or gets it where there is none.
    pub(super) fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let url = format!("{}{path}", self.address);
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)));
        if let Some(trusted) = &self.trusted {
            config = config.tls_config(trusted.clone());
        }
        let unreachable = |source: ureq::Error| Refused {
            failure: Failure::refused_with(
                format!("{url} did not answer: {source}"),
                "`cart serve REF --listen ADDR` starts a server",
            ),
            passes: true,
        };
        let agent = ureq::Agent::new_with_config(config.build());
        let response = match body {
            None => self.signed(agent.get(&url)).call(),
            Some(body) => self.signed(agent.post(&url)).send_json(body),
        };
        let mut response = response.map_err(unreachable)?;
        let status = response.status();
        let answer: Value = response.body_mut().read_json().map_err(unreachable)?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer["error"]["message"].as_str().unwrap_or("no reason was given");
        let asked = if path == "/cart/rollback" { "rollback" } else { "swap" };
        let failure = Failure::refused_with(
            format!("the server refused the {asked}: {said}"),
            "the running cartridge is as it was",
        );
        // Another swap is under way, or the server is shutting down: a little later it may be otherwise.
        let passes = [409, 503].contains(&status.as_u16());
        Err(Refused { failure, passes })
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// A name as a query has it.
fn encoded(name: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encode = |byte: u8| {
        if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    name.bytes().map(encode).collect()
}
