//! Cartridges that there is no memory for, and those that take the place of what runs.

use std::sync::Arc;

use cart_engine::runtime::{Runtime, RuntimeError, RuntimeOptions};
use cart_engine::swap::MemoryAccount;
use cart_format::{Probe, ProbeStep, TokenLogprob};
use cart_server::ServerOptions;
use cart_store::Cartridge;
use serde_json::{Value, json};

use crate::client::{Streamed, post, remembering, stream};
use crate::given::{Server, Shelf, agent, alone_to_the_end, shelf};

const CHANGED: &str = "model.layers.1.mlp.down_proj.weight";
const OTHER: &str = "model.layers.2.mlp.down_proj.weight";

fn bytes(cartridge: &Cartridge) -> u64 {
    cartridge.manifest().blobs.values().map(|blob| blob.size).sum()
}

/// A server over `one` with room for so many of it.
fn serve(shelf: &Shelf, times: f64) -> Server {
    let budget = (bytes(&shelf.open("one")) as f64 * times) as u64;
    let account = Arc::new(MemoryAccount::new(Some(budget)));
    let options = RuntimeOptions { account, ..RuntimeOptions::default() };
    shelf.serve_with("one", options, ServerOptions::default())
}

fn ask(tokens: u64) -> Value {
    json!({"prompt": "One day, Anna", "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "stream": true})
}

/// Whether the weights of a cartridge are mapped by this process.
fn is_mapped(cartridge: &Cartridge, tensor: &str) -> bool {
    let blob = cartridge.manifest().model.tensors[tensor].blob;
    let path = cartridge.locate(&blob).unwrap().path.to_string_lossy().into_owned();
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(&path)
}

#[test]
fn a_cartridge_that_does_not_fit_beside_what_runs_is_refused_with_the_figures() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    shelf.without(CHANGED, "two");
    shelf.recommit("again", &one, |commit| commit.message = "the same weights".to_owned());
    let server = serve(&shelf, 1.5);
    let refused = post(&server, "/cart/swap", &json!({"ref": "two"}));
    assert_eq!((refused.status, &refused.error()["code"]), (422, &json!("no_room")));
    let said = refused.error()["message"].as_str().unwrap().to_owned();
    let whole = format!("{:.1} MiB", bytes(&one) as f64 / f64::from(1 << 20));
    assert!(said.contains(&whole) && said.contains("stop_first"), "{said}");
    assert_eq!(server.state()["active"]["generation"], json!(1));
    // Of one with the same weights only the memory counts.
    assert_eq!(post(&server, "/cart/swap", &json!({"ref": "again"})).status, 200);
}

#[test]
fn what_could_be_rolled_back_to_makes_room_for_what_comes() {
    let shelf = shelf();
    shelf.tiny("one");
    shelf.without(CHANGED, "two");
    shelf.without(OTHER, "three");
    let server = serve(&shelf, 2.5);
    assert_eq!(post(&server, "/cart/swap", &json!({"ref": "two"})).status, 200);
    assert_eq!(server.state()["rollback_to"], json!(1));
    let answer = post(&server, "/cart/swap", &json!({"ref": "three"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let state = server.state();
    assert_eq!((&state["active"]["name"], &state["rollback_to"]), (&json!("three"), &json!(2)));
}

#[test]
fn in_the_place_of_what_runs_nothing_is_dropped() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let two = shelf.without(CHANGED, "two");
    let expected = [
        alone_to_the_end(&one, "One day, Anna", 120),
        alone_to_the_end(&two, "One day, Anna", 120),
    ];
    let server = serve(&shelf, 1.5);
    let mut running = stream(&server, "/v1/completions", &ask(120));
    let first: Vec<String> = running.by_ref().take(2).collect();
    let body = json!({"ref": "two", "stop_first": true});
    std::thread::scope(|scope| {
        let report = scope.spawn(|| post(&server, "/cart/swap", &body));
        server.wait_until("the swap", |state| !state["swap"].is_null());
        let waiting: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| Streamed::read(stream(&server, "/v1/completions", &ask(120)))))
            .collect();
        let running = Streamed::read(first.into_iter().chain(running));
        assert!(running.done && running.error.is_none(), "{running:?}");
        assert_eq!(running.text, expected[0]);
        let report = report.join().unwrap();
        assert_eq!(report.status, 200, "{}", report.body);
        let report = report.json();
        assert_eq!(
            (&report["from"]["name"], &report["to"]["generation"]),
            (&json!("one"), &json!(2))
        );
        assert_eq!(report["streams_dropped"], json!(0));
        for waiting in waiting {
            let streamed = waiting.join().unwrap();
            assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
            assert!(expected.contains(&streamed.text), "{streamed:?}");
        }
    });
    let after = Streamed::read(stream(&server, "/v1/completions", &ask(120)));
    assert_eq!(after.text, expected[1]);
    let state = server.state();
    assert_eq!((&state["rollback_to"], &state["ended"]["failed"]), (&Value::Null, &json!(0)));
    assert!(!is_mapped(&one, CHANGED) && is_mapped(&two, CHANGED));
    let refused = post(&server, "/cart/rollback", &json!({}));
    assert_eq!(refused.error()["code"], json!("nothing_to_roll_back_to"));
}

#[test]
fn where_the_new_one_fails_in_its_place_the_old_one_comes_back_with_its_memory() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let two = shelf.without(CHANGED, "two");
    let tokens = agent(&two).tokenizer().unwrap().encode_prompt("One day").unwrap();
    let wrong = Probe {
        prompt: "One day".to_owned(),
        token_ids: tokens,
        steps: vec![ProbeStep { top: vec![TokenLogprob { token: 5, logprob: -0.01 }] }],
        tolerance: 0.25,
    };
    shelf.recommit("wrong", &two, |commit| commit.probes = vec![wrong]);
    shelf.damaged(OTHER, "damaged");
    let expected = alone_to_the_end(&one, "One day, Anna", 40);
    let server = serve(&shelf, 1.5);
    let before = remembering(&server);
    for (name, code) in [("wrong", "probe_failed"), ("damaged", "verification_failed")] {
        let body = json!({"ref": name, "stop_first": true});
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| Streamed::read(stream(&server, "/v1/completions", &ask(40))));
            let refused = post(&server, "/cart/swap", &body);
            assert_eq!((refused.status, &refused.error()["code"]), (422, &json!(code)));
            let waiting = waiting.join().unwrap();
            assert!(waiting.done && waiting.error.is_none(), "{waiting:?}");
            assert_eq!(waiting.text, expected);
        });
        server.wait_until("the old cartridge", |state| state["active"]["state"] == json!("active"));
        let state = server.state();
        assert_eq!((&state["active"]["generation"], &state["memory"]), (&json!(1), &before));
    }
}

#[test]
fn streams_can_not_go_over_to_what_is_loaded_after_theirs_is_gone() {
    let shelf = shelf();
    shelf.tiny("one");
    shelf.without(CHANGED, "two");
    let server = serve(&shelf, 1.5);
    let body = json!({"ref": "two", "stop_first": true, "in_flight": "boundary"});
    let refused = post(&server, "/cart/swap", &body);
    assert_eq!((refused.status, &refused.error()["code"]), (422, &json!("stop_first_in_flight")));
    assert!(refused.error()["message"].to_string().contains("`finish`"));
}

#[test]
fn a_first_cartridge_over_the_budget_does_not_start() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let account = Arc::new(MemoryAccount::new(Some(bytes(&one) - 1)));
    let options = RuntimeOptions { account, ..RuntimeOptions::default() };
    let refused = Runtime::start("one", one, options).unwrap_err();
    assert!(matches!(refused, RuntimeError::Room { .. }), "{refused}");
    assert!(refused.to_string().contains("`one` takes"), "{refused}");
}
