//! What the OpenAI endpoints answer.

use serde_json::{Value, json};

use crate::client::{Streamed, get, post, stream};
use crate::given::{alone, chat, raw, shelf};

const PROMPT: &str = "One day, Anna";

#[test]
fn a_completion_is_what_the_engine_gives_alone_whole_and_streamed() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let expected = alone(&cartridge, &raw(PROMPT), 24);
    let mut body = json!({"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "model": "any"});

    let answer = post(&server, "/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["choices"][0]["text"], json!(expected));
    assert_eq!(answer["object"], json!("text_completion"));
    assert_eq!(answer["model"], json!("tiny"));
    assert_eq!(answer["choices"][0]["finish_reason"], json!("length"));
    assert_eq!(answer["usage"]["completion_tokens"], json!(24));

    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = Streamed::read(stream(&server, "/v1/completions", &body));
    assert!(streamed.done && streamed.error.is_none());
    assert_eq!(streamed.text, expected);
    assert_eq!(streamed.finish.as_deref(), Some("length"));
    let (last, others) = streamed.parts.split_last().unwrap();
    assert_eq!(last["usage"], answer["usage"]);
    assert_eq!(last["choices"], json!([]));
    assert!(others.len() > 3, "the text came in parts");
    assert!(others.iter().all(|part| part["usage"] == Value::Null));
}

#[test]
fn a_chat_goes_through_the_template_whole_and_streamed() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let question = "What is the code of the red boat?";
    let expected = alone(&cartridge, &chat(question), 20);
    let mut body = json!({"messages": [{"role": "user", "content": question}],
        "max_completion_tokens": 20, "temperature": 0});

    let answer = post(&server, "/v1/chat/completions", &body).json();
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["role"], &message["content"]), (&json!("assistant"), &json!(expected)));
    assert_eq!(answer["object"], json!("chat.completion"));

    body["stream"] = json!(true);
    let streamed = Streamed::read(stream(&server, "/v1/chat/completions", &body));
    assert!(streamed.done);
    assert_eq!(streamed.text, expected);
    assert_eq!(streamed.parts[0]["choices"][0]["delta"]["role"], json!("assistant"));
    assert_eq!(streamed.parts[0]["object"], json!("chat.completion.chunk"));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let text = alone(&cartridge, &raw(PROMPT), 40);
    // Begins and ends inside words, so it crosses tokens.
    let stop: String = text.chars().skip(21).take(5).collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["not in it", stop])] {
        let body = json!({"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "stop": stop,
            "stream": true});
        let streamed = Streamed::read(stream(&server, "/v1/completions", &body));
        assert_eq!(streamed.text, expected);
        assert_eq!(streamed.finish.as_deref(), Some("stop"));
    }
}

#[test]
fn log_probabilities_come_in_the_shape_of_each_endpoint() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let body = json!({"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "logprobs": 3});
    let answer = post(&server, "/v1/completions", &body).json();
    let logprobs = &answer["choices"][0]["logprobs"];
    for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[column].as_array().unwrap().len(), 5, "{logprobs}");
    }
    let joined: String =
        logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(json!(joined), answer["choices"][0]["text"]);

    let body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
        "temperature": 0, "logprobs": true, "top_logprobs": 2});
    let answer = post(&server, "/v1/chat/completions", &body).json();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), answer["usage"]["completion_tokens"].as_u64().unwrap() as usize);
    for entry in content {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(entry["top_logprobs"][0]["logprob"], entry["logprob"], "greedy takes the best");
    }
}

#[test]
fn a_seed_repeats_and_seeds_differ() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let text = |seed: u64| {
        let body = json!({"prompt": PROMPT, "max_tokens": 30, "temperature": 1.5, "seed": seed});
        post(&server, "/v1/completions", &body).json()["choices"][0]["text"].clone()
    };
    let first = text(1);
    assert_eq!(first, text(1));
    assert!((2..6).any(|seed| text(seed) != first));
}

#[test]
fn what_was_written_to_memory_shows_in_the_state_and_the_metrics() {
    let shelf = shelf();
    shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    assert_eq!(server.state()["memory"], Value::Null);
    let body = json!({"prompt": "The code of the red boat is 4821.", "max_tokens": 8,
        "temperature": 0, "memory": {"write": true}});
    let answer = post(&server, "/v1/completions", &body).json();
    assert!(answer["cart"]["memory"]["written"].as_u64().unwrap() > 0, "{answer}");
    server.wait_until("a slot in the state", |state| {
        state["memory"]["stm"]["slots"].as_u64().unwrap_or(0) > 0
    });
    let metrics = get(&server, "/metrics").body;
    let slots = metrics.lines().find(|line| line.starts_with("cart_memory_slots{store=\"stm\"}"));
    assert!(slots.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
}

#[test]
fn models_health_and_metrics_say_what_runs() {
    let shelf = shelf();
    let cartridge = shelf.tiny("tiny");
    let server = shelf.serve("tiny");
    let models = get(&server, "/v1/models").json();
    assert_eq!(models["data"][0]["id"], json!("tiny"));
    for id in ["tiny".to_owned(), cartridge.manifest_id().hex()] {
        assert_eq!(get(&server, &format!("/v1/models/{id}")).json()["id"], json!("tiny"));
    }
    assert_eq!(get(&server, "/healthz").json()["status"], json!("ok"));
    post(&server, "/v1/completions", &json!({"prompt": PROMPT, "max_tokens": 3}));
    let metrics = get(&server, "/metrics").body;
    for wanted in [
        "cart_requests_total{route=\"/v1/completions\",status=\"200\"} 1\n",
        "cart_tokens_total{kind=\"completion\"} 3\n",
        "cart_time_to_first_token_seconds_count 1\n",
        "cart_time_per_token_seconds_count 2\n",
        "cart_generation 1\n",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in\n{metrics}");
    }
    if cfg!(target_os = "linux") {
        let number = |name: &str| -> u64 {
            let found = metrics.lines().find_map(|line| line.strip_prefix(name));
            found.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
        };
        assert!(number("process_resident_memory_bytes ") > 1 << 20);
        assert!((4..4096).contains(&number("process_open_fds ")));
    }
}
