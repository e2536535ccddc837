//! `cart bench`: rivals are run beside cart and believed, kernel levels are compared, and what goes
//! wrong is said.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cart_tests::{Cart, fixture};
use serde_json::Value;

const JOBS: [&str; 6] = ["--rounds", "1", "--with-threads", "1", "--jobs", "short,first,many,long"];

/// Puts a driver into the folder of the rivals: a script that answers as `scripts/rivals/README.md`
/// says.
fn rival(folder: &str, name: &str, script: &str) {
    let folder = Path::new(folder).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let run = folder.join("run");
    std::fs::write(&run, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["models"][0]["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn cart_and_its_rivals_have_their_turns() {
    let (cart, tiny) = (Cart::new(), fixture("tiny"));
    let rivals = cart.path("rivals");
    // It decodes a token a second, whatever the machine; the rest it leaves out.
    rival(
        &rivals,
        "slow",
        r#"echo '{"event":"engine","engine":"Slow","version":"0.1"}'
        case $3 in
            short) echo '{"event":"measure","what":"decode","tokens":2,"seconds":2.0}' ;;
            *) echo '{"event":"absent"}' ;;
        esac
        echo '{"event":"done"}'; cat > /dev/null"#,
    );
    rival(&rivals, "broken", "echo 'cannot open the model' >&2; exit 4");
    let mut words = vec!["bench", "engine", &tiny, "--rivals", &rivals];
    words.extend(JOBS);
    let report = cart.json(words);

    let own = row(&report, "cart");
    for what in ["prefill", "decode", "long_prefill", "long_decode", "many_decode"] {
        assert!(own["tokens_per_second"][what]["best"].as_f64().unwrap() > 0.0, "{what}: {own}");
    }
    assert!(own["first_token_seconds"]["best"].as_f64().unwrap() > 0.0, "{own}");
    assert_eq!(own["problems"].as_array().unwrap().len(), 0, "{own}");
    assert!(own["share_of_bound"]["decode_of_bandwidth"].as_f64().unwrap() > 0.0, "{own}");

    let slow = row(&report, "slow");
    assert_eq!((&slow["engine"], &slow["version"]), (&"Slow".into(), &"0.1".into()));
    assert_eq!(slow["tokens_per_second"]["decode"]["best"], 1.0);
    let decode = own["tokens_per_second"]["decode"]["best"].as_f64();
    assert_eq!(slow["cart_is_ahead"]["decode"].as_f64(), decode);
    assert_eq!(slow["problems"].as_array().unwrap().len(), 3, "{slow}");

    let broken = row(&report, "broken");
    let problems = broken["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 4, "{broken}");
    let said = |problem: &Value| problem.as_str().unwrap().contains("cannot open the model");
    assert!(problems.iter().all(said), "{broken}");
    assert!(!cart.store().exists(), "the benchmark wrote to the user's store");
}

#[test]
fn without_rivals_cart_is_measured_alone() {
    let (cart, tiny) = (Cart::new(), fixture("tiny"));
    let words =
        ["bench", "engine", &tiny, "--rounds", "1", "--with-threads", "1", "--jobs", "short,first"];
    let report = cart.json(words);
    let rows = report["models"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{report}");
    assert_eq!((&rows[0]["name"], &rows[0]["problems"]), (&"cart".into(), &serde_json::json!([])));
    assert!(rows[0]["tokens_per_second"]["decode"]["best"].as_f64().unwrap() > 0.0, "{report}");
    let said = cart.ok(words);
    assert!(said.contains("PREFILL") && said.contains("bandwidth"), "{said}");
    assert!(!said.contains("advantage"), "ratios are explained, but there are none: {said}");
}

#[test]
fn a_benchmark_that_can_not_be_run_says_why() {
    let (cart, tiny) = (Cart::new(), fixture("tiny"));
    let said = cart.refused(["bench", "engine", &cart.path("absent.gguf")]);
    assert!(said.contains("absent.gguf") && said.contains("fetch-models"), "{said}");
    let none = cart.path("rivals");
    std::fs::create_dir(&none).unwrap();
    let said = cart.refused(["bench", "engine", &tiny, "--rivals", &none]);
    assert!(said.contains("install-rivals"), "{said}");
    let done = cart.run(["bench", "engine", &tiny, "--with-threads", "0"]);
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn kernel_levels_agree_on_the_most_likely_token() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let words = ["bench", "kernels", "tiny", "--positions", "200", "--rounds", "1"];
    let report = cart.json(words);
    assert_eq!(report["positions"], 200);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows[0]["level"], "portable");
    assert_eq!(rows[0]["same_top1"], 200);
    assert_eq!(rows[0]["largest_difference"].as_f64(), Some(0.0));
    for row in rows {
        assert!(row["share_top1"].as_f64().unwrap() >= 0.995, "{row}");
    }
}

#[test]
fn a_profile_accounts_for_the_time_of_a_token() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let words = ["bench", "profile", "tiny", "--prompt", "64", "-n", "16", "--sessions", "3"];
    let report = cart.json(words);
    let phases = report["phases"].as_array().unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    for (phase, (what, tokens)) in
        phases.iter().zip([("prompt", 64), ("one-session", 16), ("many-sessions", 48)])
    {
        assert_eq!((&phase["what"], &phase["tokens"]), (&what.into(), &tokens.into()));
        let parts = phase["parts"].as_array().unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
        let all = [
            "embedding",
            "mixer-input",
            "mixer",
            "mixer-output",
            "mlp-input",
            "mlp-output",
            "head",
        ];
        assert_eq!(names, all);
        let sum = parts.iter().map(|part| number(&part["seconds"])).sum::<f64>();
        let rest = number(&phase["rest_seconds"]);
        assert!((sum + rest - number(&phase["seconds"])).abs() < 1e-6, "{phase}");
    }
    // Each weight is multiplied with each token, but the head's with one of the prompt.
    let products = |phase: &Value, part: usize| phase["parts"][part]["products"].as_u64().unwrap();
    for part in [1, 3, 4, 5] {
        assert_eq!(products(&phases[0], part) / 64, products(&phases[1], part) / 16);
        assert_eq!(products(&phases[1], part) * 3, products(&phases[2], part));
    }
    assert_eq!(products(&phases[0], 6), products(&phases[1], 6) / 16);
    let said = cart.refused(["bench", "profile", "tiny", "--device", "graph"]);
    assert!(said.contains("--device graph"), "{said}");
    let done = cart.run(["bench", "profile", "tiny", "--prompt", "99999"]);
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn a_device_can_be_chosen_for_any_command() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let prompt = "The code of the red boat is 4821. The code of the red boat is";
    let run = ["run", "tiny", "-n", "5", "-p", prompt];
    let text = cart.ok(run);
    assert_eq!(cart.ok([&run[..], &["--device", "cpu"]].concat()), text);
    assert_eq!(cart.ok([&run[..], &["--device", "graph"]].concat()), text);
    let half = ["--device", "graph", "--precision", "bf16"];
    assert!(!cart.ok([&run[..], &half].concat()).is_empty());
    let done = cart.run([&run[..], &["--device", "gpu"]].concat());
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("unknown device `gpu`"), "{done:?}");
    // Tests are built without GPUs.
    for feature in ["cuda", "metal"] {
        let done = cart.run([&run[..], &["--device", feature]].concat());
        assert_eq!(done.code, Some(1));
        assert!(done.stderr.contains(&format!("--features {feature}")), "{done:?}");
    }
    let done = cart.run([&run[..], &["--device", "graph", "--kernels", "portable"]].concat());
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("of the CPU's own kernels"), "{done:?}");
}

