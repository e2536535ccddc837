//! Conversations by name: a short-term memory each, one long-term memory for all.

use cart_engine::LoadOptions;
use cart_engine::runtime::RuntimeOptions;
use cart_memory::MemoryConfig;
use cart_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::given::{Server, shelf};

/// Settings under which everything that is told goes to long-term memory at once.
fn eager() -> RuntimeOptions {
    let memory = MemoryConfig {
        observer_interval: 1,
        consolidate_threshold: 0.0,
        ..LoadOptions::default().memory
    };
    RuntimeOptions {
        load: LoadOptions { memory, ..LoadOptions::default() },
        ..RuntimeOptions::default()
    }
}

fn tell(server: &Server, session: Option<&str>, text: &str) -> Value {
    let memory = json!({"write": true, "session": session});
    let body = json!({"prompt": text, "max_tokens": 1, "temperature": 0, "memory": memory});
    let answer = post(server, "/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["cart"]["memory"].clone()
}

/// The texts that a question recalls.
fn recalled(server: &Server, session: Option<&str>, question: &str) -> Vec<String> {
    let memory = json!({"prefix": {"top_k": 8, "min_score": -1.0}, "session": session});
    let body = json!({"prompt": question, "max_tokens": 1, "temperature": 0, "memory": memory});
    let answer = post(server, "/v1/completions", &body).json();
    let read = answer["cart"]["memory"]["read"].as_array().unwrap();
    read.iter().map(|slot| slot["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn conversations_share_what_was_consolidated_and_nothing_else() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve_with("tiny", eager(), ServerOptions::default());
    let used = tell(&server, Some("anna"), "The code of the red boat is 4821.");
    let offers = used["long_term"]["offers"].as_array().unwrap();
    assert!(!offers.is_empty(), "{used}");
    assert_eq!(used["long_term"]["pending"], 0);
    assert_eq!(offers[0]["settlement"]["kind"], "inserted", "{used}");
    let boat = "The code of the red boat is 4821.".to_owned();
    let question = "The code of the red boat is";
    for session in [Some("anna"), Some("ben"), None] {
        assert!(recalled(&server, session, question).contains(&boat), "{session:?}");
    }
    // What the server itself consolidates is there for conversations too.
    tell(&server, None, "The name of the black cat is Mia.");
    let cat = "The name of the black cat is Mia.".to_owned();
    assert!(recalled(&server, Some("ben"), "The name of the black cat is").contains(&cat));
    let state = server.state();
    assert_eq!(state["long_term"]["conversations"], 2);
    assert_eq!(state["long_term"]["pending"], 0);
    assert_eq!(state["memory"]["ltm"]["slots"], state["long_term"]["entries"]);
    let metrics = get(&server, "/metrics").body;
    assert!(metrics.contains("\ncart_long_term_conversations 2\n"), "{metrics}");
    let bytes =
        metrics.lines().find_map(|line| line.strip_prefix("cart_long_term_conversation_bytes "));
    // Anna's sentence has a hidden state for each of its tokens.
    assert!(bytes.unwrap().parse::<usize>().unwrap() > 4 * boat.len(), "{metrics}");
}

#[test]
fn what_was_not_consolidated_stays_in_its_conversation() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let mut options = eager();
    options.load.memory.consolidate_threshold = 1.0;
    let server = shelf.serve_with("tiny", options, ServerOptions::default());
    let used = tell(&server, Some("anna"), "The code of the red boat is 4821.");
    assert_eq!(used["long_term"]["offers"], json!([]));
    let question = "The code of the red boat is";
    assert!(!recalled(&server, Some("anna"), question).is_empty());
    assert!(recalled(&server, Some("ben"), question).is_empty());
    assert!(recalled(&server, None, question).is_empty());
}

#[test]
fn many_conversations_at_once_lose_nothing() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve_with("tiny", eager(), ServerOptions::default());
    let offered: usize = std::thread::scope(|scope| {
        let talk = |name: usize| {
            let server = &server;
            scope.spawn(move || {
                let session = format!("conversation {name}");
                let told = |turn: usize| {
                    let text = format!("The code of boat {name} on day {turn} is {}.", name * turn);
                    let used = tell(server, Some(&session), &text);
                    assert_eq!(used["long_term"]["pending"], 0, "{used}");
                    used["long_term"]["offers"].as_array().unwrap().len()
                };
                (0..4).map(told).sum::<usize>()
            })
        };
        let talks: Vec<_> = (0..8).map(talk).collect();
        talks.into_iter().map(|talk| talk.join().unwrap()).sum()
    });
    let state = server.state()["long_term"].clone();
    assert!(offered >= 32, "{offered}");
    assert_eq!(state["taken"], offered);
    assert_eq!(state["conversations"], 8);
}

#[test]
fn a_conversation_without_a_usable_name_is_refused() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    for name in [String::new(), "a\nb".to_owned(), "x".repeat(257)] {
        let body = json!({"prompt": "x", "memory": {"write": true, "session": name}});
        let answer = post(&server, "/v1/completions", &body);
        assert_eq!((answer.status, &answer.error()["code"]), (400, &json!("invalid_value")));
    }
}
