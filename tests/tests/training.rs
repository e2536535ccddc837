//! Training through the binary: what it leaves, the same however it was interrupted, and refusals.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::time::{Duration, Instant};

use cart_tests::Cart;
use serde_json::Value;

const SPEC: &str = "layers=2,hidden=32,heads=2,context=32";

/// Something with a pattern to learn.
fn text() -> String {
    let line = |at: usize| format!("the {} boat has {} oars.\n", ["red", "old"][at % 2], at % 7);
    (0..400).map(line).collect::<Vec<_>>().concat()
}

fn arguments<'a>(data: &'a str, name: &'a str, spec: &'a str) -> Vec<&'a str> {
    let mut words =
        vec!["train", "agent", "--data", data, "-t", name, "--spec", spec, "--batch", "4"];
    words.extend(["--warmup", "5", "--lr", "0.01", "--measure", "8", "--sample", "12"]);
    words
}

fn last(report: &Value) -> &Value {
    report["epochs"].as_array().unwrap().last().unwrap()
}

#[test]
fn an_agent_learns_is_kept_for_each_epoch_and_runs() {
    let cart = Cart::new();
    let data = cart.file("boats.txt", text().as_bytes());
    for (name, spec) in
        [("llama", SPEC), ("mamba", "shape=mamba,layers=2,hidden=32,state=4,context=32")]
    {
        let words = [&arguments(&data, name, spec)[..], &["--epochs", "2"]].concat();
        let report = cart.json(&words);
        let epochs = report["epochs"].as_array().unwrap();
        assert_eq!((epochs.len(), &report["done"]), (2, &Value::from(true)));
        // Without learning it is 8 bits.
        let bits = |epoch: &Value| epoch["held_out"]["bits_per_byte"].as_f64().unwrap();
        assert!(bits(&epochs[1]) < 2.0 && bits(&epochs[1]) < bits(&epochs[0]), "{report}");
        assert!(report["gradients"]["smallest"].as_f64().unwrap() > 0.0);
        cart.ok(["verify", name]);
        let history = cart.json(["log", name]);
        let commits = history["commits"].as_array().unwrap();
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[0]["commit"], epochs[1]["commit"]);
        assert_eq!(commits[0]["manifest"], epochs[1]["manifest"]);
        let said = cart.ok(["run", name, "-p", "the red boat has", "-n", "12"]);
        assert!(said.contains("oars"), "{name}: {said}");
    }
}

#[test]
fn an_agent_of_pieces_of_text_is_measured_in_bytes_and_runs() {
    let cart = Cart::new();
    let data = cart.file("boats.txt", text().as_bytes());
    let of = |name, size| [&arguments(&data, name, SPEC)[..], &["--bpe", size]].concat();
    let report = cart.json([&of("pieces", "290")[..], &["--epochs", "3"]].concat());
    let tokens = report["data_tokens"].as_u64().unwrap();
    assert!(tokens < text().len() as u64 / 3, "{report}");
    let held_out = &last(&report)["held_out"];
    // Two sequences of 32 tokens, which have more bytes than that.
    assert!(held_out["bytes"].as_u64().unwrap() > 2 * 32 * 3, "{report}");
    assert!(held_out["bits_per_byte"].as_f64().unwrap() < 1.5, "{report}");
    let said = cart.ok(["run", "pieces", "-p", "the red boat has", "-n", "4"]);
    assert!(said.contains("oars"), "{said}");
    let alone = [&of("alone", "290")[..], &["--epochs", "3", "--threads", "1"]].concat();
    assert_eq!(last(&cart.json(alone))["manifest"], last(&report)["manifest"]);

    let picture = cart.file("picture.png", b"\x89PNG");
    let words = ["train", "agent", "--data", &picture, "-t", "x", "--bpe", "300"];
    let refused = cart.run(words);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("byte 0 is not UTF-8; leave --bpe out"), "{}", refused.stderr);
    let few = cart.run(of("few", "256"));
    assert!(few.stderr.contains("the vocabulary is 256; allowed: 258 to 65536 tokens"));
}

#[test]
fn runs_are_drawn_on_the_same_axes() {
    let cart = Cart::new();
    let data = cart.file("boats.txt", text().as_bytes());
    for run in ["a", "b"] {
        let words = arguments(&data, run, SPEC);
        cart.json([&words[..], &["--steps", "4", "--run", run]].concat());
    }
    let report = cart.json(["train", "plot", "a", "b", "-o", "both.svg"]);
    assert_eq!(report["steps"], serde_json::json!([4, 4]));
    assert_eq!(report["curves"].as_array().unwrap().len(), 4);
    let svg = std::fs::read_to_string(cart.scratch().join("both.svg")).unwrap();
    assert!(svg.contains("Loss of held-out text, nats") && svg.contains("Learning rate"));
    let shown = cart.ok(["train", "plot", "a", "-o", "-"]);
    assert!(shown.contains("Loss of each step") && shown.contains("┤"), "{shown}");
    let nowhere = cart.run(["train", "plot", "nowhere", "-o", "x.svg"]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("can't be read"));
    assert_eq!(cart.run(["train", "plot", "a", "-o", "x.gif"]).code, Some(2));
}

