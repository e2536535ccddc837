//! Completing, probing and measuring with the small model.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, damage, fixture, test_model};
use serde_json::Value;

fn tiny() -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

#[test]
fn run_prints_the_new_text_and_nothing_else() {
    let cart = tiny();
    let prompt = "One day, Anna";
    let report = cart.json(["run", "tiny", "-p", prompt, "-n", "12"]);
    let done = cart.run(["run", "tiny", "-p", prompt, "-n", "12"]).expect_code(0);
    assert_eq!(
        done.stdout.trim_end_matches('\n'),
        report["text"].as_str().unwrap().trim_end_matches('\n')
    );
    assert!(!done.stdout.starts_with(prompt));
    let piped = cart.run_with_stdin(["run", "tiny", "-p", "-", "-n", "12"], prompt);
    assert_eq!(piped.stdout, done.stdout);
    assert_eq!(
        report["token_ids"].as_array().unwrap().len(),
        report["logprobs"].as_array().unwrap().len()
    );
    let file = cart.path("tiny.cart");
    cart.ok(["export", "tiny", "-o", &file]);
    let from_file = cart.json(["run", &file, "-p", prompt, "-n", "12"]);
    assert_eq!(
        (&from_file["token_ids"], &from_file["logprobs"]),
        (&report["token_ids"], &report["logprobs"])
    );
}

#[test]
fn greedy_is_best_and_sampling_repeats_by_seed() {
    let cart = tiny();
    let run = |extra: &[&str]| {
        cart.json(
            [&["run", "tiny", "-p", "One day,", "-n", "16", "--ignore-eos"][..], extra].concat(),
        )
    };
    let greedy = run(&["--top-logprobs", "3"]);
    let best =
        greedy["top_logprobs"].as_array().unwrap().iter().map(|step| step[0]["token"].clone());
    assert_eq!(best.collect::<Vec<Value>>(), *greedy["token_ids"].as_array().unwrap());
    for extra in [
        &["--temperature", "1.3"][..],
        &["--temperature", "1", "--top-k", "5"],
        &["--temperature", "1", "--top-p", "0.7"],
        &["--temperature", "1", "--min-p", "0.1"],
    ] {
        let with = |seed: &str| run(&[extra, &["--seed", seed]].concat())["token_ids"].clone();
        assert_eq!(with("1"), with("1"), "{extra:?}");
    }
    let seeds: std::collections::BTreeSet<String> = (0..6)
        .map(|seed| run(&["--temperature", "1.5", "--seed", &seed.to_string()])["text"].to_string())
        .collect();
    assert!(seeds.len() > 1);
    assert_eq!(run(&["--temperature", "2", "--top-k", "1"])["token_ids"], greedy["token_ids"]);
}

#[test]
fn a_stop_text_ends_the_text_before_it() {
    let cart = tiny();
    let plain = cart.json(["run", "tiny", "-p", "One day, Anna", "-n", "30"]);
    let text = plain["text"].as_str().unwrap();
    let stop = &text[text.len() / 2..text.len() / 2 + 4];
    let stopped = cart.json(["run", "tiny", "-p", "One day, Anna", "-n", "30", "--stop", stop]);
    assert_eq!(stopped["finish"], "stop");
    assert_eq!(stopped["text"], text.split(stop).next().unwrap());
}

#[test]
fn a_damaged_cartridge_does_not_run() {
    let cart = tiny();
    let manifest = cart.manifest("tiny");
    let (name, tensor) = manifest["model"]["tensors"].as_object().unwrap().iter().next().unwrap();
    let path = cart.blob(tensor["blob"].as_str().unwrap());
    damage::flip_bit(&path, 77, 3);
    for command in [
        vec!["run", "tiny", "-p", "x", "-n", "1"],
        vec!["probe", "tiny", "-p", "x"],
        vec!["serve", "tiny", "--listen", "127.0.0.1:0"],
    ] {
        let said = cart.refused(&command);
        assert!(said.contains(name), "{said}");
    }
    damage::flip_bit(&path, 77, 3);
    cart.ok(["run", "tiny", "-p", "x", "-n", "1"]);
}

#[test]
fn probes_are_recorded_on_a_commit_and_checked() {
    let cart = tiny();
    let said = cart.refused(["probe", "tiny"]);
    assert!(said.contains("no probes"), "{said}");
    let before = cart.json(["inspect", "tiny"]);
    let recorded =
        cart.json(["probe", "tiny", "-p", "One day,", "-p", "The code of the red boat is"]);
    assert_eq!(
        (recorded["recorded"].as_u64(), recorded["passed"].as_bool()),
        (Some(2), Some(true))
    );
    let after = cart.json(["inspect", "tiny"]);
    assert_eq!(after["manifest"], before["manifest"], "probes are not content");
    assert_ne!(after["commit"], before["commit"]);
    assert_eq!(after["probes"], 2);
    let checked = cart.json(["probe", "tiny", "--threads", "1"]);
    assert_eq!(checked["probes"].as_array().unwrap().len(), 2);
    assert_eq!(checked["passed"], true);
    assert_eq!(cart.json(["log", "tiny"])["commits"][0]["recipe"], "probe");
    let replaced =
        cart.json(["probe", "tiny", "-p", "Tom", "--replace", "--steps", "2", "--top", "3"]);
    assert_eq!(replaced["recorded"], 1);
    assert_eq!(cart.json(["inspect", "tiny"])["probes"], 1);
    // A .cart file carries them.
    let file = cart.path("tiny.cart");
    cart.ok(["export", "tiny", "-o", &file]);
    assert_eq!(cart.json(["probe", &file])["passed"], true);
    let done = cart.run(["probe", &file, "-p", "x"]);
    assert_eq!(done.code, Some(2), "a file has no name to record under: {done:?}");
}