#[test]
fn a_continued_session_is_compared_with_one_that_reads() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let names = cart.ok(["ls"]);
    let words =
        ["bench", "session", "tiny", "--tokens", "300", "--going-on", "32", "--rounds", "1"];
    let report = cart.json(words);
    assert_eq!((&report["tokens"], &report["generated"]), (&300.into(), &32.into()), "{report}");
    assert_eq!(report["same_tokens"], true, "{report}");
    for what in ["state", "first_output"] {
        let figure = |name: &str| report[what][name].as_f64().unwrap();
        let ratio = figure("restore_seconds") / figure("read_seconds");
        assert!((figure("restore_over_read") / ratio - 1.0).abs() < 1e-9, "{what}: {report}");
    }
    assert_eq!(cart.ok(["ls"]), names, "the benchmark wrote to the user's store");
    let said = cart.refused(["bench", "session", "tiny", "--tokens", "512"]);
    assert!(said.contains("the context has room for 512"), "{said}");
}

#[test]
fn kernels_can_be_forced_for_any_command() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let prompt = "The code of the red boat is 4821. The code of the red boat is";
    let run = ["run", "tiny", "-n", "5", "-p", prompt];
    let best = cart.ok(run);
    assert_eq!(cart.ok([&run[..], &["--kernels", "portable"]].concat()), best);
    let done = cart.run([&run[..], &["--kernels", "fast"]].concat());
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("unknown kernel level `fast`"), "{done:?}");
}

