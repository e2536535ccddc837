//! A server that is given a bad cartridge: the real binary, and the way back.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use cart_tests::{Cart, Server, fixture, models, schemas};
use serde_json::{Value, json};

/// What the poisoned cartridge can't read.
const POISON: &str = "#~";

/// A store with `tiny`, and with `poison`, which packs, verifies and warms up like any other.
fn poisoned() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let ids = cart.json(["run", "tiny", "-p", POISON, "-n", "0"])["prompt_ids"].clone();
    let ids: Vec<u32> = serde_json::from_value(ids).unwrap();
    let folder = cart.path("poison");
    models::overflowing_tiny(folder.as_ref(), &ids);
    cart.ok(["pack", &folder, "-t", "poison"]);
    cart.ok(["verify", "poison"]);
    cart
}

fn ask(prompt: &str) -> Value {
    json!({ "prompt": prompt, "max_tokens": 24, "temperature": 0 })
}

#[test]
fn a_cartridge_that_fails_while_it_runs_is_left_by_itself() {
    let cart = poisoned();
    let arguments = ["--listen", "127.0.0.1:0", "--log", "json"];
    let server = Server::start_with(&cart, "tiny", &arguments);
    let prompt = format!("One day, Anna saw {POISON}");
    let expected = server.post_json("/v1/completions", &ask(&prompt))["choices"][0]["text"].clone();

    cart.json(["swap", "poison", "--server", server.url()]);
    let well = server.post_json("/v1/completions", &ask("One day, Anna"));
    assert_eq!(well["cart"]["generation"], 2);
    let answer = server.post_json("/v1/completions", &ask(&prompt));
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["cart"]["generation"]),
        (&expected, &json!(1))
    );

    let state = server.get_json("/cart/state");
    let last = &state["watch"]["last_rollback"];
    assert_eq!((&last["from"]["name"], &last["to"]["name"]), (&json!("poison"), &json!("tiny")));
    assert_eq!(last["trip"]["kind"], "not_finite");
    assert!(last["recover_ms"].as_f64().unwrap() > 0.0, "{last}");
    let said = server.first_said(5);
    let event = said.iter().find(|line| line.contains("rolled_back")).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!((&event["event"], &event["from"]["generation"]), (&json!("rolled_back"), &json!(2)));

    // Where nothing is watched, the request is refused and the cartridge stays.
    let server =
        Server::start_with(&cart, "tiny", &["--listen", "127.0.0.1:0", "--watch-seconds", "0"]);
    cart.json(["swap", "poison", "--server", server.url()]);
    let (status, said) = server.post("/v1/completions", &ask(&prompt));
    assert!(status == 500 && said.contains("not finite"), "{status}: {said}");
    assert_eq!(server.get_json("/cart/state")["active"]["name"], "poison");
}

#[test]
fn a_window_or_a_threshold_out_of_range_is_refused_at_the_start() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    for (option, value) in [
        ("--watch-seconds", "-1"),
        ("--rollback-window", "inf"),
        ("--watch-probes", "0"),
        ("--collapse-entropy", "NaN"),
        ("--collapse-distinct", "2"),
        ("--collapse-few", "-0.1"),
    ] {
        let given = format!("{option}={value}");
        let said = cart.refused_with_code(2, ["serve", "tiny", "--listen", "127.0.0.1:0", &given]);
        assert!(said.contains(option) && said.contains("allowed"), "{said}");
    }
}

