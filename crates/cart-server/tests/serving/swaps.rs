//! The cartridge changes while streams run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cart_engine::runtime::{RuntimeOptions, WatchOptions};
use cart_format::{Probe, ProbeStep, TokenLogprob};
use cart_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Streamed, post, remembering, stream};
use crate::given::{Server, agent, alone, raw, shelf};

const STREAMS: usize = 50;
const SWAPS: usize = 20;
const TOKENS: usize = 60;
/// Zero in the second cartridge.
const CHANGED: &str = "model.layers.1.mlp.down_proj.weight";
/// Zero in the damaged one, before a byte flips.
const DAMAGED: &str = "model.layers.2.mlp.down_proj.weight";

fn prompt(index: usize) -> String {
    let names = ["Anna", "Ben", "Tom", "Mia", "Leo"];
    format!("One day, {} went to the barn {index} times.", names[index % names.len()])
}

fn swap(server: &Server, body: &Value) -> Value {
    let answer = post(server, "/cart/swap", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// Streams until told to stop, and at least once.
fn keep_asking(server: &Server, index: usize, stop: &AtomicBool, seen: &Mutex<Vec<Streamed>>) {
    let body = json!({"prompt": prompt(index), "max_tokens": TOKENS, "temperature": 0,
        "stream": true});
    loop {
        let streamed = Streamed::read(stream(server, "/v1/completions", &body));
        seen.lock().unwrap().push(streamed);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn fifty_streams_and_twenty_swaps_leave_every_text_as_its_generation_gives_it_alone() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let two = shelf.without(CHANGED, "two");
    shelf.damaged(DAMAGED, "damaged");
    let server = shelf.serve("one");
    let expected: Vec<BTreeMap<String, String>> = (0..STREAMS)
        .map(|index| {
            let text = |of| alone(of, &raw(&prompt(index)), TOKENS);
            [(one.manifest_id().short(), text(&one)), (two.manifest_id().short(), text(&two))]
                .into()
        })
        .collect();
    assert!(
        expected.iter().any(|texts| {
            texts[&one.manifest_id().short()] != texts[&two.manifest_id().short()]
        })
    );

    let stop = AtomicBool::new(false);
    let seen: Vec<Mutex<Vec<Streamed>>> = (0..STREAMS).map(|_| Mutex::default()).collect();
    let mut pauses = Vec::new();
    let mut on_old = 0;
    std::thread::scope(|scope| {
        for (index, seen) in seen.iter().enumerate() {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || keep_asking(server, index, stop, seen));
        }
        server.wait_until("all streams", |state| state["streams"].as_u64().unwrap() > 40);
        for round in 0..SWAPS {
            if round == SWAPS / 2 {
                let refused = post(&server, "/cart/swap", &json!({"ref": "damaged"}));
                assert_eq!(refused.status, 422, "{}", refused.body);
                let error = refused.error();
                assert_eq!(error["code"], json!("verification_failed"));
                assert!(error["message"].as_str().unwrap().contains(DAMAGED), "{error}");
            }
            let name = if round % 2 == 0 { "two" } else { "one" };
            let report = swap(&server, &json!({"ref": name, "in_flight": "finish"}));
            assert_eq!(report["to"]["generation"], json!(round + 2));
            assert_eq!(report["streams_dropped"], json!(0));
            pauses.push(report["pause_ms"].as_f64().unwrap());
            on_old += report["streams_on_old"].as_u64().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });

    let mut texts = BTreeMap::<String, usize>::new();
    for (index, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
        for streamed in seen.lock().unwrap().iter() {
            assert!(streamed.done && streamed.error.is_none(), "stream {index}: {streamed:?}");
            assert_eq!(streamed.fingerprints.len(), 1, "one generation from first to last");
            let by = &streamed.fingerprints[0];
            assert_eq!(streamed.text, expected[by], "stream {index} by {by}");
            *texts.entry(by.clone()).or_default() += 1;
        }
    }
    assert_eq!(texts.len(), 2, "both cartridges answered: {texts:?}");
    assert!(on_old > 0, "no stream ran during a swap");
    let ended = &server.state()["ended"];
    assert_eq!((&ended["failed"], &ended["cancelled"]), (&json!(0), &json!(0)));
    pauses.sort_by(f64::total_cmp);
    println!(
        "streams by cartridge: {texts:?}; on the old generation at a swap: {on_old}; pause in ms: median {:.4}, most {:.4}",
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1]
    );
}

#[test]
fn at_the_boundary_a_stream_goes_on_with_the_new_cartridge_without_loss_or_repetition() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let two = shelf.without(CHANGED, "two");
    let server = shelf.serve("one");
    let text = prompt(0);
    let body = json!({"prompt": text, "max_tokens": 300, "temperature": 0, "ignore_eos": true,
        "stream": true});
    let mut events = stream(&server, "/v1/completions", &body);
    let first: Vec<String> = events.by_ref().take(5).collect();
    let report = swap(&server, &json!({"ref": "two", "in_flight": "boundary"}));
    assert_eq!((&report["streams_moved"], &report["streams_dropped"]), (&json!(1), &json!(0)));
    let streamed = Streamed::read(first.into_iter().chain(events));
    assert!(streamed.done, "{streamed:?}");
    let fingerprints = [one.manifest_id().short(), two.manifest_id().short()];
    assert_eq!(streamed.fingerprints, fingerprints);

    // Joined before the change, the text is the first cartridge's; after it, the second's answer to
    // everything before.
    let by_first: String = streamed
        .parts
        .iter()
        .filter(|part| part["system_fingerprint"] == json!(fingerprints[0]))
        .filter_map(|part| part["choices"][0]["text"].as_str())
        .collect();
    assert!(alone(&one, &raw(&text), 300).starts_with(&by_first));
    let rest = &streamed.text[by_first.len()..];
    let continued = alone(&two, &raw(&format!("{text}{by_first}")), 40);
    let common = continued.len().min(rest.len());
    assert!(common > 20 && continued[..common] == rest[..common], "{continued:?} and {rest:?}");
    assert_eq!(streamed.parts.last().unwrap()["cart"]["moved"], json!(1));
}

#[test]
fn a_rollback_brings_back_the_generation_before_with_its_memory() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    shelf.without(CHANGED, "two");
    let server = shelf.serve("one");
    let refused = post(&server, "/cart/rollback", &json!({}));
    assert_eq!(
        (refused.status, refused.error()["code"].clone()),
        (409, json!("nothing_to_roll_back_to"))
    );

    let before = remembering(&server);
    swap(&server, &json!({"ref": "two"}));
    assert_eq!(server.state()["memory"], Value::Null, "the new cartridge's own memory");
    assert_eq!(server.state()["rollback_to"], json!(1));

    let report = post(&server, "/cart/rollback", &json!({})).json();
    assert_eq!(report["to"]["manifest"], json!(one.manifest_id()));
    let state = server.state();
    assert_eq!((&state["active"]["generation"], &state["memory"]), (&json!(1), &before));
    server.wait_until("the other dropped", |state| {
        state["generations"].as_array().unwrap().len() == 1
    });
    let answer = post(&server, "/v1/completions", &json!({"prompt": "a", "max_tokens": 2})).json();
    assert_eq!(answer["cart"]["generation"], json!(1));
}

