//! A server that is told to end lets its streams end first, within a limit.

use std::time::Duration;

use cart_engine::runtime::RuntimeOptions;
use cart_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Streamed, get, post, stream};
use crate::given::{alone, raw, shelf};

const PROMPT: &str = "One day, Anna";

fn long() -> Value {
    json!({"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": true,
        "stream": true})
}

#[test]
fn running_streams_end_and_new_ones_are_refused() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    let mut server = shelf.serve("tiny");
    let body = json!({"prompt": PROMPT, "max_tokens": 200, "temperature": 0, "stream": true});
    let mut events = stream(&server, "/v1/completions", &body);
    let first = events.next().unwrap();
    server.begin_shutdown();
    let mut refused = None;
    while refused.is_none() && get(&server, "/healthz").json()["status"] != json!("ok") {
        refused = Some(post(&server, "/v1/completions", &body));
    }
    if let Some(refused) = refused {
        assert_eq!(
            (refused.status, refused.error()["code"].clone()),
            (503, json!("shutting_down"))
        );
        assert_eq!(refused.headers["retry-after"], "1");
    }
    let streamed = Streamed::read(std::iter::once(first).chain(events));
    assert!(streamed.done);
    assert_eq!(streamed.text, alone(&cartridge, &raw(PROMPT), 200));
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
