//! Who may ask a server for what, how much at once, and over what: keys, limits, TLS.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use cart_tests::{Cart, Server, fixture};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const OURS: &str = "a-key-of-the-house";
const ANNAS: &str = "a-key-of-annas-own";
const TOKEN: &str = "a-secret-of-the-house";

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

fn ask(tokens: u64) -> Value {
    json!({ "prompt": "One day, Anna", "max_tokens": tokens, "temperature": 0 })
}

/// Status and code of a refusal.
fn refused(answer: (u16, String)) -> (u16, String) {
    let error: Value = serde_json::from_str(&answer.1).unwrap();
    (answer.0, error["error"]["code"].as_str().unwrap().to_owned())
}

#[test]
fn a_server_with_keys_answers_those_who_have_one() {
    let cart = tiny();
    let file = cart.file("keys", format!("# who may ask\n\nanna:{ANNAS}\n").as_bytes());
    let arguments =
        ["--listen", "127.0.0.1:0", "--api-key", OURS, "--api-keys", &file, "--admin-token", TOKEN];
    let server = Server::start_with(&cart, "tiny", &arguments);
    let no_key = (401, "invalid_api_key".to_owned());
    assert_eq!(refused(server.post("/v1/completions", &ask(2))), no_key);
    for path in ["/v1/models", "/v1/models/tiny", "/cart/state", "/metrics"] {
        assert_eq!(refused(server.get(path)), no_key, "{path}");
    }
    let denied = ureq::get(format!("{}/v1/models", server.url()))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .unwrap();
    assert_eq!(denied.headers()["www-authenticate"], "Bearer");
    assert_eq!(server.get_json("/healthz")["status"], "ok");

    let server = server.with_key("a-key-of-nobody-here");
    assert_eq!(refused(server.post("/v1/completions", &ask(2))), no_key);
    // The token changes what runs and reads what is said of it; it asks for no answers.
    let server = server.with_key(TOKEN);
    assert_eq!(refused(server.post("/v1/completions", &ask(2))), no_key);
    assert_eq!(server.get_json("/cart/state")["active"]["name"], "tiny");

    let server = server.with_key(OURS);
    server.post_json("/v1/completions", &ask(2));
    let swap = json!({ "ref": "tiny" });
    assert_eq!(refused(server.post("/cart/swap", &swap)), (401, "admin_token".to_owned()));
    let server = server.with_key(ANNAS);
    server.post_json("/v1/completions", &ask(3));
    let (_, metrics) = server.get("/metrics");
    for line in [
        "cart_key_requests_total{key=\"key-1\"} 1\n",
        "cart_key_tokens_total{key=\"anna\",kind=\"completion\"} 3\n",
        "cart_requests_total{route=\"/v1/completions\",status=\"401\"} 3\n",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    assert!(!metrics.contains(ANNAS) && !metrics.contains(OURS));
    cart.json(["swap", "tiny", "--server", server.url(), "--admin-token", TOKEN]);
}

#[test]
fn a_server_with_keys_and_no_token_asks_for_a_key_before_a_swap() {
    let cart = tiny();
    let arguments = ["--listen", "127.0.0.1:0", "--api-key", OURS];
    let server = Server::start_with(&cart, "tiny", &arguments);
    let swap = ["swap", "tiny", "--server", server.url()];
    let said = cart.refused(swap);
    assert!(said.contains("API key"), "{said}");
    cart.json([&swap[..], &["--admin-token", OURS]].concat());
    assert_eq!(server.with_key(OURS).get_json("/cart/state")["active"]["generation"], 2);
}

#[test]
fn keys_that_guard_nothing_are_refused_at_the_start() {
    let cart = tiny();
    let (none, short) = (cart.file("none", b"# nobody yet\n"), cart.file("short", b"\nanna:x\n"));
    let nowhere = cart.path("nowhere");
    for (code, arguments, says) in [
        (2, ["--api-key", ""], "0 characters"),
        (2, ["--api-key", "short"], "16 to 4096"),
        (1, ["--api-keys", &none], "no keys"),
        (1, ["--api-keys", &short], "line 2"),
        (1, ["--api-keys", &nowhere], "can't be read"),
    ] {
        let serve = ["serve", "tiny", "--listen", "127.0.0.1:0"];
        let said = cart.refused_with_code(code, [&serve[..], &arguments].concat());
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn each_request_is_a_line_of_the_log_and_no_key_is_in_it() {
    let cart = tiny();
    let named = format!("anna:{ANNAS}");
    let arguments = ["--listen", "127.0.0.1:0", "--api-key", &named, "--log", "json"];
    let server = Server::start_with(&cart, "tiny", &arguments);
    server.get("/v1/models");
    let server = server.with_key(ANNAS);
    server.post_json("/v1/completions", &ask(2));
    server.get("/nothing?secret=1");
    let lines = server.first_said(3);
    let expected = [
        ("GET", "/v1/models", 401, Value::Null),
        ("POST", "/v1/completions", 200, json!("anna")),
        ("GET", "none", 404, Value::Null),
    ];
    for (line, (method, route, status, key)) in lines.iter().zip(expected) {
        let said: Value = serde_json::from_str(line).unwrap();
        assert_eq!(said["method"], method, "{line}");
        assert_eq!((&said["route"], &said["status"]), (&json!(route), &json!(status)));
        assert_eq!(said["key"], key, "{line}");
        assert!(said["ms"].as_f64().unwrap() >= 0.0 && said["unix_ms"].as_u64().unwrap() > 0);
        assert!(!line.contains(ANNAS) && !line.contains("secret"), "{line}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_under_it_is_read() {
    let cart = tiny();
    let mut request = ask(1);
    // Read, and then refused for what it says and not for how long it is.
    request["model"] = json!("m".repeat(3 << 20));
    let small = ["--listen", "127.0.0.1:0", "--max-body", "2"];
    let server = Server::start_with(&cart, "tiny", &small);
    assert_eq!(
        refused(server.post("/v1/completions", &request)),
        (413, "body_too_large".to_owned())
    );
    server.post_json("/v1/completions", &ask(1));
    let large = ["--listen", "127.0.0.1:0", "--max-body", "4"];
    let server = Server::start_with(&cart, "tiny", &large);
    assert_eq!(
        refused(server.post("/v1/completions", &request)),
        (400, "invalid_value".to_owned())
    );
}

/// An authority, and a server's certificate that it vouches for with the key: all PEM.
fn certificate(names: &[&str]) -> (String, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), own.pem(), key.serialize_pem())
}

#[test]
fn a_server_speaks_tls_and_is_swapped_over_it() {
    let cart = tiny();
    let (authority, own, key) = certificate(&["localhost", "127.0.0.1"]);
    let [ca, own, key] = [("ca.pem", &authority), ("own.pem", &own), ("own.key", &key)]
        .map(|(name, text)| cart.file(name, text.as_bytes()));
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", &own, "--tls-key", &key];
    let server = Server::start_with(&cart, "tiny", &arguments);
    assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
    let over = ["swap", "tiny", "--server", server.url()];
    cart.json([&over[..], &["--ca", &ca]].concat());
    // Whom nobody vouches for is not believed, nor is one in place of another.
    let other = cart.file("other.pem", certificate(&["localhost"]).0.as_bytes());
    let said = cart.refused([&over[..], &["--ca", &other]].concat());
    assert!(said.contains("did not answer"), "{said}");
    // Who speaks no TLS gets no answer, and holds up nobody.
    let plain = server.url().replace("https://", "http://");
    assert!(ureq::get(format!("{plain}/healthz")).call().is_err());
    let _silent = std::net::TcpStream::connect(plain.trim_start_matches("http://")).unwrap();

    let server = server.trusting("localhost", &authority);
    let mut streaming = ask(12);
    streaming["stream"] = json!(true);
    let (status, body) = server.post("/v1/completions", &streaming);
    assert!(status == 200 && body.trim_end().ends_with("data: [DONE]"), "{body}");
    assert_eq!(server.get_json("/cart/state")["active"]["generation"], 2);
    assert!(server.stop().success());
}

#[test]
fn a_renewed_certificate_is_served_with_and_a_broken_one_is_not() {
    let cart = tiny();
    let (first, second) = (certificate(&["localhost"]), certificate(&["localhost"]));
    let own = cart.file("own.pem", first.1.as_bytes());
    let key = cart.file("own.key", first.2.as_bytes());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", &own, "--tls-key", &key];
    let server = Server::start_with(&cart, "tiny", &arguments);
    let url = server.url().replace("127.0.0.1", "localhost");
    let [old, new] = [("old.pem", &first.0), ("new.pem", &second.0)]
        .map(|(name, text)| cart.file(name, text.as_bytes()));
    let believed = |authority: &str| {
        let swap = ["swap", "tiny", "--server", &url, "--ca", authority];
        cart.run(swap).code == Some(0)
    };
    assert!(believed(&old) && !believed(&new));
    // A certificate without its key changes nothing, however long it is there.
    std::fs::write(&own, &second.1).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(believed(&old) && !believed(&new));
    std::fs::write(&key, &second.2).unwrap();
    let renewed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(200));
        believed(&new)
    });
    assert!(renewed && !believed(&old));
}

