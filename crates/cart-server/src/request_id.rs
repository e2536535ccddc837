//! The id by which a request is found again in logs: the client's own, or a drawn one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a client, in bytes.
const LONGEST: usize = 128;

/// The id of a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(String);

/// The id that the client gave, if it is printable ASCII and not too long.
pub(crate) fn of(request: &Request) -> Option<RequestId> {
    let given = request.headers().get(HEADER)?.to_str().ok()?;
    let fits = !given.is_empty() && given.len() <= LONGEST;
    fits.then(|| RequestId(given.to_owned()))
}

impl RequestId {
    /// An id from a drawn number.
    pub(crate) fn drawn(number: u64) -> Self {
        Self(format!("{number:016x}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts it on an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(HEADER, value);
        }
    }
}
