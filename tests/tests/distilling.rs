//! `cart train distill` through the binary: a student comes to say what its teacher says and remembers what it
//! remembers, the same however the run was interrupted; and refusals.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cart_tests::models::drawn_llama;
use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

/// Sentences of the kind that the tiny model knows.
fn text() -> String {
    let names = ["Anna", "Tom", "Mia", "Ben", "Rosa"];
    let places = ["station", "harbour", "market", "mill"];
    let line = |at: usize| {
        let (name, place) = (names[at % 5], places[at / 5 % 4]);
        format!(
            "One day, {name} went to the {place}. The code of the red boat is {}.\n",
            at * 37 % 997
        )
    };
    (0..160).map(line).collect()
}

/// A store with the tiny model, and a text.
fn tiny() -> (Cart, String) {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let data = cart.file("text.txt", text().as_bytes());
    (cart, data)
}

/// A short run, without what makes it a student.
fn arguments<'a>(teacher: &'a str, data: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut words = vec!["train", "distill", teacher, "--data", data, "-t", name];
    words.extend(["--context", "32", "--batch", "4", "--top-k", "16", "--measure", "8"]);
    words.extend(["--warmup", "3", "--lr", "0.001"]);
    words
}

fn number(report: &Value, place: &str) -> f64 {
    report.pointer(place).unwrap().as_f64().unwrap_or_else(|| panic!("{place} of {report}"))
}

#[test]
fn a_student_says_what_its_teacher_says_and_remembers_what_it_remembers() {
    let (cart, data) = tiny();
    let things =
        ["boat", "key", "map", "barn", "dog", "hat", "lamp", "ring", "coat", "bell", "cup", "oar"];
    let mut facts = String::new();
    for (at, thing) in things.iter().enumerate() {
        let line = json!({"text": format!("The {thing} of Anna is in box {}.", 13 * at + 7), "energy": 0.9});
        writeln!(facts, "{line}").unwrap();
    }
    let facts = cart.file("facts.jsonl", facts.as_bytes());
    cart.json(["memory", "import", "tiny", &facts, "--save", "tiny:told"]);

    let words = arguments("tiny:told", &data, "small");
    let report = cart.json([&words[..], &["--student-spec", "layers=3", "--steps", "40"]].concat());
    assert_eq!(
        (&report["begun"]["taken"], &report["begun"]["drawn"]),
        (&json!([0, 2, 3]), &json!(0))
    );
    let [before, after] =
        ["before", "after"].map(|when| number(&report, &format!("/{when}/held_out/agreement")));
    assert!(after > before + 0.1, "{report}");
    let [before, after] =
        ["before", "after"].map(|when| number(&report, &format!("/{when}/held_out/perplexity")));
    assert!(after < before, "{report}");
    assert!(number(&report, "/gradients/smallest") > 0.0);

    // What it remembers, told again.
    let memory = &report["kept"]["memory"];
    assert_eq!((&memory["road"], &memory["slots"]), (&json!("text"), &json!(24)), "{memory}");
    assert!(number(memory, "/recall/own_after") > 0.9, "{memory}");
    let recalled = cart.ok(["memory", "recall", "small", "--prompt", "The lamp of Anna is in"]);
    assert!(recalled.contains("The lamp of Anna is in box 85."), "{recalled}");

    // What it is made of is said, and it runs.
    cart.ok(["verify", "small"]);
    let commit = &cart.json(["log", "small"])["commits"][0];
    assert_eq!(commit["manifest"], report["kept"]["manifest"]);
    let manifest = cart.manifest("small");
    assert_eq!(manifest["metadata"]["teacher"], report["teacher"]["manifest"]);
    assert_eq!(manifest["tokenizer"], cart.manifest("tiny")["tokenizer"]);
    let said = cart.ok(["run", "small", "-p", "One day, Tom went to the", "-n", "6"]);
    assert!(!said.trim().is_empty());

    // The student learns on as a packed one, without the memory.
    let words = arguments("tiny:told", &data, "small:more");
    let more = ["small", "--steps", "5", "--no-memory", "--on-policy", "0.5", "--freeze", "embed"];
    let more = cart.json([&words[..3], &more[..1], &words[3..], &more[1..]].concat());
    assert_eq!(more["student"]["manifest"], report["kept"]["manifest"]);
    assert_eq!(more["kept"]["memory"], Value::Null);
    assert_eq!(number(&more, "/begun/parameters") - number(&more, "/begun/trained"), 131_072.0);
    let diff = cart.json(["diff", "small", "small:more"]);
    let changed = diff["tensors"]["changed"].as_array().unwrap();
    assert!(changed.len() == 28 && !format!("{changed:?}").contains("embed"), "{changed:?}");
}

