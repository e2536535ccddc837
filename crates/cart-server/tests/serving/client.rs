//! A client that knows nothing of the server's types.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::given::Server;

/// An answer that was read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        for field in ["message", "type", "code"] {
            assert!(error[field].is_string(), "{field} in {}", self.body);
        }
        assert!(error.get("param").is_some(), "{}", self.body);
        error
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address)
}

fn whole(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let mut body = String::new();
    response.body_mut().as_reader().read_to_string(&mut body).unwrap();
    Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
}

pub(crate) fn get(server: &Server, path: &str) -> Answer {
    whole(agent().get(url(server, path)).call().unwrap())
}

pub(crate) fn post(server: &Server, path: &str, body: &Value) -> Answer {
    whole(agent().post(url(server, path)).send_json(body).unwrap())
}

/// A POST with this `Authorization`.
pub(crate) fn post_as(server: &Server, who: Option<&str>, path: &str, body: &Value) -> Answer {
    let mut request = agent().post(url(server, path));
    if let Some(who) = who {
        request = request.header("authorization", who);
    }
    whole(request.send_json(body).unwrap())
}

pub(crate) fn post_bytes(server: &Server, path: &str, body: &[u8]) -> Answer {
    whole(agent().post(url(server, path)).send(body).unwrap())
}

/// The `data:` of an event stream, one by one.
pub(crate) struct Events {
    lines: std::io::Lines<BufReader<ureq::BodyReader<'static>>>,
}

pub(crate) fn stream(server: &Server, path: &str, body: &Value) -> Events {
    stream_at(server.address, path, body)
}

pub(crate) fn stream_at(address: SocketAddr, path: &str, body: &Value) -> Events {
    let response = agent().post(format!("http://{address}{path}")).send_json(body).unwrap();
    assert_eq!(response.status(), 200);
    let lines = BufReader::new(response.into_body().into_reader()).lines();
    Events { lines }
}

impl Iterator for Events {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.unwrap();
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }
}

/// A stream, read to its end.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    pub(crate) text: String,
    pub(crate) parts: Vec<Value>,
    /// Fingerprints in the order in which they came, each once.
    pub(crate) fingerprints: Vec<String>,
    pub(crate) finish: Option<String>,
    pub(crate) done: bool,
    pub(crate) error: Option<Value>,
}

impl Streamed {
    pub(crate) fn read(events: impl Iterator<Item = String>) -> Self {
        let mut streamed = Self::default();
        for data in events {
            assert!(!streamed.done, "{data} after [DONE]");
            if data == "[DONE]" {
                streamed.done = true;
                continue;
            }
            let part: Value = serde_json::from_str(&data).unwrap();
            streamed.take(part);
        }
        streamed
    }

    fn take(&mut self, part: Value) {
        if part.get("error").is_some() {
            self.error = Some(part["error"].clone());
            return;
        }
        let fingerprint = part["system_fingerprint"].as_str().unwrap().to_owned();
        if self.fingerprints.last() != Some(&fingerprint) {
            self.fingerprints.push(fingerprint);
        }
        let choice = &part["choices"][0];
        let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
        self.text += text.unwrap_or_default();
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        self.parts.push(part);
    }
}

/// Lets a server's memory be written, and gives it as the state shows it.
pub(crate) fn remembering(server: &Server) -> Value {
    let write = json!({"prompt": "The code of the red boat is 4821.", "max_tokens": 8,
        "temperature": 0, "memory": {"write": true}});
    post(server, "/v1/completions", &write);
    // The prompt and the answer are observed one after the other, the answer's end after its response.
    server.wait_until("both observations", |state| {
        state["streams"] == 0 && state["memory"]["counters"]["observations"].as_u64() >= Some(2)
    });
    server.state()["memory"].clone()
}
