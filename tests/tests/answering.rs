//! What a server answers besides text: embeddings, JSON that fits a schema, calls of tools.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, Server, fixture, models};
use serde_json::{Value, json};

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

/// The tiny model with a chat template that knows tools.
fn with_tools() -> Cart {
    let cart = tiny();
    models::pack_with_tools(&cart);
    cart
}

/// The error of a refusal.
fn refused(server: &Server, path: &str, body: &Value, status: u16) -> Value {
    let (found, answer) = server.post(path, body);
    assert_eq!(found, status, "{body}: {answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["error"].clone()
}

/// The events of a stream, which must end as streams end.
fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let (status, text) = server.post(path, &body);
    assert_eq!(status, 200, "{text}");
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, events) = data.split_last().unwrap();
    assert_eq!(*last, "[DONE]", "{text}");
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(events.iter().all(|event| event["error"].is_null()), "{text}");
    events
}

fn vector(answer: &Value, index: usize) -> Vec<f64> {
    assert_eq!(answer["data"][index]["index"], index);
    let values = answer["data"][index]["embedding"].as_array().unwrap();
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The bytes of base64.
fn decoded(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets: Vec<u32> =
        text.chars().filter_map(|c| alphabet.find(c)).map(|at| at as u32).collect();
    let group = |four: &[u32]| {
        let bits = four.iter().fold(0, |bits, sextet| bits << 6 | sextet) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    sextets.chunks(4).flat_map(group).collect()
}

#[test]
fn texts_have_embeddings_in_the_memorys_space() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let path = "/v1/embeddings";
    let texts = [
        "The code of the red boat is 4821.",
        "The code of the red boat is 4822.",
        "One day, Anna went to the garden with her mother.",
    ];
    let together = server.post_json(path, &json!({ "input": texts, "model": "tiny" }));
    assert_eq!(together["object"], "list");
    assert_eq!(together["data"].as_array().unwrap().len(), 3);
    assert_eq!(together["usage"]["prompt_tokens"], together["usage"]["total_tokens"]);
    let vectors: Vec<Vec<f64>> = (0..3).map(|index| vector(&together, index)).collect();
    for vector in &vectors {
        assert_eq!(vector.len(), 128);
        assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
    }
    let (near, far) = (dot(&vectors[0], &vectors[1]), dot(&vectors[0], &vectors[2]));
    assert!(near > 0.9 && near > far + 0.2, "{near} {far}");

    // Alone, as tokens and as bytes each text has the same one.
    let alone = server.post_json(path, &json!({ "input": texts[2] }));
    assert_eq!(vector(&alone, 0), vectors[2]);
    let base64 = json!({ "input": texts[2], "encoding_format": "base64", "dimensions": 128 });
    let base64 = server.post_json(path, &base64);
    let bytes = decoded(base64["data"][0]["embedding"].as_str().unwrap());
    let values = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
    let read: Vec<f32> = vectors[2].iter().map(|&value| value as f32).collect();
    assert_eq!(values.collect::<Vec<_>>(), read);
    let tokens = json!({ "prompt": texts[2], "max_tokens": 1 });
    let count = server.post_json("/v1/completions", &tokens)["usage"]["prompt_tokens"].clone();
    assert_eq!(alone["usage"]["prompt_tokens"], count);
    let ids = cart.json(["run", "tiny", "-p", texts[2], "-n", "0"])["prompt_ids"].clone();
    let by_ids = server.post_json(path, &json!({ "input": [ids, ids] }));
    assert_eq!((vector(&by_ids, 0), vector(&by_ids, 1)), (vectors[2].clone(), vectors[2].clone()));
    let memory = cart.json(["inspect", "tiny"]);
    assert_eq!(alone["cart"]["manifest"], memory["manifest"]);
}

#[test]
fn long_texts_are_read_in_pieces_beside_streams_that_stay_the_same() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let ask = json!({ "prompt": "One day, Anna", "max_tokens": 60, "temperature": 0 });
    let expected = server.post_json("/v1/completions", &ask)["choices"][0]["text"].clone();
    let long = "The code of the red boat is 4821. ".repeat(25);
    let alone = server.post_json("/v1/embeddings", &json!({ "input": long }));
    assert!(alone["usage"]["prompt_tokens"].as_u64().unwrap() > 256, "{}", alone["usage"]);
    let many: Vec<&str> =
        (0..24).map(|index| if index % 3 == 0 { &*long } else { "A boat." }).collect();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| server.post_json("/v1/embeddings", &json!({ "input": many })));
        for _ in 0..3 {
            assert_eq!(server.post_json("/v1/completions", &ask)["choices"][0]["text"], expected);
        }
        let together = reading.join().unwrap();
        assert_eq!(together["data"].as_array().unwrap().len(), 24);
        for index in (0..24).step_by(3) {
            assert_eq!(vector(&together, index), vector(&alone, 0));
        }
    });
    // An answer is there a moment before its stream is gone.
    let (began, mut state) = (std::time::Instant::now(), server.get_json("/cart/state"));
    while state["streams"] != 0 || state["queued"] != 0 {
        assert!(began.elapsed().as_secs() < 60, "streams are left: {state}");
        std::thread::sleep(std::time::Duration::from_millis(5));
        state = server.get_json("/cart/state");
    }
}