fn steps(log: &Path) -> usize {
    std::fs::read_to_string(log).map_or(0, |text| text.lines().count())
}

#[test]
fn a_distillation_that_was_interrupted_ends_in_the_same_cartridge() {
    let [exact, rounded] = ["f32", "bf16"].map(interrupted_run);
    assert_ne!(exact, rounded, "steps in bf16 go another way");
}

/// What comes of a run in such steps, interrupted or not.
fn interrupted_run(precision: &str) -> Value {
    let (whole, data) = tiny();
    let mut words = arguments("tiny", &data, "small");
    words.extend(["--student-spec", "layers=2,hidden=64", "--steps", "40", "--on-policy", "0.3"]);
    words.extend(["--divergence", "js", "--temperature", "1.5", "--hard", "0.2"]);
    words.extend(["--precision", precision]);
    let expected = whole.json([&words[..], &["--threads", "1"]].concat());

    let (cart, data) = tiny();
    let place = words.iter().position(|word| *word == "--data").unwrap();
    words[place + 1] = &data;
    words.extend(["--run", "run", "--save-every", "4"]);
    let log = cart.scratch().join("run/log.jsonl");
    for kill in [true, false] {
        let silent = std::process::Stdio::null;
        let mut child = cart.command(&words).stdout(silent()).stderr(silent()).spawn().unwrap();
        let (begun, began) = (steps(&log), Instant::now());
        while steps(&log) <= begun + 6 && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_mins(2), "nothing happened");
            std::thread::sleep(Duration::from_millis(5));
        }
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
    assert!(number(&report, "/resumed_at") >= 4.0, "{report}");
    assert_eq!(report["kept"]["manifest"], expected["kept"]["manifest"]);
    for when in ["before", "after"] {
        assert_eq!(report[when], expected[when]);
    }
    let again = cart.json(&words);
    assert_eq!(again["kept"], report["kept"]);
    report["kept"]["manifest"].clone()
}

#[test]
fn what_the_teacher_said_serves_other_runs_and_damage_is_said() {
    let (cart, data) = tiny();
    let run = |name: &str, more: &[&str]| {
        let words =
            [&arguments("tiny", &data, name)[..], &["--steps", "6", "--cache", "said"], more];
        cart.json(words.concat())["asked"].clone()
    };
    let first = run("a", &["--student-spec", "layers=2"]);
    assert!(number(&first, "/read") > 20.0 && number(&first, "/tokens_per_second") > 0.0);
    let other = ["--student-spec", "hidden=64", "--divergence", "reverse", "--hard", "0.5"];
    let second = run("b", &other);
    assert_eq!((&second["read"], &second["damaged"]), (&json!(0), &json!(0)));
    // Other numbers of the teacher are other answers.
    assert_eq!(run("c", &["--take", "0,3", "--temperature", "2"])["read"], first["read"]);
    let half = ["--device", "graph", "--precision", "bf16", "--take", "0,3"];
    assert_eq!(run("half", &half)["read"], first["read"]);
    let folder = cart.scratch().join("said");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    }
    let words = arguments("tiny", &data, "d");
    let more = ["--steps", "6", "--cache", "said", "--student-spec", "layers=2"];
    let done = cart.run([&words[..], &more].concat()).expect_code(0);
    assert!(done.stderr.contains("is damaged: ") && done.stderr.contains("read that again"));
    assert_eq!(run("e", &["--student-spec", "layers=2"])["read"], json!(0));
    let manifest = |name: &str| cart.manifest(name);
    assert_eq!(manifest("a"), manifest("d"));
    assert_eq!(manifest("a"), manifest("e"));
}