#[test]
fn memory_is_carried_within_its_space_and_refused_outside() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    shelf.without(CHANGED, "two");
    shelf.recommit("again", &one, |commit| commit.message = "the same weights".to_owned());
    let server = shelf.serve("one");
    let write = json!({"prompt": "The code of the red boat is 4821.", "max_tokens": 8,
        "temperature": 0, "memory": {"write": true}});
    post(&server, "/v1/completions", &write);
    // The prompt and the answer are observed one after the other, and an answer's last words only
    // when its stream has ended.
    server.wait_until("both observations", |state| {
        state["streams"] == 0 && state["memory"]["counters"]["observations"].as_u64() >= Some(2)
    });
    let before = server.state()["memory"].clone();

    let refused = post(&server, "/cart/swap", &json!({"ref": "two", "memory": "carry"}));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.error()["code"], json!("memory_of_another_space"));
    assert_eq!(server.state()["active"]["generation"], json!(1));

    let report = swap(&server, &json!({"ref": "again", "memory": "carry"}));
    assert!(report["memory_slots"].as_u64() > Some(0), "{report}");
    let state = server.state();
    assert_eq!((&state["active"]["generation"], &state["memory"]), (&json!(2), &before));
}

#[test]
fn a_golden_probe_that_fails_and_weights_that_are_not_finite_are_refused() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    // One value of 49,152, so that no look at a few texts is sure to meet it.
    shelf.changed("nan", CHANGED, |bytes| bytes[2 * 384 * 5 + 14..][..2].fill(0xff));
    let server = shelf.serve("one");
    let top = vec![TokenLogprob { token: 5, logprob: -0.01 }];
    let wrong = Probe {
        prompt: "One day, Anna".to_owned(),
        token_ids: vec![1, 2, 3],
        steps: vec![ProbeStep { top }],
        tolerance: 0.25,
    };
    shelf.recommit("wrong", &one, |commit| commit.probes = vec![wrong]);
    for (name, code) in [("wrong", "probe_failed"), ("nan", "weights_not_finite")] {
        let refused = post(&server, "/cart/swap", &json!({"ref": name}));
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.error()["code"], json!(code), "{}", refused.body);
        if name == "nan" {
            let said = refused.error()["message"].to_string();
            assert!(said.contains(CHANGED) && said.contains("[5, 7]"), "{said}");
        }
    }
    let state = server.state();
    assert_eq!((&state["active"]["generation"], &state["swap"]), (&json!(1), &Value::Null));
}

