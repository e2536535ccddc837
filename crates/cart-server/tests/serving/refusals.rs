//! Bad requests get an error in OpenAI's shape, and the server goes on.

use std::io::Write as _;
use std::net::TcpStream;
use std::num::NonZeroUsize;

use cart_engine::runtime::RuntimeOptions;
use cart_server::ServerOptions;
use serde_json::json;

use crate::client::{get, post, post_bytes, stream};
use crate::given::shelf;

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
fn a_client_that_goes_away_ends_its_generation() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let body = json!({"prompt": "One day, Anna", "max_tokens": 480, "temperature": 0,
        "ignore_eos": true, "stream": true});
    let mut events = stream(&server, "/v1/completions", &body);
    assert!(events.next().is_some());
    drop(events);
    server.wait_until("cancellation of a stream", |state| state["ended"]["cancelled"] == json!(1));

    // Not streamed, and the connection closed while the answer is being made.
    let body = json!({"prompt": "One day, Anna", "max_tokens": 480, "temperature": 0,
        "ignore_eos": true})
    .to_string();
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(
        socket,
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    server.wait_until("a stream", |state| state["streams"] == json!(1));
    drop(socket);
    server.wait_until("cancellation of a request", |state| state["ended"]["cancelled"] == json!(2));
}