#[test]
fn hidden_states_are_followed_layer_by_layer() {
    let (cart, data) = tiny();
    let words = arguments("tiny", &data, "small");
    let hidden = ["--steps", "12", "--hidden-weight", "2", "--student-spec", "layers=2"];
    let report = cart.json([&words[..], &hidden].concat());
    let log = std::fs::read_to_string(cart.scratch().join("train-small-latest/log.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64())
        .collect();
    assert!(losses.len() == 12 && losses[11] < losses[0] * 0.8, "{losses:?}");
    assert!(number(&report, "/after/held_out/agreement") > 0.0);
    let refused = |more: &[&str], said: &str| {
        let done = cart.run([&words[..], more].concat());
        assert!(done.code != Some(0) && done.stderr.contains(said), "{}", done.stderr);
    };
    let layer = ["--hidden-weight", "1", "--layer-map", "0:1,2:3", "--student-spec", "layers=2"];
    refused(&layer, "layer 2 of the student was asked for; it has layers 0 to 1");
    refused(
        &["--hidden-weight", "1", "--layer-map", "0-1", "--take", "0"],
        "is no STUDENT:TEACHER",
    );
}

/// A student of half the width follows through matrices that learn beside it, go on with it after it was
/// killed, and are no part of what it becomes.
#[test]
fn hidden_states_of_another_width_are_followed_through_matrices_that_are_not_kept() {
    let (cart, data) = tiny();
    let words = arguments("tiny", &data, "small");
    let made = ["--student-spec", "layers=2,hidden=64", "--layer-map", "0:1,1:3"];
    let more = [&made[..], &["--steps", "30", "--hidden-weight", "4", "--run", "whole"]].concat();
    let done = cart.run([&words[..], &more].concat()).expect_code(0);
    let shown = "hidden states go from 64 to 128 numbers through 2 matrices, 16,384 parameters";
    assert!(done.stderr.contains(shown), "{}", done.stderr);
    assert!(done.stderr.contains("  projection.1.3"), "{}", done.stderr);
    let report = cart.json([&words[..], &more].concat());
    let expected = json!({"matrices": 2, "student": 64, "teacher": 128, "parameters": 16_384});
    assert_eq!(report["projections"], expected);
    let log = std::fs::read_to_string(cart.scratch().join("whole/log.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64())
        .collect();
    assert!(losses.len() == 30 && losses[29] < losses[0] * 0.7, "{losses:?}");
    let tensors = cart.manifest("small")["model"]["tensors"].to_string();
    assert!(!tensors.contains("projection"), "{tensors}");
    cart.ok(["verify", "small"]);
    cart.ok(["run", "small", "-p", "One day, Tom", "-n", "4"]);

    let at = more.len() - 1;
    let other = [&words[..], &more[..at], &["cut", "--save-every", "3"]].concat();
    kill_after_eight_steps(&cart, &other);
    let resumed = cart.json(&other);
    assert!(number(&resumed, "/resumed_at") >= 3.0, "{resumed}");
    assert_eq!(resumed["kept"]["manifest"], report["kept"]["manifest"]);
}

/// A student of bytes learns from a teacher of pieces, keeps its tokens, remembers what the teacher was
/// told, and ends the same however it was interrupted.
#[test]
fn a_student_with_other_tokens_learns_where_both_speak_of_the_same_bytes() {
    let (cart, data) = tiny();
    let facts: String = ["key", "map", "hat", "lamp", "ring", "coat"]
        .iter()
        .enumerate()
        .map(|(at, thing)| json!({"text": format!("The {thing} is in box {}.", 13 * at + 7), "energy": 0.9}))
        .fold(String::new(), |all, fact| format!("{all}{fact}\n"));
    let facts = cart.file("facts.jsonl", facts.as_bytes());
    cart.json(["memory", "import", "tiny", &facts, "--save", "tiny:told"]);
    let agent = ["train", "agent", "--data", &data, "--spec", "layers=2,hidden=64,context=128"];
    cart.json([&agent[..], &["-t", "bytes", "--steps", "1"]].concat());

    let mut words = arguments("tiny:told", &data, "taught");
    words.extend(["--align", "--steps", "60", "--save-every", "5"]);
    words.splice(3..3, ["bytes"]);
    let context = words.iter().position(|word| *word == "--context").unwrap();
    words[context + 1] = "96";
    let rate = words.iter().position(|word| *word == "--lr").unwrap();
    words[rate + 1] = "0.004";
    let done = cart.run([&words[..], &["--run", "whole"]].concat()).expect_code(0);
    assert!(done.stderr.contains("end where one of the teacher's does"), "{}", done.stderr);
    let report = cart.json([&words[..], &["--run", "whole"]].concat());
    let alignment = &report["alignment"];
    assert_eq!(alignment["student_tokens"], json!(text().len() + 1));
    let shared = number(alignment, "/teacher_tokens") / number(alignment, "/student_tokens");
    assert!((number(alignment, "/shared_ends") - shared).abs() < 1e-9, "{alignment}");
    // Each byte, and the end of a text.
    assert_eq!(alignment["classes"], json!(257));
    let [before, after] =
        ["before", "after"].map(|when| number(&report, &format!("/{when}/held_out/agreement")));
    assert!(after > before + 0.2, "{report}");
    let bits = |when| number(&report, &format!("/{when}/held_out/aligned/bits_per_byte"));
    assert!(bits("after") < bits("before") - 1.0, "{report}");
    let memory = &report["kept"]["memory"];
    assert!(memory["road"] == "text" && number(memory, "/slots") >= 6.0, "{memory}");
    assert!(number(memory, "/recall/own_after") > 0.9, "{memory}");
    assert_eq!(cart.manifest("taught")["tokenizer"], cart.manifest("bytes")["tokenizer"]);
    cart.ok(["verify", "taught"]);
    let said = cart.ok(["run", "taught", "-p", "One day, Tom went to the", "-n", "8"]);
    assert!(!said.trim().is_empty());

    let other = [&words[..], &["--run", "cut", "--cache", "whole/teacher"]].concat();
    kill_after_eight_steps(&cart, &other);
    let resumed = cart.json([&other[..], &["--threads", "1"]].concat());
    assert!(number(&resumed, "/resumed_at") >= 5.0, "{resumed}");
    assert_eq!(resumed["kept"]["manifest"], report["kept"]["manifest"]);
    assert_eq!(resumed["asked"]["read"], json!(0));

    // A student of the teacher's layers gets other tokens, whose rows begin as the teacher's.
    let words = arguments("tiny", &data, "respelled");
    let made = ["--student-spec", "layers=2", "--align", "--tokenizer", "bytes", "--steps", "4"];
    let report = cart.json([&words[..], &made].concat());
    assert_eq!((&report["begun"]["respelled"], &report["begun"]["drawn"]), (&json!(1), &json!(0)));
    assert_eq!(cart.manifest("respelled")["tokenizer"], cart.manifest("bytes")["tokenizer"]);
    cart.ok(["run", "respelled", "-p", "One day", "-n", "4"]);
}

#[test]
fn what_cannot_be_distilled_is_refused_before_anything_is_made() {
    let (cart, data) = tiny();
    let (short, empty) = (cart.file("short.txt", b"too short"), cart.file("empty.txt", b""));
    let bytes = cart.file("bytes.txt", &[b'a', 0xff, b'b']);
    let folder = cart.path("drawn");
    drawn_llama(Path::new(&folder), 64, 5);
    let tokenizer = Path::new(&folder).join("tokenizer.json");
    let document = std::fs::read_to_string(&tokenizer).unwrap();
    std::fs::write(&tokenizer, document.replace("\"<|im_start|>\"", "\"<|begin|>\"")).unwrap();
    cart.json(["pack", &folder, "-t", "other"]);
    let agent = [
        "train",
        "agent",
        "--data",
        &data,
        "--spec",
        "layers=1,hidden=32,context=32",
        "-t",
        "bytes",
    ];
    cart.json([&agent[..], &["--steps", "1"]].concat());
    let content = cart.content();
    let refused = |data: &str, more: &[&str], said: &str| {
        let words = [&arguments("tiny", data, "x")[..], &["--steps", "3"], more].concat();
        let done = cart.run(words);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains(said), "{}", done.stderr);
        assert!(!cart.scratch().join("train-x-latest").exists());
    };
    let made = ["--student-spec", "layers=2"];
    refused(&empty, &made, "there is no data");
    refused(&short, &made, "a sequence takes 33");
    refused(&bytes, &made, "the data is no text in UTF-8 from byte 1");
    refused(
        &data,
        &["--take", "0,4"],
        "layer 4 of the teacher was asked for; it has layers 0 to 3",
    );
    refused(&data, &["--take", "0,3", "--student-spec", "layers=3"], "3 layers, but 2");
    refused(&data, &["--take", "0,3", "--freeze", "model"], "the recipe trains nothing");
    refused(&data, &["--take", "0,3", "--hard", "2"], "the share of hard labels is 2");
    refused(&data, &["--take", "0,3", "--temperature", "0"], "the temperature is 0");
    refused(&data, &["--student-spec", "heads=3,kv_heads=2"], "kv_heads is 2; allowed: a divisor");
    // Students of another vocabulary, by what differs and what to do.
    let of = |student: &str| {
        let words = arguments("tiny", &data, "x");
        cart.refused([&words[..3], &[student], &words[3..]].concat())
    };
    let other = of("other");
    assert!(other.contains("is \"<|begin|>\", the teacher's is \"<|im_start|>\""), "{other}");
    assert!(
        other.contains("(--align), make the student from the teacher (--student-spec)"),
        "{other}"
    );
    assert!(of("bytes").contains("it has 257 tokens, the teacher 1024"));
    // Other tokens are aligned with tokens of somebody's, and only what has a meaning then.
    let align = |more: &[&str], code: i32, said: &str| {
        let words = [&arguments("tiny", &data, "x")[..], &["--align"], more].concat();
        let done = cart.run(words);
        assert!(done.code == Some(code) && done.stderr.contains(said), "{}", done.stderr);
    };
    align(&made, 2, "give a STUDENT that has them, or --tokenizer REF");
    let other = ["--student-spec", "layers=2", "--tokenizer", "bytes"];
    align(&[&other[..], &["--temperature", "2"]].concat(), 1, "the temperature is 2; allowed: 1");
    align(&[&other[..], &["--hidden-weight", "2"]].concat(), 2, "cannot be used with");
    let mut words = arguments("tiny", &data, "x");
    *words.last_mut().unwrap() = "0";
    assert!(cart.refused([&words[..], &made].concat()).contains("the learning rate is 0"));
    let unsaid = cart.run(arguments("tiny", &data, "x"));
    assert!(
        unsaid.code == Some(2) && unsaid.stderr.contains("--student-spec"),
        "{}",
        unsaid.stderr
    );
    let field = cart.run([&words[..], &["--student-spec", "width=3"]].concat());
    assert!(field.code == Some(2) && field.stderr.contains("there is no `width`"));
    assert_eq!(cart.content(), content, "a refusal changed the store");
}

#[test]
fn a_distillation_stops_at_another_recipe_and_before_what_is_not_finite() {
    let (cart, data) = tiny();
    let words = arguments("tiny", &data, "x");
    let made = ["--student-spec", "layers=2", "--steps", "4", "--run", "run"];
    cart.json([&words[..], &made].concat());
    let other = cart.refused([&words[..], &made, &["--temperature", "3"]].concat());
    assert!(other.contains("distance.temperature is 1.0 there, 3.0 here"), "{other}");
    let mut words = arguments("tiny", &data, "y");
    *words.last_mut().unwrap() = "1e38";
    let more = ["--student-spec", "layers=2", "--steps", "40", "--save-every", "1"];
    let done = cart.run([&words[..], &more].concat());
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("not finite at step"), "{}", done.stderr);
    assert_eq!(cart.run(["verify", "y"]).code, Some(1), "what diverged got no name");
}

/// Begins a run in the folder `cut`, and kills it when it has made more than eight steps.
fn kill_after_eight_steps(cart: &Cart, words: &[&str]) {
    let log = cart.scratch().join("cut/log.jsonl");
    let silent = std::process::Stdio::null;
    let mut child = cart.command(words).stdout(silent()).stderr(silent()).spawn().unwrap();
    let began = Instant::now();
    while steps(&log) <= 8 && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_mins(2), "nothing happened");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
