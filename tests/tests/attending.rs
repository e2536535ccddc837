//! Memory layers and the experiments with them, through the binary.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const FACT: &str = "The code of the red boat is 4821.";

/// A store with the small model as `tiny`.
fn tiny() -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

/// Codes of boats, told, asked and answered.
fn lessons(cart: &Cart) -> String {
    let colours = ["red", "blue", "green", "white", "black", "grey", "pink", "brown"];
    let lesson = |(at, colour): (usize, &&str)| {
        let told = format!("The code of the {colour} boat is {}.", 1000 + 733 * at);
        let ask = format!("What is the code of the {colour} boat?");
        json!({ "told": told, "ask": ask, "answer": format!("{}", 1000 + 733 * at) }).to_string()
    };
    let lines: Vec<String> = colours.iter().enumerate().map(lesson).collect();
    cart.file("lessons.jsonl", lines.join("\n").as_bytes())
}

fn arguments<'a>(lessons: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut words = vec!["train", "memory", "tiny", "--task", lessons, "-t", name];
    words.extend(["--held-out", "2", "--layers", "1,3", "--batch", "2", "--anchors", "0"]);
    // Another text that is shorter than a chunk is not measured.
    words.extend(["--text", lessons]);
    words
}

/// The words with another value for an option.
fn changed<'a>(words: &[&'a str], option: &str, value: &'a str) -> Vec<&'a str> {
    let at = words.iter().position(|word| *word == option).unwrap();
    let mut words = words.to_vec();
    words[at + 1] = value;
    words
}

fn logprobs(cart: &Cart, reference: &str, more: &[&str]) -> Value {
    let words = ["run", reference, "-p", "What is the code of the red boat?", "-n", "6"];
    cart.json([&words[..], more].concat())
}

#[test]
fn layers_that_are_shut_change_no_bit_and_can_be_taken_out() {
    let cart = tiny();
    let before = cart.json(["verify", "tiny"])["cartridges"][0]["manifest"].clone();
    let data = lessons(&cart);
    let report = cart.json([&arguments(&data, "tiny:shut")[..], &["--steps", "0"]].concat());
    assert_eq!((&report["gates"], &report["done"]), (&json!([0, 0]), &json!(true)));
    assert_ne!(report["manifest"], before);
    cart.ok(["verify", "tiny:shut"]);
    let mut answers = Vec::new();
    for name in ["tiny", "tiny:shut"] {
        let told = format!("{name}-told");
        cart.json(["run", name, "-p", FACT, "-n", "0", "--memory", "--save", &told]);
        let with = logprobs(&cart, &told, &["--memory", "--read-only"]);
        assert_eq!(with["memory"]["layer_tokens"], 0);
        answers.push((with["logprobs"].clone(), logprobs(&cart, name, &[])["logprobs"].clone()));
    }
    assert_eq!(answers[0], answers[1]);
    let quantized = cart.refused(["quantize", "tiny:shut", "--type", "q8_0", "-t", "x"]);
    assert!(quantized.contains("memory layers") && quantized.contains("--remove"), "{quantized}");
    let removed = cart.json(["train", "memory", "tiny:shut", "--remove", "-t", "tiny:bare"]);
    assert_eq!(removed["manifest"], before);
    let again = cart.run(["train", "memory", "tiny:bare", "--remove", "-t", "x"]);
    assert!(again.code == Some(1) && again.stderr.contains("no memory layers"), "{}", again.stderr);
}

