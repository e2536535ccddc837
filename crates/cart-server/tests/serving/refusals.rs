//! Bad requests get an error in OpenAI's shape, and the server goes on.

use std::io::Write as _;
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::time::Duration;

use cart_engine::runtime::RuntimeOptions;
use cart_server::{Admin, AdminToken, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Streamed, get, post, post_as, post_bytes, stream};
use crate::given::{Server, shelf};

#[test]
fn each_bad_request_has_its_status_and_code() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let limits = ServerOptions { body_limit: 100_000, ..ServerOptions::default() };
    let server = shelf.serve_with("tiny", RuntimeOptions::default(), limits);
    let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(200_000));
    let long = format!("{{\"prompt\": \"{}\"}}", "boat ".repeat(2000));
    let cases: [(&str, &[u8], u16, &str); 14] = [
        ("/v1/completions", b"{\"prompt\": ", 400, "invalid_json"),
        ("/v1/completions", b"", 400, "invalid_json"),
        ("/v1/completions", b"{\"prompt\": \"\xff\xfe\"}", 400, "invalid_utf8"),
        ("/v1/completions", deep.as_bytes(), 400, "invalid_json"),
        ("/v1/completions", large.as_bytes(), 413, "body_too_large"),
        ("/v1/completions", long.as_bytes(), 400, "invalid_prompt"),
        ("/v1/completions", b"{}", 400, "missing_parameter"),
        ("/v1/completions", b"{\"prompt\": \"\"}", 400, "invalid_prompt"),
        ("/v1/completions", b"{\"prompt\": [4000000000]}", 400, "invalid_prompt"),
        ("/v1/completions", b"{\"prompt\": \"a\", \"n\": 3}", 400, "invalid_value"),
        ("/v1/completions", b"{\"prompt\": \"a\", \"top_p\": 7}", 400, "invalid_value"),
        ("/v1/chat/completions", b"{\"messages\": []}", 400, "invalid_value"),
        ("/cart/swap", b"{\"ref\": \"nobody\"}", 404, "reference_not_found"),
        ("/v2/completions", b"{}", 404, "not_found"),
    ];
    for (path, body, status, code) in cases {
        let answer = post_bytes(&server, path, body);
        assert_eq!(answer.error()["code"], json!(code), "{}", answer.body);
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let answer = get(&server, "/v1/completions");
    assert_eq!((answer.status, answer.error()["code"].clone()), (405, json!("method_not_allowed")));
    let answer = get(&server, "/v1/models/other");
    assert_eq!((answer.status, answer.error()["code"].clone()), (404, json!("model_not_found")));
    let answer = post(&server, "/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!(answer.status, 200, "the server goes on: {}", answer.body);
}

#[test]
fn a_request_keeps_its_id_or_gets_one() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let url = format!("http://{}/healthz", server.address);
    let answer = ureq::get(&url).header("x-request-id", "mine-7").call().unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-7");
    let ids: Vec<_> =
        (0..2).map(|_| get(&server, "/nothing").headers["x-request-id"].clone()).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let limits = RuntimeOptions {
        max_streams: NonZeroUsize::MIN,
        max_queued: 0,
        ..RuntimeOptions::default()
    };
    let server = shelf.serve_with("tiny", limits, ServerOptions::default());
    let answer = post(&server, "/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!((answer.status, answer.error()["code"].clone()), (429, json!("queue_full")));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[test]
fn a_request_that_waits_too_long_is_refused_with_a_time_to_come_back() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let limits = RuntimeOptions {
        max_streams: NonZeroUsize::MIN,
        max_wait: Duration::ZERO,
        ..RuntimeOptions::default()
    };
    let server = shelf.serve_with("tiny", limits, ServerOptions::default());
    let long = json!({"prompt": "One day", "max_tokens": 480, "ignore_eos": true, "stream": true});
    let mut running = stream(&server, "/v1/completions", &long);
    assert!(running.next().is_some());
    for streamed in [false, true] {
        let body = json!({"prompt": "a", "max_tokens": 2, "stream": streamed});
        let answer = post(&server, "/v1/completions", &body);
        let code = answer.error()["code"].clone();
        assert_eq!((answer.status, code), (503, json!("no_place_in_time")));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert!(Streamed::read(running).done, "the one that runs goes on");
}

#[test]
fn swaps_are_for_those_who_have_the_token_and_for_nobody_where_there_is_none() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let secret = "0123456789abcdef";
    let token = AdminToken::new(secret.to_owned()).unwrap();
    for (admin, sent, expected) in [
        (Admin::Token(token.clone()), None, (401, "admin_token")),
        (Admin::Token(token.clone()), Some("Bearer 0123456789abcdeX"), (401, "admin_token")),
        (Admin::Token(token.clone()), Some(secret), (401, "admin_token")),
        (Admin::Off, Some("Bearer 0123456789abcdef"), (403, "admin_off")),
        (Admin::Token(token), Some("Bearer 0123456789abcdef"), (404, "reference_not_found")),
        (Admin::Open, None, (404, "reference_not_found")),
    ] {
        let options = ServerOptions { admin, ..ServerOptions::default() };
        let server = shelf.serve_with("tiny", RuntimeOptions::default(), options);
        let body = json!({"ref": "none"});
        let answer = post_as(&server, sent, "/cart/swap", &body);
        assert_eq!((answer.status, &answer.error()["code"]), (expected.0, &json!(expected.1)));
        assert_eq!(answer.headers.contains_key("www-authenticate"), expected.0 == 401);
        let back = post_as(&server, sent, "/cart/rollback", &json!({}));
        let allowed = expected.0 == 404;
        assert_eq!(back.status, if allowed { 409 } else { expected.0 }, "{}", back.body);
        assert_eq!(get(&server, "/cart/state").status, 200);
    }
}

#[test]
fn a_client_that_goes_away_ends_its_generation() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let body = json!({"prompt": "One day, Anna", "max_tokens": 480, "temperature": 0,
        "ignore_eos": true, "stream": true});
    cancelled(&server, |_| {
        let mut events = stream(&server, "/v1/completions", &body);
        assert!(events.next().is_some());
    });

    // Not streamed, and the connection closed while the answer is being made.
    let body = json!({"prompt": "One day, Anna", "max_tokens": 480, "temperature": 0,
        "ignore_eos": true})
    .to_string();
    cancelled(&server, |before| {
        let mut socket = TcpStream::connect(server.address).unwrap();
        write!(
            socket,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        server.wait_until("a stream or its end", |state| {
            state["streams"] == json!(1) || state["ended"] != *before
        });
    });
}

fn ended(server: &Server) -> Value {
    server.state()["ended"].clone()
}

/// Lets clients go away until one generation was cancelled. The small model can be done before the
/// server notices, but hardly twenty times.
fn cancelled(server: &Server, go_away: impl Fn(&Value)) {
    let before = ended(server)["cancelled"].clone();
    for _ in 0..20 {
        let ended_before = ended(server);
        go_away(&ended_before);
        server.wait_until("an end", |state| state["ended"] != ended_before);
        if ended(server)["cancelled"] != before {
            return;
        }
    }
    panic!("twenty clients went away and no generation was cancelled: {}", server.state());
}