#[test]
fn a_run_that_was_interrupted_ends_in_the_same_cartridge() {
    let [exact, rounded] = ["f32", "bf16"].map(interrupted_run);
    assert_ne!(exact, rounded, "steps in bf16 go another way");
}

/// What comes of a run in such steps, interrupted or not.
fn interrupted_run(precision: &str) -> Value {
    let whole = Cart::new();
    let data = whole.file("boats.txt", text().as_bytes());
    let words = ["--steps", "60", "--precision", precision];
    let words = [&arguments(&data, "boats", SPEC)[..], &words].concat();
    let expected = last(&whole.json(&words))["manifest"].clone();
    let twice = Cart::new();
    assert_eq!(last(&twice.json([&words[..], &["--threads", "1"]].concat()))["manifest"], expected);

    let cart = Cart::new();
    let log = cart.scratch().join("run/log.jsonl");
    let words = [&words[..], &["--run", "run", "--save-every", "7"]].concat();
    for kill in [true, false] {
        let mut child = cart.command(&words).stderr(std::process::Stdio::null()).spawn().unwrap();
        let begun = steps(&log);
        wait(|| steps(&log) > begun + 9 || child.try_wait().unwrap().is_some());
        if kill {
            child.kill().unwrap();
        } else {
            let interrupt = ["-INT", &child.id().to_string()];
            std::process::Command::new("kill").args(interrupt).status().unwrap();
        }
        child.wait().unwrap();
        assert!(log.with_file_name("checkpoint.safetensors").exists());
    }
    let report = cart.json(&words);
    assert_eq!((&report["done"], &report["steps"]), (&Value::from(true), &Value::from(60)));
    assert!(report["resumed_at"].as_u64().unwrap() >= 7, "{report}");
    assert_eq!(last(&report)["manifest"], expected);
    // Every step is in the log once.
    let text = std::fs::read_to_string(&log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found: Vec<u64> = lines
        .filter(|line| line.get("loss").is_some())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(found, (1..=60).collect::<Vec<_>>());
    let again = cart.json(&words);
    assert_eq!(
        (last(&again)["commit"].clone(), &again["steps"]),
        (last(&report)["commit"].clone(), &Value::from(60))
    );
    expected
}

/// What surprised is remembered in each epoch's cartridge, in that model's own space, and by a run that was killed as
/// by one that was not.
#[test]
fn an_agent_remembers_what_surprised_it_while_it_was_trained() {
    let cart = Cart::new();
    let rare = ["a comet fell into the harbour.\n", "who hid the emerald clarinet?\n"];
    let mut lines: Vec<String> = text().lines().map(|line| format!("{line}\n")).collect();
    for at in 0..24 {
        lines.insert(14 * at + 9, rare[at % 2].to_owned());
    }
    let data = cart.file("boats.txt", lines.concat().as_bytes());
    let spec = "layers=2,hidden=32,heads=2,context=96";
    let more = ["--epochs", "2", "--memory", "6", "--save-every", "3"];
    let words = [&arguments(&data, "boats", spec)[..], &more].concat();
    let report = cart.json(&words);
    let epochs = report["epochs"].as_array().unwrap();
    let memories: Vec<&Value> = epochs.iter().map(|epoch| &epoch["memory"]).collect();
    for memory in &memories {
        let count = |field: &str| memory[field].as_u64().unwrap();
        assert!(count("heard") > count("surprising") && count("surprising") > 0, "{memory}");
        assert!((1..=6).contains(&count("notes")) && count("ltm_slots") > 0, "{memory}");
    }
    assert!(memories[1]["heard"].as_u64() > memories[0]["heard"].as_u64());
    // Of other weights, so of another space.
    assert_ne!(memories[0]["space"], memories[1]["space"]);
    for (epoch, memory) in epochs.iter().zip(&memories) {
        let reference = epoch["commit"].as_str().unwrap();
        cart.ok(["verify", reference]);
        let manifest = cart.manifest(reference);
        assert_eq!(manifest["memory"]["space"], memory["space"]);
        let shown = cart.ok(["memory", "show", reference]);
        assert!(shown.contains("training, step"), "{shown}");
    }
    let recalled = cart.ok(["memory", "recall", "boats", "--prompt", "a comet fell into the"]);
    assert!(recalled.contains("comet"), "{recalled}");
    let log = std::fs::read_to_string(cart.scratch().join("train-boats-latest/log.jsonl")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"surprising\"")).count(), 2);

    let log = cart.scratch().join("cut/log.jsonl");
    let other = [&words[..], &["--run", "cut"]].concat();
    let mut child = cart.command(&other).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait(|| steps(&log) > 7 || child.try_wait().unwrap().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = cart.json([&other[..], &["--threads", "1"]].concat());
    assert!(resumed["resumed_at"].as_u64().unwrap() >= 3, "{resumed}");
    assert_eq!(last(&resumed)["manifest"], last(&report)["manifest"]);
    assert_eq!(last(&resumed)["memory"], last(&report)["memory"]);
    // Without a memory it is another recipe.
    let none = [&arguments(&data, "boats", spec)[..], &["--epochs", "2", "--run", "cut"]].concat();
    let refused = cart.run(none);
    assert!(
        refused.stderr.contains("memory is {\"most\":6} there, null here"),
        "{}",
        refused.stderr
    );
}

