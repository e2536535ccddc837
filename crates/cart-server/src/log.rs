//! A line for each request, for those who collect them.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cart_engine::runtime::{RolledBack, WatchListener};
use serde_json::json;

use crate::keys::KeyName;
use crate::request_id::RequestId;

/// What is written down about requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestLog {
    /// Nothing.
    #[default]
    Off,
    /// A line of JSON for each, to stderr.
    Json,
}

/// Writes down what the watch over new cartridges does: as the requests are, or, where these are not, in words.
#[derive(Clone, Copy, Debug)]
pub struct WatchLog(pub RequestLog);

impl WatchListener for WatchLog {
    fn rolled_back(&self, report: &RolledBack) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = match self.0 {
            RequestLog::Off => in_words(report),
            RequestLog::Json => event(report, now),
        };
        line.push('\n');
        // A closed stderr is no reason to stop.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn in_words(report: &RolledBack) -> String {
    let RolledBack { from, to, reason, active_ms, .. } = report;
    format!(
        "left {} (generation {}) after {active_ms:.0} ms, because {reason}; {} (generation {}) runs again",
        from.name, from.generation, to.name, to.generation
    )
}

/// * `now`: since 1970-01-01 UTC
fn event(report: &RolledBack, now: Duration) -> String {
    json!({
        "unix_ms": now.as_millis() as u64,
        "event": "rolled_back",
        "from": report.from,
        "to": report.to,
        "trip": report.trip,
        "reason": report.reason,
        "active_ms": report.active_ms,
        "streams_moved": report.streams_moved,
        "streams_dropped": report.streams_dropped,
    })
    .to_string()
}

/// A request that was answered. What was asked and said is no part of it, nor are keys.
pub(crate) struct Answered<'a> {
    pub(crate) id: &'a RequestId,
    pub(crate) method: &'a str,
    /// The pattern of the route, or `none`.
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) holder: Option<&'a KeyName>,
    /// Until the answer's head was ready: a stream goes on after it.
    pub(crate) took: Duration,
}

impl RequestLog {
    pub(crate) fn write(self, answered: &Answered<'_>) {
        if self == Self::Json {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let mut line = answered.line(now);
            line.push('\n');
            // A closed stderr is no reason to answer nobody.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

impl Answered<'_> {
    /// * `now`: since 1970-01-01 UTC
    fn line(&self, now: Duration) -> String {
        let milliseconds = |duration: Duration| duration.as_micros() as f64 / 1e3;
        json!({
            "unix_ms": now.as_millis() as u64,
            "request": self.id.as_str(),
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "key": self.holder.map(KeyName::as_str),
            "ms": milliseconds(self.took),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_with_what_was_answered() {
        let id = RequestId::drawn(7);
        let answered = Answered {
            id: &id,
            method: "GET",
            route: "/v1/models",
            status: 401,
            holder: None,
            took: Duration::from_micros(1500),
        };
        assert_eq!(
            answered.line(Duration::from_millis(12_345)),
            "{\"unix_ms\":12345,\"request\":\"0000000000000007\",\"method\":\"GET\",\
            \"route\":\"/v1/models\",\"status\":401,\"key\":null,\"ms\":1.5}"
        );
    }
}
