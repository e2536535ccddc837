//! Cartridges that fail only when they run: the watch leaves them by itself.

use std::time::Duration;

use cart_engine::runtime::{CollapseOptions, RuntimeOptions, WatchOptions};
use cart_format::{Probe, ProbeStep, TokenLogprob};
use cart_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Streamed, get, post, stream};
use crate::given::{Server, Shelf, agent, alone_to_the_end, overwrite, shelf, told};

const CHANGED: &str = "model.layers.1.mlp.down_proj.weight";
/// What the poisoned cartridge can't read.
const POISON: &str = "#~";

fn serve(shelf: &Shelf, options: WatchOptions) -> Server {
    serve_first(shelf, "one", options)
}

fn serve_first(shelf: &Shelf, name: &str, watch: WatchOptions) -> Server {
    let journal = Some(shelf.path("journal"));
    let options = RuntimeOptions { watch, journal, ..RuntimeOptions::default() };
    shelf.serve_with(name, options, ServerOptions::default())
}

/// A store with `one`, and `poison`, which computes as it should until it reads something.
fn poisoned() -> Shelf {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let poison = agent(&one).tokenizer().unwrap().encode_prompt(POISON).unwrap();
    shelf.overflowing("poison", &poison);
    shelf
}

fn ask(prompt: &str, tokens: u64) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "stream": true})
}