fn steps(log: &Path) -> usize {
    std::fs::read_to_string(log).map_or(0, |text| text.lines().count())
}

fn wait(until: impl FnMut() -> bool) {
    let (mut until, began) = (until, Instant::now());
    while !until() {
        assert!(began.elapsed() < Duration::from_mins(2), "nothing happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_learned_from_is_refused_before_anything_is_made() {
    let cart = Cart::new();
    let data = cart.file("boats.txt", text().as_bytes());
    let short = cart.file("short.txt", b"too short");
    let empty = cart.file("empty.txt", b"");
    let refused = |data: &str, more: &[&str], said: &str| {
        let done = cart.run([&arguments(data, "x", SPEC)[..], more].concat());
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains(said), "{}", done.stderr);
        assert!(!cart.scratch().join("train-x-latest").exists() && !cart.store().exists());
    };
    refused(&empty, &[], "there is no data");
    refused(&short, &[], "a sequence takes 33");
    refused(&data, &["--held-out", "0"], "the held-out share is 0");
    refused(&data, &["--accumulate", "0"], "the number of parts of a step is 0");
    refused(&data, &["--steps", "0"], "the number of steps is 0");
    let half = ["--precision", "f16"];
    refused(&data, &half, "steps multiply in f32 or bf16, and f16 was asked for");
    refused(&data, &["--device", "cuda:1"], "and cuda:1 was asked for");
    let mut words = arguments(&data, "x", SPEC);
    let rate = words.iter().position(|word| *word == "0.01").unwrap();
    words[rate] = "0";
    let done = cart.run(&words);
    assert!(
        done.code == Some(1) && done.stderr.contains("the learning rate is 0"),
        "{}",
        done.stderr
    );
    let done = cart.run(arguments(&data, "x", "layers=2,width=3"));
    assert!(done.code == Some(2) && done.stderr.contains("there is no `width`"), "{}", done.stderr);
}

#[test]
fn a_checkpoint_of_another_recipe_and_a_rate_that_is_too_high_stop() {
    let cart = Cart::new();
    let data = cart.file("boats.txt", text().as_bytes());
    let words = [&arguments(&data, "x", SPEC)[..], &["--steps", "4", "--run", "run"]].concat();
    let before = cart.json(&words);
    let other = cart.run([&words[..], &["--seed", "5"]].concat());
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("options.seed is 0 there, 5 here"), "{}", other.stderr);
    let other = cart.run([&words[..], &["--precision", "bf16"]].concat());
    let differs = "options.precision is \"f32\" there, \"bf16\" here";
    assert!(other.code == Some(1) && other.stderr.contains(differs), "{}", other.stderr);
    assert_eq!(last(&cart.json(&words))["manifest"], last(&before)["manifest"]);
    let checkpoint = cart.scratch().join("run/checkpoint.safetensors");
    let bytes = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    let done = cart.run(&words);
    assert!(done.code == Some(1) && done.stderr.contains("is no checkpoint"), "{}", done.stderr);

    let mut words = arguments(&data, "y", SPEC);
    let rate = words.iter().position(|word| *word == "0.01").unwrap();
    words[rate] = "1e38";
    let done = cart.run([&words[..], &["--steps", "40", "--save-every", "1"]].concat());
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("not finite at step"), "{}", done.stderr);
    assert!(cart.scratch().join("train-y-latest/checkpoint.safetensors").exists());
    assert_eq!(cart.run(["verify", "y"]).code, Some(1), "what diverged got no name");
}