#[test]
fn what_memory_is_worth_is_measured_with_its_controls_and_drawn() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let (names, plot) = (cart.ok(["ls"]), cart.path("memory.svg"));
    let words = ["bench", "memory", "tiny", "--facts", "4", "--seeds", "2", "--seed", "3"];
    let text = cart.path("text.txt");
    let lines: Vec<String> = (0..200).map(|n| format!("Line {n}, and then another.\n")).collect();
    std::fs::write(&text, lines.concat()).unwrap();
    let more = ["--filler", "200", "--text", &text, "--plot", &plot];
    let report = cart.json(words.into_iter().chain(more));
    assert_eq!(report["seeds"], serde_json::json!([3, 4]));
    let rows = report["rows"].as_array().unwrap();
    for task in ["facts", "corrections", "unrelated", "knn", "passkey", "goal", "association"] {
        let row = rows.iter().find(|row| row["task"] == task).unwrap_or_else(|| panic!("{task}"));
        assert_eq!(row["memory"].as_array().unwrap().len(), 2, "{row}");
        assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
    }
    // What was measured is drawn again, whichever files it is in; but not the same row from two.
    let part = |name: &str, task: &str| {
        let mut part = report.clone();
        part["rows"]
            .as_array_mut()
            .unwrap()
            .retain(|row| (row["task"] == "facts") == (task == "facts"));
        cart.file(name, part.to_string().as_bytes())
    };
    let (facts, others) = (part("facts.json", "facts"), part("others.json", "others"));
    let drawn = cart.path("again.svg");
    let again =
        cart.json(["bench", "memory", "--from", &others, "--from", &facts, "--plot", &drawn]);
    assert_eq!(again["rows"], report["rows"]);
    assert_eq!(std::fs::read(&drawn).unwrap(), std::fs::read(&plot).unwrap());
    let twice = cart.run(["bench", "memory", "--from", &facts, "--from", &facts]).expect_code(1);
    assert!(twice.stderr.contains("again"), "{}", twice.stderr);
    let facts = rows.iter().find(|row| row["task"] == "facts").unwrap();
    assert_eq!(facts["none"], serde_json::json!([0, 0]), "made-up facts can't be known");
    assert_eq!(cart.ok(["ls"]), names, "the benchmark wrote to the user's store");
    let done = cart.run(["bench", "memory", "tiny", "--plot", "memory.gif"]);
    assert_eq!(done.code, Some(2), "{done:?}");
}

/// Three cartridges, one of them Mamba-shaped: in modes and with policies that are drawn, with damage, rollbacks and clients that go away.
#[test]
fn every_stream_says_what_its_cartridges_say_alone_whatever_is_swapped() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let told =
        cart.file("told.txt", b"The mill stands at the river.\n\nThe ferry leaves at nine.\n");
    cart.ok(["memory", "import", "tiny", &told, "--save", "tiny:told"]);
    let boats =
        cart.file("boats.txt", "The boat is red. Anna went to the barn.\n".repeat(200).as_bytes());
    let spec = "shape=mamba,layers=2,hidden=32,state=4,context=128";
    cart.ok(["train", "agent", "--data", &boats, "-t", "mamba", "--spec", spec, "--epochs", "1"]);
    let storm = |seed: &str| {
        let words =
            ["bench", "swap", "tiny", "tiny:told", "mamba", "--streams", "150", "--seed", seed];
        cart.json([&words[..], &["--swaps", "30", "--at-once", "24", "--tokens", "24"]].concat())
    };
    for seed in ["1", "2"] {
        let report = storm(seed);
        for what in ["dropped", "garbled", "stale"] {
            assert_eq!(report["streams"][what], 0, "{report}");
        }
        assert_eq!((&report["swaps"]["asked"], &report["swaps"]["wrong"]), (&30.into(), &0.into()));
        assert!(report["swaps"]["refused"].as_u64() > Some(0), "{report}");
        assert!(report["streams"]["moved"].as_u64() > Some(0), "{report}");
    }
    let alone = cart.run(["bench", "swap", "tiny"]).expect_code(2);
    assert!(alone.stderr.contains("2 values required"), "{}", alone.stderr);
}
