//! The server over loopback: the real binary, OpenAI's paths, streams, and swaps under them.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, Server, damage, fixture, schemas};
use serde_json::{Value, json};

/// A store with the small model as `tiny`, and as `tiny:told` with a memory.
fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let fact = "The code of the red boat is 4821.";
    cart.ok(["run", "tiny", "-p", fact, "-n", "0", "--memory", "--save", "tiny:told"]);
    cart
}

fn ask(tokens: u64) -> Value {
    json!({ "prompt": "One day, Anna", "max_tokens": tokens, "temperature": 0 })
}

/// What runs: name, id and generation.
fn running(server: &Server) -> Vec<Value> {
    let active = server.get_json("/cart/state")["active"].clone();
    ["name", "manifest", "generation"].map(|field| active[field].clone()).to_vec()
}

/// The text of a stream of completions, which must end as streams end.
fn streamed_text(body: &str) -> String {
    let data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, events) = data.split_last().unwrap();
    assert_eq!(*last, "[DONE]", "{body}");
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(events.iter().all(|event| event["error"].is_null()), "{body}");
    let text = |event: &Value| {
        let choice = &event["choices"][0];
        let delta = choice["text"].as_str().or(choice["delta"]["content"].as_str());
        delta.unwrap_or_default().to_owned()
    };
    events.iter().map(text).collect()
}

#[test]
fn a_server_answers_what_run_answers() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let run = cart.json(["run", "tiny", "-p", "One day, Anna", "-n", "20"]);
    let answer = server.post_json("/v1/completions", &ask(20));
    assert_eq!(answer["choices"][0]["text"], run["text"]);
    assert_eq!(answer["usage"]["completion_tokens"], run["token_ids"].as_array().unwrap().len());
    let mut streaming = ask(20);
    streaming["stream"] = json!(true);
    let (status, body) = server.post("/v1/completions", &streaming);
    assert_eq!((status, streamed_text(&body).as_str()), (200, run["text"].as_str().unwrap()));
    let chat =
        json!({ "messages": [{ "role": "user", "content": "My name is Vera." }], "max_tokens": 8 });
    let said = server.post_json("/v1/chat/completions", &chat);
    assert_eq!(said["choices"][0]["message"]["role"], "assistant");
    let models = server.get_json("/v1/models");
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(models["data"][0]["manifest"], cart.json(["inspect", "tiny"])["manifest"]);
    assert_eq!(server.get_json("/healthz")["status"], "ok");
    let (status, metrics) = server.get("/metrics");
    assert!(status == 200 && metrics.contains("# TYPE"), "{metrics}");
    assert!(server.stop().success());
}

#[test]
fn bad_requests_get_their_status_and_the_server_goes_on() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    for (path, body, status) in [
        ("/v1/completions", json!({ "max_tokens": 3 }), 400),
        ("/v1/completions", json!({ "prompt": "x", "temperature": -3 }), 400),
        ("/v1/completions", json!({ "prompt": "x", "max_tokens": "many" }), 400),
        ("/v1/chat/completions", json!({ "messages": [] }), 400),
        ("/v1/chat/completions", json!([1, 2]), 400),
        ("/v1/nothing", json!({}), 404),
        ("/v1/models", json!({}), 405),
        ("/cart/swap", json!({}), 400),
        ("/cart/swap", json!({ "ref": "none" }), 404),
    ] {
        let (found, answer) = server.post(path, &body);
        assert_eq!(found, status, "{path} {body}: {answer}");
        let error: Value = serde_json::from_str(&answer).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().len() > 10, "{answer}");
    }
    server.post_json("/v1/completions", &ask(2));
}