#[test]
fn layers_learn_are_kept_and_reach_the_output() {
    let cart = tiny();
    let data = lessons(&cart);
    let words = arguments(&data, "tiny:taught");
    let words = [&changed(&words, "--anchors", "1")[..], &["--steps", "12"]].concat();
    let report = cart.json(&words);
    assert_eq!((&report["lessons"], &report["recall"]["of"]), (&json!(6), &json!(2)));
    assert_eq!(report["gradients"]["tensors"], 14);
    let loss = |step: usize| {
        let log =
            std::fs::read_to_string(cart.scratch().join("train-tiny-taught/log.jsonl")).unwrap();
        let line: Value = serde_json::from_str(log.lines().nth(step).unwrap()).unwrap();
        line["loss"].as_f64().unwrap()
    };
    assert!(loss(11) < loss(0), "{} {}", loss(0), loss(11));
    assert!(report["gates"].as_array().unwrap().iter().all(|gate| gate.as_f64().unwrap() > 0.1));
    let half = changed(&words, "-t", "tiny:half");
    let half = cart.json([&half[..], &["--precision", "bf16"]].concat());
    let of = |report: &Value| report["loss"].as_f64().unwrap();
    assert!((of(&half) - of(&report)).abs() < 0.1 * of(&report), "{half} {report}");
    assert_ne!(half["manifest"], report["manifest"], "steps in bf16 go another way");
    // The memory of the base is of one space with that of the taught one, so it goes along.
    cart.json(["run", "tiny:taught", "-p", FACT, "-n", "0", "--memory", "--save", "tiny:told"]);
    let alone = ["--memory", "--read-only", "--spans", "0", "--neighbours", "0"];
    let with = logprobs(&cart, "tiny:told", &[&alone[..], &["--compare"]].concat());
    assert!(with["memory"]["layer_tokens"].as_u64().unwrap() > 5, "{with}");
    assert!(with["memory"]["kl"].as_f64().unwrap() > 0.0);
    let without = logprobs(&cart, "tiny:told", &[&alone[..], &["--no-layers"]].concat());
    assert_eq!(without["logprobs"], logprobs(&cart, "tiny", &[])["logprobs"]);
    assert_ne!(without["logprobs"], with["logprobs"]);
    // The graph computes what the kernels do, up to rounding.
    let on_graph = [&alone[..], &["--compare", "--device", "graph"]].concat();
    let on_graph = logprobs(&cart, "tiny:told", &on_graph);
    let first = |report: &Value| report["logprobs"][0].as_f64().unwrap();
    assert!((first(&on_graph) - first(&with)).abs() < 0.02, "{on_graph} {with}");
}

