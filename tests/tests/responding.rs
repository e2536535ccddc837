//! `/v1/responses` as OpenAI's clients use it: the real binary.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, Server, models};
use serde_json::{Value, json};

/// The tiny model with a chat template that knows tools.
fn with_tools() -> Cart {
    let cart = Cart::new();
    models::pack_with_tools(&cart);
    cart
}

fn ask(input: Value) -> Value {
    json!({ "input": input, "max_output_tokens": 8, "temperature": 0 })
}

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

/// The events of a stream, each named as its type and numbered.
fn events(server: &Server, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let (status, said) = server.post("/v1/responses", &body);
    assert_eq!(status, 200, "{said}");
    let parts = said.split("\n\n").filter(|part| part.starts_with("event: "));
    let events: Vec<Value> = parts
        .map(|part| {
            let (kind, data) = part["event: ".len()..].split_once("\ndata: ").unwrap();
            let event: Value = serde_json::from_str(data).unwrap();
            assert_eq!(event["type"], kind);
            event
        })
        .collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], index);
    }
    events
}

/// A value fits a schema of the server's OpenAPI document.
fn as_described(server: &Server, name: &str, value: &Value) {
    let schema = json!({
        "$ref": format!("#/components/schemas/{name}"),
        "components": server.get_json("/openapi.json")["components"],
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let breaches: Vec<String> =
        validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(breaches.is_empty(), "{name}: {breaches:?} in {value}");
}

#[test]
fn a_response_is_what_a_chat_answers_and_can_be_gone_on_from() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let messages = json!([{ "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Who is it?" }]);
    let chat = json!({ "messages": messages, "max_tokens": 8, "temperature": 0 });
    let chat = server.post_json("/v1/chat/completions", &chat);
    let mut asked = ask(json!("Who is it?"));
    asked["instructions"] = json!("Be brief.");
    asked["metadata"] = json!({ "for": "a test" });
    let first = server.post_json("/v1/responses", &asked);
    as_described(&server, "Response", &first);
    as_described(&server, "ResponseRequest", &asked);
    assert_eq!(text(&first), chat["choices"][0]["message"]["content"]);
    assert_eq!(first["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    let cut = chat["choices"][0]["finish_reason"] == "length";
    assert_eq!(first["status"], if cut { "incomplete" } else { "completed" });
    assert_eq!(first["metadata"]["for"], "a test");
    let id = first["id"].as_str().unwrap();
    assert_eq!(server.get_json(&format!("/v1/responses/{id}")), first);

    // It goes on with what was said, without the instructions of then.
    let mut next =
        ask(json!([{ "role": "user", "content": [{ "type": "input_text", "text": "And now?" }] }]));
    next["previous_response_id"] = json!(id);
    let next = server.post_json("/v1/responses", &next);
    let messages = json!([{ "role": "user", "content": "Who is it?" },
        { "role": "assistant", "content": text(&first) }, { "role": "user", "content": "And now?" }]);
    let chat = json!({ "messages": messages, "max_tokens": 8, "temperature": 0 });
    let chat = server.post_json("/v1/chat/completions", &chat);
    assert_eq!(text(&next), chat["choices"][0]["message"]["content"]);
    assert_eq!(next["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(next["previous_response_id"], id);

    assert_eq!(server.delete(&format!("/v1/responses/{id}")).0, 200);
    for (status, said) in
        [server.get(&format!("/v1/responses/{id}")), server.delete(&format!("/v1/responses/{id}"))]
    {
        assert!(status == 404 && said.contains("response_not_found"), "{status}: {said}");
    }
    let mut unkept = ask(json!("Who is it?"));
    unkept["store"] = json!(false);
    let unkept = server.post_json("/v1/responses", &unkept);
    let mut gone = ask(json!("And now?"));
    for id in [json!(id), unkept["id"].clone()] {
        gone["previous_response_id"] = id;
        let (status, said) = server.post("/v1/responses", &gone);
        assert!(status == 400 && said.contains("previous_response_not_found"), "{status}: {said}");
    }
}

#[test]
fn a_stream_of_events_builds_the_same_response() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let asked = ask(json!("Who is it?"));
    let whole = server.post_json("/v1/responses", &asked);
    let events = events(&server, &asked);
    for event in &events {
        as_described(&server, "ResponseEvent", event);
    }
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let opening = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ];
    assert_eq!(kinds[..4], opening);
    let closing = [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds[kinds.len() - 4..], closing);
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let joined: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(joined, text(&whole));
    let last = &events[events.len() - 1]["response"];
    assert_eq!((text(last), &last["usage"]), (text(&whole), &whole["usage"]));
    let kept = server.get_json(&format!("/v1/responses/{}", last["id"].as_str().unwrap()));
    assert_eq!(&kept, last);
}

#[test]
fn functions_are_called_and_their_outputs_are_read() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let parameters = json!({ "type": "object", "properties": { "box": { "enum": [12, 31] } },
        "required": ["box"], "additionalProperties": false });
    let mut asked = ask(json!("Open a box."));
    asked["max_output_tokens"] = json!(120);
    asked["tools"] = json!([{ "type": "function", "name": "open", "parameters": parameters }]);
    asked["tool_choice"] = json!({ "type": "function", "name": "open" });
    let called = server.post_json("/v1/responses", &asked);
    as_described(&server, "Response", &called);
    let call = &called["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("open")),
        "{called}"
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!([json!(12), json!(31)].contains(&arguments["box"]), "{arguments}");
    let events = events(&server, &asked);
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done");
    assert_eq!(done.unwrap()["name"], "open");

    let mut next = ask(
        json!([{ "type": "function_call_output", "call_id": call["call_id"], "output": "A key." }]),
    );
    next["previous_response_id"] = called["id"].clone();
    assert_eq!(server.post_json("/v1/responses", &next)["output"][0]["type"], "message");
}

#[test]
fn a_format_is_kept_and_what_is_not_done_is_refused() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let mut asked = ask(json!("Which box?"));
    asked["max_output_tokens"] = json!(40);
    asked["text"] = json!({ "format": { "type": "json_schema", "name": "which", "strict": true,
        "schema": { "enum": ["left", "right"] } } });
    let said: Value =
        serde_json::from_str(text(&server.post_json("/v1/responses", &asked))).unwrap();
    assert!(["left", "right"].contains(&said.as_str().unwrap()), "{said}");
    for (field, value, param) in [
        ("input", json!(null), "input"),
        ("input", json!([]), "input"),
        ("input", json!([{ "type": "reasoning" }]), "input"),
        ("tools", json!([{ "type": "web_search" }]), "tools"),
        ("background", json!(true), "background"),
        ("conversation", json!("c"), "conversation"),
        ("temperature", json!(-1), "temperature"),
    ] {
        let mut broken = ask(json!("Who is it?"));
        broken[field] = value;
        let (status, said) = server.post("/v1/responses", &broken);
        let error: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(status, 400, "{field}: {said}");
        assert!(said.contains(param), "{said}");
        as_described(&server, "Error", &error);
    }
}

#[test]
fn a_response_is_for_the_holder_of_the_key_that_asked_for_it() {
    let cart = with_tools();
    let (annas, bens) = ("a-key-of-annas-own", "a-key-of-bens-own-x");
    let arguments = ["--listen", "127.0.0.1:0", "--api-key", annas, "--api-key", bens];
    let server = Server::start_with(&cart, "tools", &arguments).with_key(annas);
    let id = server.post_json("/v1/responses", &ask(json!("Who is it?")))["id"].clone();
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    server.get_json(&path);
    let server = server.with_key(bens);
    assert_eq!((server.get(&path).0, server.delete(&path).0), (404, 404));
    assert_eq!(server.with_key(annas).get(&path).0, 200);
}
