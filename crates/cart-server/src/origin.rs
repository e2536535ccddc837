//! Whether a request comes from a page of another site.
//!
//! A server that asks for no key trusts whoever reaches it, and the browser of somebody who looks at a foreign page reaches a
//! loopback address: such a page may send requests, though it can't read the answers, and a name that it leads to a loopback
//! address lets it read them too (DNS rebinding). Browsers say in `Origin` and `Host` what a page thinks it talks to.

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method};

use crate::admin::Admin;
use crate::error::ApiError;

/// Refuses requests of foreign pages, where nothing else would.
///
/// * `known`: whether it had to carry a key, or carries the admin token
///
/// # Errors
/// It does not, and its headers name another site.
pub(crate) fn check(
    admin: &Admin,
    known: bool,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    // A browser adds no credentials to what a foreign page sends.
    if known {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    if matches!(admin, Admin::Open) && !host.is_empty() && !is_local(host) {
        return Err(ApiError::ForeignHost { found: host.chars().take(80).collect() });
    }
    let Some(origin) = text(ORIGIN).filter(|_| !method.is_safe()) else { return Ok(()) };
    let site = origin.split_once("://").map_or("", |(_, site)| site);
    if site.eq_ignore_ascii_case(host) {
        return Ok(());
    }
    Err(ApiError::ForeignOrigin { found: origin.chars().take(80).collect() })
}

/// Whether a host is this machine's by its name: an address, or `localhost`. No other name can be trusted to lead here only.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            return rest
                .split_once(']')
                .is_some_and(|(ip, _)| ip.parse::<std::net::Ipv6Addr>().is_ok());
        }
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(known: bool, method: &Method, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(&Admin::Open, known, method, &headers).is_ok()
    }

    #[test]
    fn programs_and_the_own_page_may_ask() {
        for host in
            ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "cart.localhost", "LocalHost.:1"]
        {
            assert!(asked(false, &Method::POST, host, None), "{host}");
            assert!(asked(false, &Method::POST, host, Some(&format!("http://{host}"))), "{host}");
        }
    }

    #[test]
    fn foreign_pages_may_not() {
        let here = "127.0.0.1:8080";
        for origin in ["https://example.org", "null", "http://localhost:8080", "http://127.0.0.1:9"]
        {
            assert!(!asked(false, &Method::POST, here, Some(origin)), "{origin}");
            assert!(
                asked(false, &Method::GET, here, Some(origin)),
                "its page can't read the answer"
            );
            assert!(asked(true, &Method::POST, here, Some(origin)), "with a key");
        }
        for host in
            ["example.org:8080", "127.0.0.1.example.org", "localhost.example.org", "[::1", "[x]:1"]
        {
            assert!(!asked(false, &Method::GET, host, None), "{host}");
        }
    }
}