#[test]
fn certificates_that_can_not_be_served_are_refused_at_the_start() {
    let cart = tiny();
    let (authority, own, key) = certificate(&["localhost"]);
    let (_, _, anothers) = certificate(&["localhost"]);
    let file = |name: &str, text: &str| cart.file(name, text.as_bytes());
    let (own, key) = (file("own.pem", &own), file("own.key", &key));
    let anothers = file("anothers.key", &anothers);
    let (empty, broken) = (file("empty", "hello\n"), file("broken", &authority[..200]));
    let nowhere = cart.path("nowhere");
    for (certificate, key, says) in [
        (&nowhere, &key, "nowhere can't be read"),
        (&own, &nowhere, "nowhere can't be read"),
        (&empty, &key, "no certificate"),
        (&broken, &key, "not PEM, or damaged"),
        (&own, &own, "private key"),
        (&own, &anothers, "can't be served with the key"),
    ] {
        let serve = ["serve", "tiny", "--tls-cert", certificate, "--tls-key", key];
        let said = cart.refused(serve);
        assert!(said.contains(says), "{said}");
    }
    let alone = cart.run(["serve", "tiny", "--tls-cert", &own]).expect_code(2);
    assert!(alone.stderr.contains("--tls-key"), "{}", alone.stderr);
    let said = cart.refused(["swap", "tiny", "--server", "http://127.0.0.1:1", "--ca", &own]);
    assert!(said.contains("--ca is for servers over https"), "{said}");
}
