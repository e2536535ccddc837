//! A server that is told to end lets its streams end first, within a limit.

use std::num::NonZeroUsize;
use std::time::Duration;

use cart_engine::runtime::RuntimeOptions;
use cart_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Streamed, get, post, stream, stream_at};
use crate::given::{alone_to_the_end, shelf};

const PROMPT: &str = "One day, Anna";

fn long() -> Value {
    json!({"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": true,
        "stream": true})
}

#[test]
fn running_streams_end_and_new_ones_are_refused() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    // One place and many long requests, so that the end is far away when the shutdown begins.
    let one = RuntimeOptions { max_streams: NonZeroUsize::MIN, ..RuntimeOptions::default() };
    let mut server = shelf.serve_with("tiny", one, ServerOptions::default());
    let expected = alone_to_the_end(&cartridge, PROMPT, 400);
    std::thread::scope(|scope| {
        let at = server.address;
        let streams: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || Streamed::read(stream_at(at, "/v1/completions", &long()))))
            .collect();
        server.wait_until("all requests", |state| {
            state["streams"].as_u64().unwrap() + state["queued"].as_u64().unwrap() == 8
        });
        server.begin_shutdown();
        let refused = loop {
            let answer = post(
                &server,
                "/v1/completions",
                &json!({"prompt": "a", "max_tokens": 1, "model": 7}),
            );
            // Before the drain begins, the request is refused for what it says.
            if answer.status != 400 {
                break answer;
            }
        };
        let code = refused.error()["code"].clone();
        assert_eq!((refused.status, code), (503, json!("shutting_down")));
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(get(&server, "/healthz").json()["status"], json!("draining"));
        for stream in streams {
            let streamed = stream.join().unwrap();
            assert!(streamed.done && streamed.error.is_none());
            assert_eq!(streamed.text, expected);
        }
    });
    assert_eq!(server.join().cut_off, 0);
}

#[test]
fn a_stream_over_the_limit_is_closed_with_an_error() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let limits = ServerOptions { shutdown_limit: Duration::ZERO, ..ServerOptions::default() };
    let mut server = shelf.serve_with("tiny", RuntimeOptions::default(), limits);
    let mut events = stream(&server, "/v1/completions", &long());
    let first = events.next().unwrap();
    server.begin_shutdown();
    let streamed = Streamed::read(std::iter::once(first).chain(events));
    assert!(!streamed.done);
    assert_eq!(streamed.error.unwrap()["code"], json!("shutting_down"));
    assert_eq!(server.join().cut_off, 1);
}