#[test]
fn a_probe_that_another_model_recorded_fails() {
    let cart = tiny();
    cart.ok(["probe", "tiny", "-p", "One day, Anna went", "--tolerance", "0.01"]);
    let commit = cart.json(["inspect", "tiny"])["commit"].as_str().unwrap().to_owned();
    let path = cart.store().join("commits/sha256").join(commit);
    let mut commit: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let first = &mut commit["probes"][0]["steps"][0]["top"][0]["logprob"];
    *first = (first.as_f64().unwrap() - 0.5).into();
    let bytes = cart_format::json::to_canonical(&commit).unwrap();
    let id = cart_format::CommitId::of(&bytes).hex();
    std::fs::write(cart.store().join("commits/sha256").join(&id), bytes).unwrap();
    cart.ok(["tag", &id, "tiny:moved"]);
    let report = cart.json_with_code(1, ["probe", "tiny:moved"]);
    assert_eq!(report["passed"], false);
    assert!(report["probes"][0]["largest_shift"].as_f64().unwrap() > 0.4, "{report}");
    assert!(cart.run(["probe", "tiny:moved"]).expect_code(1).stdout.contains("FAIL"));
}

#[test]
fn perplexity_is_that_of_the_text() {
    let cart = tiny();
    let known = "One day, Anna went to the barn. She wanted to find her new shoe. ".repeat(40);
    let known = cart.file("known.txt", known.as_bytes());
    let noise: String = {
        let mut chance = cart_tests::Chance::new(4);
        (0..2400).map(|_| char::from(b'!' + chance.below(90) as u8)).collect()
    };
    let noise = cart.file("noise.txt", noise.as_bytes());
    let eval = |text: &str| cart.json(["eval", "tiny", "--text", text, "--chunk", "128"]);
    let (low, high) = (eval(&known), eval(&noise));
    let value = |report: &Value| report["perplexity"].as_f64().unwrap();
    assert!(value(&low) * 20.0 < value(&high), "{low} {high}");
    let nats = low["nats_per_token"].as_f64().unwrap();
    assert!((nats.exp() / value(&low) - 1.0).abs() < 1e-9);
    let cut = cart.json(["eval", "tiny", "--text", &noise, "--chunk", "128", "--chars", "1200"]);
    assert!(cut["chunks"].as_u64() < high["chunks"].as_u64());
    let short = cart.file("short.txt", b"One day.");
    let said = cart.refused(["eval", "tiny", "--text", &short]);
    assert!(said.contains("512"), "{said}");
    let not_text = cart.file("not.txt", b"\xff\xfe\x00");
    cart.refused(["eval", "tiny", "--text", &not_text]);
}

/// Whole greedy texts are no test, because llama.cpp's own back ends part ways on most prompts;
/// first steps are. Its 8-bit activations put it up to 0.13 nat off the exact numbers, so a token
/// of its five best may be our sixth, if our fifth is no better than by a fraction of that.
#[test]
fn the_first_steps_of_smollm2_are_llama_cpps() {
    let Some(model) = test_model() else { return };
    let cart = Cart::new();
    cart.ok(["pack", &model, "-t", "smol"]);
    let reference = std::fs::read(fixture("reference/smollm2-llama-cpp.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    for case in reference["prompts"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let report = cart.json([
            "run",
            "smol",
            "-p",
            prompt,
            "-n",
            "1",
            "--top-logprobs",
            "8",
            "--ignore-eos",
        ]);
        assert_eq!(report["prompt_ids"], case["prompt_ids"], "{prompt:?}");
        let ours = report["top_logprobs"][0].as_array().unwrap();
        let theirs = case["top5_first"].as_array().unwrap();
        for best in theirs {
            let found = ours.iter().find(|ours| ours["token"] == best[0]);
            let found = found.unwrap_or_else(|| panic!("{prompt:?}: {best} is not in {ours:?}"));
            let shift = found["logprob"].as_f64().unwrap() - best[1].as_f64().unwrap();
            assert!(shift.abs() < 0.15, "{prompt:?}: {best}, ours {found}");
            let behind = ours[4]["logprob"].as_f64().unwrap() - found["logprob"].as_f64().unwrap();
            assert!(behind < 0.05, "{prompt:?}: {best} is {behind} nat behind our fifth");
        }
    }
}

/// The perplexity of the issue: llama.cpp says 18.39 to 18.49 here, PyTorch in f32 18.34.
#[test]
fn the_perplexity_of_smollm2() {
    let Some(model) = test_model() else { return };
    let cart = Cart::new();
    cart.ok(["pack", &model, "-t", "smol"]);
    let text = fixture("text/gpl-3.txt");
    let report = cart.json(["eval", "smol", "--text", &text, "--chars", "20000"]);
    let perplexity = report["perplexity"].as_f64().unwrap();
    assert!((18.30..=18.55).contains(&perplexity), "{report}");
}