#[test]
fn a_swap_changes_the_cartridge_and_reports() {
    let cart = tiny();
    cart.ok(["probe", "tiny:told", "-p", "One day,"]);
    let server = Server::start(&cart, "tiny");
    let before = server.get_json("/cart/state");
    let report = cart.json(["swap", "tiny:told", "--server", server.url()]);
    assert_eq!(
        (&report["from"]["name"], &report["to"]["name"]),
        (&json!("tiny"), &json!("tiny:told"))
    );
    assert_eq!(report["probes_passed"], 1);
    assert_eq!(report["streams_dropped"], 0);
    assert!(report["memory_slots"].as_u64().unwrap() > 0);
    let after = server.get_json("/cart/state");
    assert_ne!(before["active"], after["active"]);
    assert_eq!(after["active"]["manifest"], report["to"]["manifest"]);
    let said = cart.ok(["swap", "tiny", "--server", server.url(), "--in-flight", "boundary"]);
    assert!(said.contains("swapped to tiny") && !said.contains('?'), "{said}");
    let mut answer =
        server.post_json("/cart/swap", &json!({ "ref": "tiny:told", "memory": "carry" }));
    answer["report"] = json!("cart.swap/1");
    schemas::check("report-swap", &answer);
    assert_eq!(answer["memory"], "carry");
}

#[test]
fn beyond_this_machine_a_swap_needs_the_admin_token() {
    let cart = tiny();
    let token = "a-secret-of-the-house";
    let listen = ["--listen", "0.0.0.0:0"];
    let server = Server::start_with(&cart, "tiny", &listen);
    let (status, said) = server.post("/cart/swap", &json!({ "ref": "tiny:told" }));
    assert!(status == 403 && said.contains("--admin-token"), "{status}: {said}");
    assert_eq!(server.post("/v1/completions", &ask(2)).0, 200);
    let arguments = [&listen[..], &["--admin-token", token]].concat();
    let server = Server::start_with(&cart, "tiny", &arguments);
    let swap = ["swap", "tiny:told", "--server", server.url()];
    let said = cart.refused(swap);
    assert!(said.contains("admin token"), "{said}");
    let said = cart.refused([&swap[..], &["--admin-token", "another-secret-here"]].concat());
    assert!(said.contains("another one"), "{said}");
    assert_eq!(running(&server)[2], 1);
    cart.json([&swap[..], &["--admin-token", token]].concat());
    assert_eq!(running(&server)[2], 2);
    let short = ["serve", "tiny", "--listen", "127.0.0.1:0", "--admin-token", "short"];
    let said = cart.refused_with_code(2, short);
    assert!(said.contains("16"), "{said}");
}

#[test]
fn a_swap_to_a_damaged_or_unfit_cartridge_is_refused() {
    let cart = tiny();
    cart.ok(["pack", &fixture("logits/llama-f32-tied"), "-t", "bare"]);
    let server = Server::start(&cart, "tiny");
    let state = running(&server);
    let manifest = cart.manifest("tiny:told");
    let memory = manifest["memory"]["state"].as_str().unwrap();
    damage::flip_bit(cart.blob(memory), 20, 1);
    let said = cart.refused(["swap", "tiny:told", "--server", server.url()]);
    assert!(said.contains("memory state") && said.contains("as it was"), "{said}");
    for unfit in ["bare", "no-such-name"] {
        cart.refused(["swap", unfit, "--server", server.url()]);
    }
    assert_eq!(running(&server), state);
    server.post_json("/v1/completions", &ask(4));
    damage::flip_bit(cart.blob(memory), 20, 1);
    cart.ok(["swap", "tiny:told", "--server", server.url()]);
    let said = cart.refused(["swap", "tiny", "--server", "http://127.0.0.1:1"]);
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn streams_go_on_under_swaps() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let expected = server.post_json("/v1/completions", &ask(60))["choices"][0]["text"].clone();
    let mut request = ask(60);
    request["stream"] = json!(true);
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let (status, body) = server.post("/v1/completions", &request);
                    (status, streamed_text(&body))
                })
            })
            .collect();
        for (index, mode) in ["finish", "boundary", "finish", "boundary"].into_iter().enumerate() {
            let to = if index % 2 == 0 { "tiny:told" } else { "tiny" };
            let report = cart.json(["swap", to, "--server", server.url(), "--in-flight", mode]);
            assert_eq!(report["streams_dropped"], 0);
        }
        for stream in streams {
            let (status, text) = stream.join().unwrap();
            // Both cartridges have the same weights, and memory is off: the text is the same across
            // every swap.
            assert_eq!((status, text.as_str()), (200, expected.as_str().unwrap()));
        }
    });
    assert!(server.stop().success());
}