#[test]
fn a_swap_is_taken_back_by_the_command_as_long_as_there_is_something_to_go_back_to() {
    let cart = poisoned();
    let arguments = ["--listen", "127.0.0.1:0", "--rollback-window", "1"];
    let server = Server::start_with(&cart, "tiny", &arguments);
    let rollback = ["swap", "--rollback", "--server", server.url()];
    let said = cart.refused(rollback);
    assert!(said.contains("refused the rollback: there is nothing to roll back to"), "{said}");

    cart.json(["swap", "poison", "--server", server.url()]);
    let report = cart.json(rollback);
    assert_eq!(
        (&report["from"]["name"], &report["to"]["name"]),
        (&json!("poison"), &json!("tiny"))
    );
    assert_eq!(server.get_json("/cart/state")["active"]["generation"], 1);

    cart.json(["swap", "poison", "--server", server.url()]);
    let said = cart.ok([&rollback[..], &["--in-flight", "boundary"]].concat());
    assert!(said.contains("rolled back to tiny") && !said.contains('?'), "{said}");

    cart.json(["swap", "poison", "--server", server.url()]);
    while !server.get_json("/cart/state")["rollback_to"].is_null() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let said = cart.refused(rollback);
    assert!(said.contains("dropped"), "{said}");
    cart.run(["swap", "tiny", "--rollback", "--server", server.url()]).expect_code(2);
}

#[test]
fn a_name_is_followed_wherever_it_moves() {
    let cart = poisoned();
    cart.ok(["tag", "tiny", "live"]);
    let server = Server::start(&cart, "tiny");
    let mut command = cart.command(["--json", "swap", "--watch", "live", "--every", "0.05"]);
    command.args(["--server", server.url()]);
    let follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut follower = Follower::new(follower);
    follower.says("it is followed until Ctrl-C");

    cart.ok(["tag", "poison", "live"]);
    let report = follower.next();
    assert_eq!((&report["report"], &report["to"]["name"]), (&json!("cart.swap/1"), &json!("live")));
    schemas::check("report-swap", &report);
    assert_eq!(report["to"]["manifest"], cart.json(["inspect", "poison"])["manifest"]);

    // A cartridge that can't be served is refused, and told; the next move counts again.
    cart.ok(["pack", &fixture("logits/llama-f32-tied"), "-t", "bare"]);
    cart.ok(["tag", "bare", "live"]);
    let refused = follower.next();
    assert_eq!(refused["report"], "cart.error/1");
    assert!(refused["error"].as_str().unwrap().contains("tokenizer"), "{refused}");
    cart.ok(["tag", "tiny", "live"]);
    let report = follower.next();
    assert_eq!(report["to"]["manifest"], cart.json(["inspect", "tiny"])["manifest"]);
    assert_eq!(server.get_json("/cart/state")["active"]["generation"], 3);
    assert!(follower.interrupt().success());

    let missing = ["swap", "--watch", "no-such-name", "--server", server.url()];
    assert!(cart.refused(missing).contains("no-such-name"));
}

/// A running `cart swap --watch`.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    fn new(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, said }
    }

    /// The next report.
    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    fn says(&mut self, what: &str) {
        let said = self.said.next().unwrap().unwrap();
        assert!(said.contains(what), "{said}");
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_swap_without_room_is_refused_and_takes_the_place_of_what_runs_where_it_is_asked_to() {
    let cart = poisoned();
    let arguments = ["--listen", "127.0.0.1:0", "--memory-budget", "4"];
    // In 32 bits it takes 3.5 MiB, twice as many as the other one.
    let server = Server::start_with(&cart, "tiny", &arguments);
    let swap = ["swap", "poison", "--server", server.url()];
    let said = cart.refused(swap);
    assert!(said.contains("4.0 MiB") && said.contains("--stop-first"), "{said}");
    let report = cart.json([&swap[..], &["--stop-first"]].concat());
    assert_eq!((&report["to"]["name"], &report["streams_dropped"]), (&json!("poison"), &json!(0)));
    let answer = server.post_json("/v1/completions", &ask("One day, Anna"));
    assert_eq!(answer["cart"]["generation"], 2);
    let little = ["serve", "poison", "--listen", "127.0.0.1:0", "--memory-budget", "1"];
    let said = cart.refused(little);
    assert!(said.contains("`poison` takes") && said.contains("1.0 MiB"), "{said}");
}