fn swap(server: &Server, body: &Value) -> Value {
    let answer = post(server, "/cart/swap", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// The last rollback, when its streams have arrived and its memory has been told.
fn recovered(server: &Server) -> Value {
    server.wait_until("the rollback", |state| {
        let last = &state["watch"]["last_rollback"];
        last["recover_ms"].is_number() && last["memory"].is_object()
    });
    let state = server.state();
    assert_eq!(state["active"]["generation"], json!(1), "{state}");
    assert_eq!(state["watch"]["watching"], Value::Null);
    assert_eq!(state["rollback_to"], Value::Null);
    state["watch"]["last_rollback"].clone()
}

#[test]
fn streams_that_get_no_numbers_go_on_with_the_cartridge_before() {
    let shelf = poisoned();
    let prompt = format!("One day, Anna saw {POISON}");
    let expected = alone_to_the_end(&shelf.open("one"), &prompt, 200);
    let server = serve(&shelf, WatchOptions::default());
    let mut moved = stream(&server, "/v1/completions", &ask(&prompt, 200));
    let mut other = stream(&server, "/v1/completions", &ask("One day, Anna", 200));
    let first: Vec<String> = moved.by_ref().take(2).collect();
    let others: Vec<String> = other.by_ref().take(2).collect();
    let report = swap(&server, &json!({"ref": "poison", "in_flight": "boundary"}));
    let said = report["rolled_back"].as_str().unwrap();
    assert!(said.contains("not finite"), "{said}");

    // It read its text on the other cartridge, got nothing there, and read it again on the first.
    let moved = Streamed::read(first.into_iter().chain(moved));
    assert!(moved.done && moved.error.is_none(), "{moved:?}");
    assert_eq!(moved.text, expected);
    assert_eq!(moved.parts.last().unwrap()["cart"]["moved"], json!(2));
    let other = Streamed::read(others.into_iter().chain(other));
    assert!(other.done && other.error.is_none(), "{other:?}");
    // A stream's last event comes before the state that counts it.
    server.wait_until("the streams' arrival and end", |state| {
        state["watch"]["last_rollback"]["recover_ms"].is_number()
            && state["ended"]["finished"] == json!(2)
    });
    let state = server.state();
    assert_eq!(state["active"]["generation"], json!(1));
    let last = &state["watch"]["last_rollback"];
    assert_eq!(last["trip"]["kind"], json!("not_finite"));
    assert_eq!((&last["streams_moved"], &last["streams_dropped"]), (&json!(2), &json!(0)));
    assert_eq!(state["watch"]["trips"]["not_finite"], json!(1));
    assert_eq!((&state["ended"]["failed"], &state["ended"]["finished"]), (&json!(0), &json!(2)));
    let metrics = get(&server, "/metrics").body;
    assert!(metrics.contains("cart_watch_rollbacks_total{reason=\"not_finite\"} 1\n"), "{metrics}");
    assert!(metrics.contains("cart_watch_recovery_seconds "), "{metrics}");
}

#[test]
fn a_request_that_comes_while_a_cartridge_fails_is_answered_as_if_it_had_never_run() {
    let shelf = poisoned();
    let prompt = format!("One day, Anna saw {POISON}");
    let expected = alone_to_the_end(&shelf.open("one"), &prompt, 40);
    let server = serve(&shelf, WatchOptions::default());
    swap(&server, &json!({"ref": "poison"}));
    let well = Streamed::read(stream(&server, "/v1/completions", &ask("One day, Anna", 8)));
    assert!(well.done && well.error.is_none(), "{well:?}");
    assert_eq!(server.state()["watch"]["watching"]["generation"], json!(2));

    let mut request = ask(&prompt, 40);
    request["memory"] = json!({"write": true});
    let told = Streamed::read(stream(&server, "/v1/completions", &request));
    assert!(told.done && told.error.is_none(), "{told:?}");
    assert_eq!(told.text, expected);
    assert_eq!(told.parts.last().unwrap()["cart"]["moved"], json!(1));
    let state = server.state();
    assert_eq!(state["active"]["generation"], json!(1));
    // Its prompt is told to the memory of the cartridge that answered.
    server.wait_until("the prompt is remembered", |state| {
        state["memory"]["counters"]["observations"].as_u64() >= Some(1)
    });
}

#[test]
fn what_a_cartridge_is_told_before_it_fails_is_not_lost() {
    let shelf = poisoned();
    let server = serve(&shelf, WatchOptions::default());
    swap(&server, &json!({"ref": "poison"}));
    let fact = "The code of the red boat is 4821.";
    for memory in [json!({"write": true}), json!({"write": true, "session": "anna"})] {
        post(
            &server,
            "/v1/completions",
            &json!({"prompt": fact, "max_tokens": 12, "temperature": 0, "memory": memory}),
        );
    }
    server.wait_until("the fact is remembered", |state| {
        state["streams"] == 0 && state["memory"]["counters"]["observations"].as_u64() >= Some(1)
    });
    let poison = format!("One day, {POISON}");
    let answer = Streamed::read(stream(&server, "/v1/completions", &ask(&poison, 4)));
    assert!(answer.done && answer.error.is_none(), "{answer:?}");

    let last = recovered(&server);
    let memory = &last["memory"];
    assert_eq!(memory["failures"], json!([]), "{last}");
    assert_eq!(memory["texts"], memory["told"], "{last}");
    assert!(memory["told"].as_u64() >= Some(2), "of both conversations: {last}");
    let journals = memory["journals"].as_array().unwrap();
    assert_eq!(journals.len(), 2, "{last}");
    for journal in journals {
        assert!(std::fs::metadata(journal.as_str().unwrap()).unwrap().len() > 100);
    }
    let recalled = post(
        &server,
        "/v1/completions",
        &json!({"prompt": "The code of the red boat is", "max_tokens": 4, "temperature": 0,
            "memory": {"prefix": {"min_score": -1.0}, "session": "anna"}}),
    );
    let read = recalled.json()["cart"]["memory"]["read"].to_string();
    assert!(read.contains("4821"), "{read}");
}

#[test]
fn an_output_that_collapses_brings_back_the_cartridge_before() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let token = agent(&one).tokenizer().unwrap().encode_prompt("barn").unwrap();
    shelf.collapsed("collapsed", *token.last().unwrap());
    let collapse = CollapseOptions { tokens: 16.try_into().unwrap(), ..CollapseOptions::default() };
    let server = serve(&shelf, WatchOptions { collapse, ..WatchOptions::default() });
    let ask = |seed: u64| {
        json!({"prompt": "One day, Anna", "max_tokens": 40, "temperature": 1, "seed": seed,
            "ignore_eos": true, "stream": true})
    };
    swap(&server, &json!({"ref": "collapsed"}));
    for seed in 0..2 {
        let stuck = Streamed::read(stream(&server, "/v1/completions", &ask(seed)));
        assert!(stuck.done && stuck.error.is_none(), "{stuck:?}");
    }
    // Two are not enough to leave it.
    server.wait_until("two verdicts", |state| state["watch"]["watching"]["collapsed"] == json!(2));
    let third = Streamed::read(stream(&server, "/v1/completions", &ask(2)));
    assert!(third.done && third.error.is_none(), "{third:?}");
    server.wait_until("the rollback", |state| state["watch"]["trips"]["collapsed"] == json!(1));
    let state = server.state();
    let last = &state["watch"]["last_rollback"];
    assert_eq!(state["active"]["generation"], json!(1), "{last}");
    assert_eq!((&last["trip"]["streams"], &last["trip"]["judged"]), (&json!(3), &json!(3)));
    assert!(last["trip"]["entropy"].as_f64().unwrap() < 0.1, "{last}");
    assert!(last["reason"].as_str().unwrap().contains("collapsed"), "{last}");
}

#[test]
fn what_collapses_on_both_cartridges_is_no_reason_to_go_back() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let token = agent(&one).tokenizer().unwrap().encode_prompt("barn").unwrap();
    let collapsed = shelf.collapsed("collapsed", *token.last().unwrap());
    shelf.recommit("again", &collapsed, |commit| commit.message = "the same weights".to_owned());
    let collapse = CollapseOptions { tokens: 16.try_into().unwrap(), ..CollapseOptions::default() };
    let watch = WatchOptions { collapse, ..WatchOptions::default() };
    let server = serve_first(&shelf, "collapsed", watch);
    swap(&server, &json!({"ref": "again"}));
    for _ in 0..4 {
        let stuck = Streamed::read(stream(&server, "/v1/completions", &ask("One day, Anna", 40)));
        assert!(stuck.done && stuck.error.is_none(), "{stuck:?}");
    }
    server
        .wait_until("four comparisons", |state| state["watch"]["watching"]["cleared"] == json!(4));
    let state = server.state();
    assert_eq!(state["active"]["generation"], json!(2), "{}", state["watch"]);
    assert_eq!(state["watch"]["watching"]["collapsed"], json!(0));
}

