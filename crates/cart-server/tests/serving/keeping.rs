//! The memory changes under streams whose keys and values stay.

use serde_json::{Value, json};

use crate::client::{Streamed, post, stream};
use crate::given::{Server, Shelf, shelf, told};

const CHANGED: &str = "model.layers.1.mlp.down_proj.weight";
const QUESTION: &str = "The key of Tom is in";

/// A store with `one`, `again` (the same weights with a memory) and `two` (other weights).
fn given() -> Shelf {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let manifest = told(&shelf, &one);
    shelf.recommit("again", &one, |commit| commit.manifest = manifest);
    shelf.without(CHANGED, "two");
    shelf
}

fn ask(memory: &Value) -> Value {
    json!({"prompt": QUESTION, "max_tokens": 480, "temperature": 0, "ignore_eos": true,
        "stream": true, "memory": memory})
}

/// What a stream says that is swapped from one cartridge to another after a few tokens.
fn kept(server: &Server, to: &str, memory: &Value) -> Streamed {
    let mut events = stream(server, "/v1/completions", &ask(memory));
    let first: Vec<String> = events.by_ref().take(3).collect();
    let report = post(server, "/cart/swap", &json!({"ref": to, "in_flight": "keep"}));
    assert_eq!(report.status, 200, "{}", report.body);
    let report = report.json();
    assert_eq!((&report["in_flight"], &report["streams_moved"]), (&json!("keep"), &json!(1)));
    assert_eq!((&report["streams_on_old"], &report["streams_dropped"]), (&json!(0), &json!(0)));
    let streamed = Streamed::read(first.into_iter().chain(events));
    assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
    assert_eq!(streamed.parts.last().unwrap()["cart"]["moved"], json!(1));
    streamed
}

/// What a stream says that is let be.
fn alone(server: &Server, memory: &Value) -> Streamed {
    Streamed::read(stream(server, "/v1/completions", &ask(memory)))
}

#[test]
fn a_stream_keeps_what_it_has_read_and_was_recalled_while_the_memory_changes() {
    let shelf = given();
    let prefix = json!({"prefix": {"min_score": -1.0}});
    for (from, to, memory) in [("one", "again", &Value::Null), ("again", "one", &prefix)] {
        let server = shelf.serve(from);
        let expected = alone(&server, memory).text;
        let streamed = kept(&server, to, memory);
        assert_eq!(streamed.text, expected);
        assert_eq!(streamed.fingerprints.len(), 2, "one manifest after the other");
        if memory.is_null() {
            continue;
        }
        let read = &streamed.parts.last().unwrap()["cart"]["memory"]["prefix_tokens"];
        assert!(read.as_u64() > Some(0), "{streamed:?}");
        let forgetful = alone(&shelf.serve("one"), memory).text;
        assert_ne!(forgetful, expected, "what was recalled says nothing");
    }
}

#[test]
fn a_kept_stream_asks_and_tells_the_new_memory() {
    let shelf = given();
    let server = shelf.serve("one");
    let memory = json!({"knn": {"scope": "all", "min_cosine": 0.0}, "write": true});
    let streamed = kept(&server, "again", &memory);
    let used = streamed.parts.last().unwrap()["cart"]["memory"].clone();
    assert!(used["knn_steps"].as_u64() > Some(0), "{used}");
    let written = used["written"].as_u64().unwrap();
    // What was said while the swap was prepared went to the old memory.
    server.wait_until("what the stream told after the two things before", |state| {
        let told = state["memory"]["counters"]["observations"].as_u64();
        state["streams"] == 0 && told > Some(2) && told <= Some(2 + written)
    });
}

#[test]
fn keys_and_values_of_other_weights_are_refused_and_the_stream_goes_on() {
    let shelf = given();
    let server = shelf.serve("one");
    let expected = alone(&server, &Value::Null).text;
    let mut events = stream(&server, "/v1/completions", &ask(&Value::Null));
    let first: Vec<String> = events.by_ref().take(2).collect();
    let refused = post(&server, "/cart/swap", &json!({"ref": "two", "in_flight": "keep"}));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.error()["code"], json!("other_weights"));
    assert!(refused.body.contains("boundary"), "{}", refused.body);
    let streamed = Streamed::read(first.into_iter().chain(events));
    assert!(streamed.done && streamed.text == expected, "{streamed:?}");
    assert_eq!(streamed.fingerprints.len(), 1);

    // Nor on the way back.
    post(&server, "/cart/swap", &json!({"ref": "two"}));
    let refused = post(&server, "/cart/rollback", &json!({"in_flight": "keep"}));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.error()["code"], json!("other_weights"));
    assert_eq!(server.state()["active"]["name"], json!("two"));
    let back = post(&server, "/cart/rollback", &json!({})).json();
    assert_eq!(back["to"]["name"], json!("one"), "{back}");
}

#[test]
fn a_rollback_keeps_streams_of_the_same_weights() {
    let shelf = given();
    let server = shelf.serve("one");
    let expected = alone(&server, &Value::Null).text;
    post(&server, "/cart/swap", &json!({"ref": "again"}));
    let mut events = stream(&server, "/v1/completions", &ask(&Value::Null));
    let first: Vec<String> = events.by_ref().take(3).collect();
    let report = post(&server, "/cart/rollback", &json!({"in_flight": "keep"})).json();
    assert_eq!(report["streams_moved"], json!(1), "{report}");
    let streamed = Streamed::read(first.into_iter().chain(events));
    assert!(streamed.done && streamed.text == expected, "{streamed:?}");
}