#[test]
fn texts_that_can_not_be_embedded_are_refused_by_what_they_are() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    for (body, param, says) in [
        (json!({}), "input", "missing"),
        (json!({ "input": [] }), "input", "1 to 2048"),
        (json!({ "input": "" }), "input", "text 0"),
        (json!({ "input": ["a", ""] }), "input", "text 1"),
        (json!({ "input": [4_000_000] }), "input", "4000000"),
        (json!({ "input": "boat ".repeat(2000) }), "input", "512"),
        (json!({ "input": "a", "dimensions": 64 }), "dimensions", "128"),
    ] {
        let error = refused(&server, "/v1/embeddings", &body, 400);
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    refused(&server, "/v1/embeddings", &json!({ "input": "a", "encoding_format": "hex" }), 400);
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 2, "maxLength": 12 },
            "age": { "$ref": "#/$defs/age" },
            "likes": { "type": "array", "items": { "enum": ["boats", "cats"] }, "maxItems": 3 },
        },
        "required": ["name", "age", "likes"],
        "additionalProperties": false,
        "$defs": { "age": { "type": "integer", "minimum": 0, "maximum": 150 } },
    })
}

fn as_json(schema: &Value, seed: u64) -> Value {
    json!({
        "messages": [{ "role": "user", "content": "Who is it?" }],
        "max_tokens": 300, "temperature": 1.2, "seed": seed,
        "response_format": { "type": "json_schema",
            "json_schema": { "name": "person", "strict": true, "schema": schema } },
    })
}

fn fits(schema: &Value, text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(jsonschema::is_valid(schema, &value), "{text}");
    value
}

#[test]
fn answers_fit_the_schema_that_was_asked_for() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let path = "/v1/chat/completions";
    let schema = person();
    for seed in 0..8 {
        let whole = server.post_json(path, &as_json(&schema, seed));
        let choice = &whole["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        fits(&schema, text);
        assert_eq!(choice["finish_reason"], "stop");
        if seed == 0 {
            let streamed: String = events(&server, path, &as_json(&schema, seed))
                .iter()
                .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
                .collect();
            assert_eq!(streamed, text);
        }
    }
    let object = json!({ "prompt": "One day", "max_tokens": 12, "temperature": 0,
        "response_format": { "type": "json_object" } });
    let text = server.post_json("/v1/completions", &object)["choices"][0]["text"].clone();
    assert!(text.as_str().unwrap().starts_with('{'), "{text}");
    let text = json!({ "prompt": "One day", "max_tokens": 12, "temperature": 0,
        "response_format": { "type": "text" } });
    let text = server.post_json("/v1/completions", &text)["choices"][0]["text"].clone();
    assert!(!text.as_str().unwrap().starts_with('{'), "{text}");
}