#[test]
fn a_server_that_listens_says_that_its_cartridge_is_active() {
    let shelf = shelf();
    shelf.tiny("one");
    let server = shelf.serve("one");
    let state = server.state();
    assert_eq!(state["active"]["state"], json!("active"));
    assert_eq!(state["generations"][0]["state"], json!("active"));
}

#[test]
fn where_nothing_is_watched_a_stream_that_fails_on_its_way_is_counted() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let agent = agent(&one);
    let poison = agent.tokenizer().unwrap().encode_prompt("#~").unwrap();
    shelf.overflowing("poison", &poison);
    let watch = WatchOptions { window: Duration::ZERO, ..WatchOptions::default() };
    let options = RuntimeOptions { watch, ..RuntimeOptions::default() };
    let server = shelf.serve_with("one", options, ServerOptions::default());
    let ask = |prompt: &str| {
        json!({"prompt": prompt, "max_tokens": 300, "temperature": 0, "ignore_eos": true,
            "stream": true})
    };
    let mut lost = stream(&server, "/v1/completions", &ask("One day, Anna saw #~"));
    let mut kept = stream(&server, "/v1/completions", &ask("One day, Anna"));
    let first: Vec<String> = lost.by_ref().take(2).collect();
    let others: Vec<String> = kept.by_ref().take(2).collect();
    let report = swap(&server, &json!({"ref": "poison", "in_flight": "boundary"}));
    assert_eq!((&report["streams_moved"], &report["streams_dropped"]), (&json!(2), &json!(1)));
    assert_eq!(server.state()["last_swap"]["streams_dropped"], json!(1));
    let lost = Streamed::read(first.into_iter().chain(lost));
    assert!(lost.error.is_some_and(|error| error.to_string().contains("not finite")));
    let kept = Streamed::read(others.into_iter().chain(kept));
    assert!(kept.done && kept.error.is_none(), "{kept:?}");
}

#[test]
fn streams_that_a_swap_is_told_to_end_hear_why() {
    let shelf = shelf();
    shelf.tiny("one");
    shelf.without(CHANGED, "two");
    let server = shelf.serve("one");
    let body = json!({"prompt": prompt(0), "max_tokens": 400, "temperature": 0, "ignore_eos": true,
        "stream": true});
    let mut events = stream(&server, "/v1/completions", &body);
    let first: Vec<String> = events.by_ref().take(3).collect();
    let report = swap(&server, &json!({"ref": "two", "in_flight": "abort"}));
    assert_eq!((&report["streams_aborted"], &report["streams_dropped"]), (&json!(1), &json!(0)));
    let streamed = Streamed::read(first.into_iter().chain(events));
    let error = streamed.error.as_ref().unwrap();
    assert_eq!(error["code"], json!("swapped"), "{streamed:?}");
    assert!(error["message"].as_str().unwrap().contains("two"), "{error}");
    assert!(!streamed.text.is_empty(), "what had been said stays");
    let next = post(&server, "/v1/completions", &json!({"prompt": prompt(0), "max_tokens": 3}));
    assert_eq!(next.status, 200, "{}", next.body);
}
