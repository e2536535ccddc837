//! A server with several cartridges, chosen by the request's `model`: the real binary.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use cart_tests::{Cart, Server, fixture, models};
use serde_json::{Value, json};

/// A store with `tiny` of 1.8 MiB, and `wide` and `broad` of 3.5 MiB, each with weights of its own.
fn three() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    for (name, token) in [("wide", 900), ("broad", 901)] {
        let folder = cart.path(name);
        models::overflowing_tiny(folder.as_ref(), &[token]);
        cart.ok(["pack", &folder, "-t", name]);
    }
    cart
}

fn serve(cart: &Cart, arguments: &[&str]) -> Server {
    let listen = ["--listen", "127.0.0.1:0"];
    Server::start_with(cart, "tiny", &[arguments, &listen[..]].concat())
}

/// The arguments of a server that does not start.
fn refused<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["serve", "tiny", "--listen", "127.0.0.1:0"], arguments].concat()
}

fn ask(model: &str) -> Value {
    json!({ "prompt": "One day, Anna", "max_tokens": 8, "temperature": 0, "model": model })
}

fn text(server: &Server, model: &str) -> (Value, Value) {
    let answer = server.post_json("/v1/completions", &ask(model));
    (answer["model"].clone(), answer["choices"][0]["text"].clone())
}

/// Of every cartridge the name and whether it is loaded.
fn listed(server: &Server) -> Vec<(String, bool)> {
    let listed = server.get_json("/v1/models");
    let data = listed["data"].as_array().unwrap().iter();
    let each = |model: &Value| {
        (model["name"].as_str().unwrap().to_owned(), model["loaded"].as_bool().unwrap())
    };
    data.map(each).collect()
}

fn loaded(names: &[(&str, bool)]) -> Vec<(String, bool)> {
    names.iter().map(|&(name, loaded)| (name.to_owned(), loaded)).collect()
}

#[test]
fn each_request_is_answered_by_the_cartridge_that_it_names() {
    let cart = three();
    let server = serve(&cart, &["wide"]);
    let alone =
        |name: &str| cart.json(["run", name, "-p", "One day, Anna", "-n", "8"])["text"].clone();
    for name in ["tiny", "wide"] {
        assert_eq!(text(&server, name), (json!(name), alone(name)));
    }
    let manifest = cart.json(["inspect", "wide"])["manifest"].clone();
    let by_id = &manifest.as_str().unwrap()[..12];
    assert_eq!(text(&server, by_id).0, "wide");
    let mut unnamed = ask("");
    unnamed.as_object_mut().unwrap().remove("model");
    assert_eq!(server.post_json("/v1/completions", &unnamed)["model"], "tiny");
    let embedded = server.post_json("/v1/embeddings", &json!({ "input": "a", "model": "wide" }));
    assert_eq!(embedded["cart"]["manifest"], manifest);

    for (path, body) in [
        ("/v1/completions", ask("broad")),
        ("/v1/embeddings", json!({ "input": "a", "model": "broad" })),
        ("/cart/swap", json!({ "ref": "broad", "model": "broad" })),
        ("/cart/rollback", json!({ "model": "broad" })),
    ] {
        let (status, said) = server.post(path, &body);
        let error: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")), "{path}");
        assert_eq!(error["error"]["param"], "model");
        assert!(said.contains("broad") && said.contains("/v1/models"), "{said}");
    }
    assert_eq!(server.get("/cart/state?model=broad").0, 404);
    assert_eq!(listed(&server), loaded(&[("tiny", true), ("wide", true)]));
    assert_eq!(server.get_json("/v1/models/wide")["manifest"], manifest);
    let (_, metrics) = server.get("/metrics");
    for line in ["cart_model_loaded{model=\"wide\"} 1\n", "cart_model_streams{model=\"tiny\"} 0\n"]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(server.stop().success());
}