#[test]
fn schemas_that_can_not_be_kept_are_refused_before_anything_is_generated() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let nested = (0..80)
        .fold(json!({ "type": "null" }), |inner, _| json!({ "type": "array", "items": inner }));
    for (schema, says) in [
        (json!({ "type": "nothing" }), "nothing"),
        (json!({ "type": "integer", "minimum": 5, "maximum": 3 }), "minimum"),
        (json!({ "$ref": "http://127.0.0.1:9/x.json" }), "127.0.0.1"),
        (json!({ "description": "x".repeat(300_000) }), "bytes"),
        (json!("object"), "a text"),
        (nested, "deep"),
    ] {
        let error = refused(&server, "/v1/chat/completions", &as_json(&schema, 0), 400);
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("response_format"), &json!("invalid_schema"))
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    for format in [json!({ "type": "grammar" }), json!({ "type": "json_schema" })] {
        let body = json!({ "prompt": "a", "response_format": format });
        refused(&server, "/v1/completions", &body, 400);
    }
    assert_eq!(server.get_json("/cart/state")["tokens"], 0);
}

#[test]
fn answers_still_fit_when_the_cartridge_changes_under_them() {
    let cart = tiny();
    let fact = "The code of the red boat is 4821.";
    cart.ok(["run", "tiny", "-p", fact, "-n", "0", "--memory", "--save", "tiny:told"]);
    let server = Server::start(&cart, "tiny");
    let schema =
        json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 30, "maxItems": 30 });
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..6)
            .map(|seed| {
                let (server, body) = (&server, as_json(&schema, seed));
                scope.spawn(move || server.post_json("/v1/chat/completions", &body))
            })
            .collect();
        for (index, mode) in ["boundary", "keep", "finish", "boundary"].into_iter().enumerate() {
            let to = if index % 2 == 0 { "tiny:told" } else { "tiny" };
            let report = cart.json(["swap", to, "--server", server.url(), "--in-flight", mode]);
            assert_eq!(report["streams_dropped"], 0);
        }
        for stream in streams {
            let answer = stream.join().unwrap();
            fits(&schema, answer["choices"][0]["message"]["content"].as_str().unwrap());
        }
    });
}

#[test]
fn a_run_is_held_to_a_schema_in_a_file() {
    let cart = tiny();
    let schema = cart.file("person.json", person().to_string().as_bytes());
    let prompt = ["run", "tiny", "-p", "One day, Anna", "-n", "300", "--temperature", "1"];
    let said = cart.ok([&prompt[..], &["--json-schema", &schema]].concat());
    fits(&person(), &said);
    let bad = cart.file("bad.json", b"{\"type\": ");
    let none = cart.file("none.json", b"{\"type\": \"nothing\"}");
    for file in [&bad, &none, &cart.path("nowhere")] {
        cart.refused([&prompt[..], &["--json-schema", file]].concat());
    }
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "description": "What it is like",
            "parameters": { "type": "object", "$defs": { "zone": { "enum": ["north", "south"] } },
                "properties": { "zone": { "$ref": "#/$defs/zone" }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
                "required": ["zone", "days"], "additionalProperties": false } } },
        { "type": "function", "function": { "name": "stop" } },
    ])
}

fn ask_with(choice: Value, seed: u64) -> Value {
    json!({
        "messages": [{ "role": "user", "content": "How is it outside?" }],
        "tools": tools(), "tool_choice": choice,
        "max_tokens": 120, "temperature": 1, "seed": seed,
    })
}

/// The calls of an answer, by name, their arguments checked.
fn called(calls: &Value) -> Vec<String> {
    let parameters = tools()[0]["function"]["parameters"].clone();
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert_eq!(call["id"].as_str().unwrap().len(), 9);
        let name = call["function"]["name"].as_str().unwrap().to_owned();
        let arguments = call["function"]["arguments"].as_str().unwrap();
        match name.as_str() {
            "weather" => drop(fits(&parameters, arguments)),
            _ => assert_eq!(arguments, "{}"),
        }
        name
    };
    calls.as_array().unwrap().iter().map(call).collect()
}

