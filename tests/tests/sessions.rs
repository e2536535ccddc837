//! Sessions by name that survive the server: the real binary, ended, killed and started again.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use cart_tests::{Cart, Server, damage, fixture};
use serde_json::{Value, json};

const FACT: &str = "The code of the red boat is 4821.";
const QUESTION: &str = "The code of the red boat is";

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

fn serve(cart: &Cart, arguments: &[&str]) -> Server {
    let sessions = ["--listen", "127.0.0.1:0", "--sessions"];
    Server::start_with(cart, "tiny", &[&sessions[..], arguments].concat())
}

fn told(session: &str, text: &str) -> Value {
    json!({ "prompt": text, "max_tokens": 1, "temperature": 0,
        "memory": { "write": true, "session": session } })
}

/// The texts that a question recalls in a session.
fn recalled(server: &Server, session: &str) -> String {
    let memory = json!({ "prefix": { "top_k": 8, "min_score": -1.0 }, "session": session });
    let body = json!({ "prompt": QUESTION, "max_tokens": 1, "temperature": 0, "memory": memory });
    server.post_json("/v1/completions", &body)["cart"]["memory"]["read"].to_string()
}

/// The names of the sessions that are saved.
fn names(server: &Server) -> Vec<String> {
    let listed = server.get_json("/cart/sessions");
    let sessions = listed["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["session"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_was_acknowledged_in_a_session_is_there_after_a_kill() {
    let cart = tiny();
    let server = serve(&cart, &[]);
    for (session, text) in [("anna", FACT), ("ben & co/1", "The name of the cat is Mia.")] {
        server.post_json("/v1/completions", &told(session, text));
    }
    // As a stream too: what comes before [DONE] is saved.
    let mut streamed = told("carla", "The map of Tom is in box 31.");
    streamed["stream"] = json!(true);
    let (status, body) = server.post("/v1/completions", &streamed);
    assert!(status == 200 && body.ends_with("data: [DONE]\n\n"), "{body}");
    server.kill();

    let server = serve(&cart, &[]);
    assert_eq!(names(&server), ["anna", "ben & co/1", "carla"]);
    assert!(recalled(&server, "anna").contains("4821"));
    assert!(!recalled(&server, "ben & co/1").contains("4821"));
    let found = server.get_json("/cart/sessions/anna");
    assert!(found["remembers"].to_string().contains("4821"), "{found}");
    assert!(found["session"]["slots"].as_u64() > Some(0), "{found}");
    // It goes on, and is saved again.
    server.post_json("/v1/completions", &told("anna", "The key of Anna is in box 12."));
    let before = found["session"]["manifest"].clone();
    let found = server.get_json("/cart/sessions/anna");
    assert_ne!(found["session"]["manifest"], before);
    let remembered = found["remembers"].to_string();
    assert!(remembered.contains("4821") && remembered.contains("box 12"), "{remembered}");
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("cart_session_saves_total{outcome=\"saved\"} 1\n"), "{metrics}");
    assert!(server.stop().success());
    cart.ok(["fsck"]);
}

#[test]
fn what_is_remembered_outside_of_sessions_survives_too() {
    let cart = tiny();
    let server = serve(&cart, &[]);
    let mut body = told("", FACT);
    body["memory"] = json!({ "write": true });
    server.post_json("/v1/completions", &body);
    server.kill();
    let server = serve(&cart, &[]);
    let memory = server.get_json("/cart/state")["memory"].clone();
    assert!(memory["stm"]["slots"].as_u64() > Some(0), "{memory}");
    assert!(names(&server).is_empty());
}

#[test]
fn a_session_that_is_deleted_or_has_expired_is_gone() {
    let cart = tiny();
    let server = serve(&cart, &[]);
    for session in ["anna", "ben"] {
        server.post_json("/v1/completions", &told(session, FACT));
    }
    let (status, said) = server.delete("/cart/sessions/anna");
    assert_eq!(status, 200, "{said}");
    assert_eq!(names(&server), ["ben"]);
    assert!(!recalled(&server, "anna").contains("4821"));
    for (status, said) in [server.delete("/cart/sessions/anna"), server.get("/cart/sessions/anna")]
    {
        assert!(status == 404 && said.contains("session_not_found"), "{status}: {said}");
    }
    assert!(server.stop().success());
    std::thread::sleep(Duration::from_millis(1100));
    let server = serve(&cart, &["--session-expiry", "1"]);
    while !names(&server).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!recalled(&server, "ben").contains("4821"));
}

#[test]
fn one_session_too_many_is_refused_before_anything_is_generated() {
    let cart = tiny();
    let server = serve(&cart, &["--max-sessions", "1"]);
    server.post_json("/v1/completions", &told("anna", FACT));
    let (status, said) = server.post("/v1/completions", &told("ben", FACT));
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &error["error"]["code"]), (429, &json!("too_many_sessions")), "{said}");
    assert!(said.contains("1 are allowed") && said.contains("--max-sessions"), "{said}");
    server.post_json("/v1/completions", &told("anna", "The key of Anna is in box 12."));
    server.delete("/cart/sessions/anna");
    server.post_json("/v1/completions", &told("ben", FACT));
}

#[test]
fn a_session_that_can_not_be_read_is_refused_and_not_begun_anew() {
    let cart = tiny();
    let server = serve(&cart, &[]);
    server.post_json("/v1/completions", &told("anna", FACT));
    let manifest = server.get_json("/cart/sessions/anna")["session"]["manifest"].clone();
    assert!(server.stop().success());
    let state = cart.manifest(manifest.as_str().unwrap())["memory"]["state"].clone();
    damage::flip_bit(cart.blob(state.as_str().unwrap()), 20, 1);
    let server = serve(&cart, &[]);
    let (status, said) = server.post("/v1/completions", &told("anna", "Something else."));
    assert!(status >= 400 && said.contains("anna"), "{status}: {said}");
    damage::flip_bit(cart.blob(state.as_str().unwrap()), 20, 1);
    assert!(recalled(&server, "anna").contains("4821"));
}

#[test]
fn without_sessions_nothing_is_saved_and_asking_for_them_says_so() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    server.post_json("/v1/completions", &told("anna", FACT));
    let (status, said) = server.get("/cart/sessions");
    assert!(status == 404 && said.contains("--sessions"), "{status}: {said}");
    assert!(!cart.ok(["ls"]).contains("sessions/"));
    cart.run(["serve", "tiny", "--max-sessions", "3"]).expect_code(2);
}