#[test]
fn a_swap_says_which_cartridge_it_changes_and_leaves_the_others() {
    let cart = three();
    let server = serve(&cart, &["wide"]);
    let swap = ["swap", "broad", "--server", server.url(), "--model", "wide"];
    let report = cart.json(swap);
    assert_eq!((&report["from"]["name"], &report["to"]["name"]), (&json!("wide"), &json!("broad")));
    // By the name that it was started with, and by what runs under it.
    assert_eq!(
        (text(&server, "wide").0, text(&server, "broad").0),
        (json!("broad"), json!("broad"))
    );
    assert_eq!(server.get_json("/cart/state")["active"]["name"], "tiny");
    assert_eq!(server.get_json("/cart/state?model=wide")["active"]["generation"], 2);
    cart.json(["swap", "--rollback", "--server", server.url(), "--model", "broad"]);
    assert_eq!(text(&server, "wide").0, "wide");
    let report = cart.json(["swap", "broad", "--server", server.url()]);
    assert_eq!(report["from"]["name"], "tiny");
    let said = cart.refused(["swap", "broad", "--server", server.url(), "--model", "none"]);
    assert!(said.contains("`none`"), "{said}");
}

#[test]
fn on_demand_a_cartridge_of_the_store_comes_and_the_one_that_is_idle_longest_goes() {
    let cart = three();
    let server = serve(&cart, &["--on-demand", "--memory-budget", "6"]);
    assert_eq!(listed(&server), loaded(&[("tiny", true)]));
    let mut told = ask("wide");
    told["prompt"] = json!("The code of the red boat is 4821.");
    told["memory"] = json!({ "write": true });
    server.post_json("/v1/completions", &told);
    assert_eq!(listed(&server), loaded(&[("tiny", true), ("wide", true)]));

    // There is room for one of the two.
    assert_eq!(text(&server, "broad").0, "broad");
    assert_eq!(listed(&server), loaded(&[("tiny", true), ("broad", true), ("wide", false)]));
    let mut asked = ask("wide");
    asked["memory"] = json!({ "prefix": { "min_score": -1.0 } });
    let answer = server.post_json("/v1/completions", &asked);
    let read = answer["cart"]["memory"]["read"].to_string();
    assert!(read.contains("4821"), "it remembers what it was told before: {read}");
    let (_, metrics) = server.get("/metrics");
    for line in ["cart_models_loaded_total 3\n", "cart_models_unloaded_total 2\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let (status, said) = server.post("/v1/completions", &ask("no-such-name"));
    assert!(status == 404 && said.contains("no-such-name"), "{said}");

    // The first one is never unloaded, so there are budgets for which nothing else fits.
    let server = serve(&cart, &["--on-demand", "--memory-budget", "4"]);
    let (status, said) = server.post("/v1/completions", &ask("wide"));
    assert!(
        status == 503 && said.contains("no_room") && said.contains("4.0 MiB"),
        "{status}: {said}"
    );
    assert_eq!(text(&server, "tiny").0, "tiny");
}

#[test]
fn requests_at_once_for_one_that_is_not_loaded_load_it_once() {
    let cart = three();
    let server = serve(&cart, &["--on-demand"]);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|index| {
                let name = if index % 2 == 0 { "wide" } else { "broad" };
                (name, scope.spawn(|| text(&server, name).0))
            })
            .collect();
        for (name, asked) in asked {
            assert_eq!(asked.join().unwrap(), name);
        }
    });
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("cart_models_loaded_total 2\n"), "{metrics}");
}

#[test]
fn what_nobody_asks_for_is_unloaded_and_comes_back() {
    let cart = three();
    let server = serve(&cart, &["wide", "--on-demand", "--idle-unload", "0.3"]);
    let first = text(&server, "wide");
    while listed(&server) != loaded(&[("tiny", true), ("wide", false)]) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(text(&server, "wide"), first);
    assert_eq!(text(&server, "tiny").0, "tiny");
}

#[test]
fn what_can_not_be_served_together_is_refused_at_the_start() {
    let cart = three();
    let said = cart.refused(refused(&["wide", "--memory-budget", "4"]));
    assert!(said.contains("`wide` takes") && said.contains("4.0 MiB"), "{said}");
    let said = cart.refused_with_code(2, refused(&["tiny"]));
    assert!(said.contains("twice"), "{said}");
    let said = cart.refused_with_code(2, refused(&["--on-demand", "--idle-unload", "0"]));
    assert!(said.contains("--idle-unload"), "{said}");
    cart.run(refused(&["--idle-unload", "5"])).expect_code(2);
    let said = cart.refused(refused(&["none"]));
    assert!(said.contains("none"), "{said}");
}