#[test]
fn weights_that_change_under_a_cartridge_move_its_probes() {
    for golden in [true, false] {
        let shelf = shelf();
        shelf.tiny("one");
        let mut two = shelf.without(CHANGED, "two");
        if golden {
            let probe = cart_engine::record_probe(&agent(&two), "One day, Anna", 3, 3).unwrap();
            shelf.recommit("probed", &two, |commit| commit.probes = vec![probe]);
            two = shelf.open("probed");
        }
        let probes_every = Duration::from_millis(20);
        let server = serve(&shelf, WatchOptions { probes_every, ..WatchOptions::default() });
        swap(&server, &json!({"ref": if golden { "probed" } else { "two" }}));
        server.wait_until("probes", |state| {
            state["watch"]["watching"]["probe_runs"].as_u64() >= Some(2)
        });
        assert_eq!(server.state()["watch"]["watching"]["largest_shift"], json!(0.0));
        overwrite(&two, "model.layers.2.mlp.down_proj.weight");
        server.wait_until("the rollback", |state| {
            state["watch"]["trips"]["drifted"].as_u64() == Some(1)
        });
        let state = server.state();
        assert_eq!(state["active"]["generation"], json!(1), "{}", state["watch"]);
        assert_eq!(state["watch"]["last_rollback"]["trip"]["kind"], json!("drifted"));
    }
}