#[test]
fn a_run_of_lessons_that_was_cut_ends_in_the_same_cartridge() {
    let whole = tiny();
    let data = lessons(&whole);
    let words = [&arguments(&data, "tiny:a")[..], &["--steps", "8", "--run", "run"]].concat();
    let expected = whole.json(&words)["manifest"].clone();

    let cart = tiny();
    let data = lessons(&cart);
    let words =
        [&arguments(&data, "tiny:a")[..], &["--steps", "8", "--run", "run", "--save-every", "2"]]
            .concat();
    let log = cart.scratch().join("run/log.jsonl");
    let mut child = cart.command(&words).stderr(std::process::Stdio::null()).spawn().unwrap();
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    while lines() < 4 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let report = cart.json(&words);
    assert!(report["resumed_at"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(report["manifest"], expected);
    let other = cart.run([&words[..], &["--lr", "0.1"]].concat());
    assert!(other.code == Some(1) && other.stderr.contains("peak"), "{}", other.stderr);
}

#[test]
fn lessons_and_layers_that_do_not_fit_are_refused_by_name() {
    let cart = tiny();
    let data = lessons(&cart);
    let refused = |words: &[&str], said: &str| {
        let done = cart.run(words);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains(said), "{}", done.stderr);
    };
    let usual = arguments(&data, "x");
    refused(&changed(&usual, "--held-out", "8"), "8 are to be held out");
    refused(&changed(&usual, "--layers", "0"), "can't stand beside layer 0");
    refused(&changed(&usual, "--layers", "9"), "the model has 4");
    refused(&[&usual[..], &["--gate", "0"]].concat(), "the gate to begin with is 0");
    refused(&[&usual[..], &["--lr", "0"]].concat(), "the learning rate is 0");
    let broken = cart.file(
        "broken.jsonl",
        b"{\"told\": \"a\", \"ask\": \"b\", \"answer\": \"c\"}\n{\"tell\": 1}",
    );
    refused(&arguments(&broken, "x"), "line 2 of");
    let names = cart.file("names.txt", b"Ann\nBob");
    let words = ["train", "memory", "tiny", "--names", &names, "-t", "x"];
    refused(&words, "has 2 names; 50 are to be held out");
    assert_eq!(cart.run(["verify", "x"]).code, Some(1));
}

/// Questions about what a memory says, half of which is wrong.
#[test]
fn gates_learn_are_kept_with_the_memory_and_a_cut_run_ends_alike() {
    let cart = tiny();
    let told = [("right", "4821"), ("wrong", "9999")].map(|(source, code)| {
        let text = format!("The code of the red boat is {code}.");
        json!({ "text": text, "energy": 0.5, "source": source }).to_string()
    });
    let told = cart.file("told.jsonl", told.join("\n").as_bytes());
    cart.json(["memory", "import", "tiny", &told, "--save", "tiny:told"]);
    let question = json!({ "ask": "The code of the red boat is", "answer": "4821." });
    let data = cart.file("questions.jsonl", question.to_string().as_bytes());
    let words = |name: &'static str, steps: &'static str, run: &'static str| {
        let mut words = vec!["train", "gates", "tiny:told", "--data", &data, "-t", name];
        words.extend(["--steps", steps, "--batch", "1", "--run", run, "--save-every", "2"]);
        words
    };
    let report = cart.json(words("tiny:gated", "6", "a"));
    assert_eq!((&report["slots"], &report["done"]), (&json!(2), &json!(true)), "{report}");
    assert!(report["gradients"]["smallest"].as_f64().unwrap() > 0.0);
    let shown = cart.json(["memory", "show", "tiny:gated"]);
    let gate = |said: &str| {
        let slots = shown["slots"].as_array().unwrap();
        let slot = slots.iter().find(|slot| slot["text"].as_str().unwrap().contains(said));
        slot.unwrap()["gate"].as_f64().unwrap()
    };
    assert!(gate("4821") > gate("9999"), "{shown}");
    let mut child = cart
        .command(words("tiny:again", "6", "b"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = cart.scratch().join("b/log.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    while lines() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let again = cart.json(words("tiny:again", "6", "b"));
    assert_eq!(again["saved"]["manifest"], report["saved"]["manifest"]);
    let bare = cart.run(["train", "gates", "tiny", "--data", &data, "-t", "x"]);
    assert!(bare.code == Some(1) && bare.stderr.contains("has no memory"), "{}", bare.stderr);
    let broken = cart.file("broken.jsonl", b"{\"ask\": 1}");
    let refused = cart.run(["train", "gates", "tiny:told", "--data", &broken, "-t", "x"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("line 1 of"), "{}", refused.stderr);
}

#[test]
fn the_correction_experiment_runs_in_both_forms() {
    let cart = tiny();
    let common = ["experiment", "seam", "tiny", "--pairs", "3", "--repetitions", "2"];
    let plot = cart.scratch().join("seam.svg").display().to_string();
    let model = cart.json([&common[..], &["--way", "prefix", "--plot", &plot]].concat());
    let form = cart.json([&common[..], &["--embedding", "--cycles", "3"]].concat());
    for report in [&model, &form] {
        let phases = report["phases"].as_array().unwrap();
        let turns: Vec<usize> =
            phases.iter().map(|phase| phase["turns"].as_array().unwrap().len()).collect();
        assert_eq!(turns, [1, 2, 1, 0]);
        let answers = |phase: &Value| phase["asked"]["answers"].as_array().unwrap().len();
        assert!(phases.iter().all(|phase| answers(phase) == 3));
    }
    assert!(std::fs::read_to_string(&plot).unwrap().contains("the name that holds"));
    // By hidden states alone what was said before is no surprise.
    let surprise = |phase: usize, turn: usize| {
        let sentences = &form["phases"][phase]["turns"][turn][0]["sentences"];
        sentences[0]["surprise"].as_f64().unwrap()
    };
    assert!(surprise(1, 1) < 0.01 && surprise(2, 0) > 0.01, "{form}");
}