#[test]
fn a_call_that_is_required_comes_and_fits_its_function() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let path = "/v1/chat/completions";
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    for seed in 0..6 {
        let choice =
            server.post_json(path, &ask_with(json!("required"), seed))["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        assert_eq!(choice["message"]["content"], Value::Null);
        assert_eq!(called(&choice["message"]["tool_calls"]).len(), 1);
        let choice = server.post_json(path, &ask_with(named.clone(), seed))["choices"][0].clone();
        assert_eq!(called(&choice["message"]["tool_calls"]), ["weather"]);
    }
    let parts = events(&server, path, &ask_with(named.clone(), 1));
    let deltas: Vec<&Value> = parts
        .iter()
        .map(|part| &part["choices"][0]["delta"])
        .filter(|delta| delta.get("tool_calls").is_some())
        .collect();
    assert_eq!(deltas.len(), 1, "{parts:?}");
    assert_eq!(deltas[0]["tool_calls"][0]["index"], 0);
    assert_eq!(called(&deltas[0]["tool_calls"]), ["weather"]);
    let text =
        |part: &Value| part["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned();
    assert_eq!(parts.iter().map(text).collect::<String>(), "");
    assert_eq!(parts.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // What was called and what came of it goes back into the conversation.
    let call = server.post_json(path, &ask_with(named, 2))["choices"][0]["message"].clone();
    let id = call["tool_calls"][0]["id"].clone();
    let conversation = json!({ "max_tokens": 8, "temperature": 0, "tools": [tools()[1]], "messages": [
        { "role": "user", "content": "How is it outside?" },
        call,
        { "role": "tool", "tool_call_id": id, "content": "grey" },
    ] });
    let answer = server.post_json(path, &conversation);
    let mut short = conversation.clone();
    short["messages"].as_array_mut().unwrap().truncate(1);
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let shorter = server.post_json(path, &short);
    assert!(tokens(&answer) > tokens(&shorter) + 20, "{answer}");
    let mut without = short.clone();
    without["tool_choice"] = json!("none");
    assert!(tokens(&shorter) > tokens(&server.post_json(path, &without)) + 50);
}

#[test]
fn tools_that_can_not_be_called_are_refused() {
    let cart = with_tools();
    let server = Server::start(&cart, "tools");
    let path = "/v1/chat/completions";
    let other = json!({ "type": "function", "function": { "name": "other" } });
    for (choice, param) in [(other, "tool_choice"), (json!("always"), "tool_choice")] {
        assert_eq!(refused(&server, path, &ask_with(choice, 0), 400)["param"], param);
    }
    let mut bad = ask_with(json!("required"), 0);
    bad["tools"][1]["function"]["parameters"] = json!({ "type": "nothing" });
    let error = refused(&server, path, &bad, 400);
    assert_eq!((&error["param"], &error["code"]), (&json!("tools"), &json!("invalid_schema")));
    bad["tools"] = json!([{ "type": "function", "function": { "name": "a b" } }]);
    assert_eq!(refused(&server, path, &bad, 400)["param"], "tools");
    let mut both = ask_with(json!("auto"), 0);
    both["response_format"] = json!({ "type": "json_object" });
    assert_eq!(refused(&server, path, &both, 400)["param"], "response_format");
    let mut broken = ask_with(json!("auto"), 0);
    broken["messages"] = json!([{ "role": "assistant", "tool_calls": [
        { "id": "a", "type": "function", "function": { "name": "stop", "arguments": "{" } }] }]);
    refused(&server, path, &broken, 400);
    let completion = json!({ "prompt": "a", "tools": tools() });
    assert_eq!(refused(&server, "/v1/completions", &completion, 400)["param"], "tools");
}

#[test]
fn a_template_without_tools_says_so_unless_none_is_to_be_called() {
    let cart = tiny();
    let server = Server::start(&cart, "tiny");
    let path = "/v1/chat/completions";
    for choice in [json!("auto"), json!("required")] {
        let error = refused(&server, path, &ask_with(choice, 0), 400);
        assert_eq!(error["param"], "tools");
        assert!(error["message"].as_str().unwrap().contains("knows no tools"), "{error}");
    }
    let answer = server.post_json(path, &ask_with(json!("none"), 0));
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

/// A schema of the server's OpenAPI document.
fn schema(document: &Value, name: &str) -> Value {
    json!({
        "$ref": format!("#/components/schemas/{name}"),
        "components": document["components"],
    })
}

/// Fails, with every breach, unless a value is as the document says.
fn as_described(document: &Value, name: &str, value: &Value) {
    let validator = jsonschema::draft202012::new(&schema(document, name)).unwrap();
    let breaches: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(breaches.is_empty(), "{name}: {}\n{value}", breaches.join("\n"));
}

#[test]
fn the_openapi_document_describes_what_is_asked_and_answered() {
    let cart = with_tools();
    let arguments = ["--listen", "127.0.0.1:0", "--sessions"];
    let server = Server::start_with(&cart, "tools", &arguments);
    let document = server.get_json("/openapi.json");
    let ask = |path: &str, body: Value| {
        let operation = &document["paths"][path]["post"];
        let name = |of: &Value| of["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let asked = &operation["requestBody"]["content"]["application/json"]["schema"];
        as_described(&document, &name(asked), &body);
        let answered = &operation["responses"]["200"]["content"];
        let whole = server.post_json(path, &body);
        as_described(&document, &name(&answered["application/json"]["schema"]), &whole);
        if !answered["text/event-stream"].is_null() {
            for event in events(&server, path, &body) {
                as_described(&document, &name(&answered["text/event-stream"]["schema"]), &event);
            }
        }
    };
    let memory = json!({ "write": true, "prefix": true, "knn": { "k": 4 }, "session": "one" });
    ask(
        "/v1/chat/completions",
        json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "Who is it?" }] }], "max_tokens": 6, "temperature": 0.5,
        "logprobs": true, "top_logprobs": 2, "memory": memory, "stop": ["x"],
        "stream_options": { "include_usage": true } }),
    );
    ask("/v1/chat/completions", ask_with(json!("required"), 4));
    ask(
        "/v1/completions",
        json!({ "prompt": "One day", "max_tokens": 4, "logprobs": 2,
        "response_format": { "type": "text" } }),
    );
    ask("/v1/embeddings", json!({ "input": ["a", "b"], "model": "tools" }));
    ask("/v1/embeddings", json!({ "input": [1, 2], "encoding_format": "base64" }));
    ask("/cart/swap", json!({ "ref": "tiny", "in_flight": "boundary", "memory": "carry" }));
    ask("/cart/rollback", json!({ "in_flight": "finish" }));
    for (path, name) in [
        ("/v1/models", "Models"),
        ("/v1/models/tools", "Model"),
        ("/cart/state", "State"),
        ("/cart/memory", "Memory"),
        ("/cart/cartridge", "Cartridge"),
        ("/cart/names", "Names"),
        ("/healthz", "Health"),
        ("/cart/sessions", "Sessions"),
        ("/cart/sessions/one", "Session"),
    ] {
        as_described(&document, name, &server.get_json(path));
    }
    // Every operation is there, and refuses as it says.
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let at = path.replace("{id}", "another").replace("{name}", "another");
            let (status, answer) = match method.as_str() {
                "get" => server.get(&at),
                "delete" => server.delete(&at),
                _ => server.post(&at, &json!([])),
            };
            assert!(
                status != 405 && (status != 404 || at.ends_with("another")),
                "{path}: {answer}"
            );
            if status != 200 {
                let error: Value = serde_json::from_str(&answer).unwrap();
                as_described(&document, "Error", &error);
            }
        }
        let wrong = if operations.get("get").is_some() {
            server.post(path, &json!({})).0
        } else {
            server.get(path).0
        };
        assert_eq!(wrong, 405, "{path}");
    }
}