#[test]
fn another_memory_of_the_same_weights_is_held_to_what_they_gave_first() {
    let shelf = shelf();
    shelf.tiny("one");
    let two = shelf.without(CHANGED, "two");
    let manifest = told(&shelf, &two);
    shelf.recommit("told", &two, |commit| commit.manifest = manifest);
    let window = Duration::from_millis(200);
    let probes_every = Duration::from_millis(20);
    let server = serve(&shelf, WatchOptions { window, probes_every, ..WatchOptions::default() });
    swap(&server, &json!({"ref": "two"}));
    server.wait_until("the end of the window", |state| state["watch"]["watching"].is_null());
    overwrite(&two, "model.layers.2.mlp.down_proj.weight");
    swap(&server, &json!({"ref": "told"}));
    server
        .wait_until("the rollback", |state| state["watch"]["trips"]["drifted"].as_u64() == Some(1));
    assert_eq!(server.state()["active"]["name"], json!("two"));
}

#[test]
fn a_cartridge_that_does_well_is_watched_for_its_time_and_stays() {
    let shelf = shelf();
    shelf.tiny("one");
    shelf.without(CHANGED, "two");
    let window = Duration::from_millis(300);
    let server = serve(&shelf, WatchOptions { window, ..WatchOptions::default() });
    swap(&server, &json!({"ref": "two"}));
    assert_eq!(server.state()["watch"]["watching"]["window_seconds"], json!(0.3));
    let streamed = Streamed::read(stream(&server, "/v1/completions", &ask("One day, Anna", 80)));
    assert!(streamed.done && streamed.error.is_none());
    server.wait_until("the end of the window", |state| state["watch"]["watching"].is_null());
    let state = server.state();
    assert_eq!((&state["active"]["generation"], &state["rollback_to"]), (&json!(2), &json!(1)));
    assert_eq!(state["watch"]["last_rollback"], Value::Null);
}

#[test]
fn a_rollback_that_is_asked_for_takes_along_what_was_told_since() {
    let shelf = shelf();
    shelf.tiny("one");
    shelf.without(CHANGED, "two");
    let server = serve(&shelf, WatchOptions::default());
    swap(&server, &json!({"ref": "two"}));
    post(
        &server,
        "/v1/completions",
        &json!({"prompt": "The code of the red boat is 4821.", "max_tokens": 8, "temperature": 0,
            "memory": {"write": true}}),
    );
    server.wait_until("both observations", |state| {
        state["streams"] == 0 && state["memory"]["counters"]["observations"].as_u64() >= Some(2)
    });
    assert_eq!(post(&server, "/cart/rollback", &json!({})).status, 200);
    let last = recovered(&server);
    assert_eq!((&last["trip"], &last["memory"]["texts"]), (&Value::Null, &json!(1)), "{last}");
    assert_eq!((&last["memory"]["told"], &last["memory"]["said"]), (&json!(1), &json!(1)));
    let recalled = post(
        &server,
        "/v1/completions",
        &json!({"prompt": "The code of the red boat is", "max_tokens": 4, "temperature": 0,
            "memory": {"prefix": {"min_score": -1.0}}}),
    );
    let read = recalled.json()["cart"]["memory"]["read"].to_string();
    assert!(read.contains("4821"), "{read}");
}

#[test]
fn probes_that_fail_before_activation_are_no_matter_for_the_watch() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let tokens = agent(&one).tokenizer().unwrap().encode_prompt("One day").unwrap();
    let wrong = Probe {
        prompt: "One day".to_owned(),
        token_ids: tokens,
        steps: vec![ProbeStep { top: vec![TokenLogprob { token: 5, logprob: -0.01 }] }],
        tolerance: 0.25,
    };
    shelf.recommit("wrong", &one, |commit| commit.probes = vec![wrong]);
    let server = serve(&shelf, WatchOptions::default());
    let refused = post(&server, "/cart/swap", &json!({"ref": "wrong"}));
    assert_eq!((refused.status, &refused.error()["code"]), (422, &json!("probe_failed")));
    let state = server.state();
    assert_eq!(state["watch"]["trips"], json!({"not_finite": 0, "collapsed": 0, "drifted": 0}));
    assert_eq!(state["active"]["generation"], json!(1));
}
