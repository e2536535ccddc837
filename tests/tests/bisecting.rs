//! Histories with merges: drawn, and searched for the commit that broke something.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, models};
use serde_json::Value;

/// Packs a model that is the same but for its seed.
fn commit(cart: &Cart, seed: u64, message: &str) -> String {
    let file = cart.file("m.safetensors", &models::small_safetensors(3, seed));
    cart.json(["pack", &file, "-t", "m", "-m", message])["commit"].as_str().unwrap().to_owned()
}

fn ids(commits: &Value) -> Vec<&str> {
    commits.as_array().unwrap().iter().map(|one| one["commit"].as_str().unwrap()).collect()
}

#[test]
fn the_commit_that_broke_a_probe_is_found_among_64() {
    let cart = Cart::new();
    let folder = cart.scratch().join("model");
    models::drawn_llama(&folder, 32, 1);
    let path = folder.to_str().unwrap().to_owned();
    cart.ok(["pack", &path, "-t", "agent"]);
    cart.ok(["probe", "agent", "-p", "once upon", "--steps", "1", "--tolerance", "0.01"]);
    let probes = cart.json(["log", "agent"])["commits"][0]["commit"].as_str().unwrap().to_owned();
    // 64 commits; the 41st changes the weights, the others only what is said about the model.
    let mut commits = vec![probes.clone()];
    for at in 1..=64 {
        if at == 41 {
            models::drawn_llama(&folder, 32, 2);
        }
        let config = folder.join("generation_config.json");
        std::fs::write(config, format!(r#"{{"max_length": {at}}}"#)).unwrap();
        let packed = cart.json(["pack", &path, "-t", "agent", "-m", &format!("step {at}")]);
        commits.push(packed["commit"].as_str().unwrap().to_owned());
    }
    // Probes hang on the commit that recorded them; the judge asks each cartridge the same.
    let expected = cart.ok(["run", &probes, "-p", "once upon", "-n", "3"]);
    let judge =
        format!("test \"$($CART run {{}} -p 'once upon' -n 3)\" = '{}'", expected.trim_end());
    let found = |arguments: &[&str]| {
        let mut command = cart.command(arguments);
        command.env("CART", cart_tests::binary()).env("PATH", std::env::var_os("PATH").unwrap());
        command.output().unwrap()
    };
    let done = found(&["--json", "bisect", &commits[0], "agent", "--", "sh", "-c", &judge]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    cart_tests::schemas::check("report-bisect", &report);
    assert_eq!(report["first_bad"]["commit"], commits[41].as_str());
    assert_eq!(report["first_bad"]["message"], "step 41");
    assert_eq!(report["suspects"], 64);
    assert!(report["steps"].as_array().unwrap().len() <= 6, "{report}");
    let said = found(&["bisect", &commits[0], "agent", "--", "sh", "-c", &judge]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with(&format!("first bad commit {}", commits[41])), "{said}");
    // Halving 64 commits takes log2(64) questions.
    assert!(said.contains("  6 steps among 64 commits in "), "{said}");
}

#[test]
fn a_search_goes_through_merges_and_around_what_cannot_be_judged() {
    let cart = Cart::new();
    let root = commit(&cart, 0, "root");
    cart.ok(["tag", "m", "left"]);
    cart.ok(["tag", "m", "right"]);
    let mut of = Vec::new();
    for (name, seeds) in [("left", [1, 2]), ("right", [3, 4])] {
        for seed in seeds {
            let file = cart.file("m.safetensors", &models::small_safetensors(3, seed));
            let packed = cart.json(["pack", &file, "-t", name, "-m", &format!("{name} {seed}")]);
            of.push(packed["commit"].as_str().unwrap().to_owned());
        }
    }
    cart.ok(["merge", "left", "right", "--on-conflict", "ours", "-t", "m", "-m", "merged"]);
    let merged = cart.json(["log", "m"])["commits"][0]["commit"].as_str().unwrap().to_owned();
    // Whoever has the third commit among its ancestors is bad.
    let judge = |bad: &str, skip: &str| {
        let store = cart.store().join("commits");
        let commits = std::fs::read_dir(store).unwrap().next().unwrap().unwrap().path();
        assert!(commits.exists());
        format!("case $CART_REF in {skip}) exit 125;; {bad}) exit 3;; esac; exit 0")
    };
    let bad = format!("{}|{}|{merged}", of[2], of[3]);
    let run = |script: &str, code: i32| {
        cart.json_with_code(code, ["bisect", &root, "m", "--", "/bin/sh", "-c", script])
    };
    let report = run(&judge(&bad, "none"), 0);
    assert_eq!(report["first_bad"]["commit"], of[2].as_str());
    assert_eq!(report["suspects"], 5);
    let report = run(&judge(&format!("{}|{merged}", of[3]), &of[2]), 1);
    assert_eq!(report["first_bad"], Value::Null);
    assert_eq!(report["remaining"].as_array().unwrap().len(), 2);

    let before = cart.content();
    for (arguments, said) in [
        (["m", root.as_str(), "true"], "no commit that"),
        (["left", "right", "true"], "both came from"),
        (["m", "m", "true"], "nothing to search"),
        ([root.as_str(), "m", "/bin/true"], "BAD `m` is good"),
        ([root.as_str(), "m", "/bin/false"], "is bad"),
        ([root.as_str(), "m", "/nowhere"], "can't be started"),
    ] {
        let [good, bad, command] = arguments;
        let refused = cart.refused(["bisect", good, bad, "--", command]);
        assert!(refused.contains(said), "{said}: {refused}");
    }
    let refused = cart.refused(["bisect", &root, "m", "--", "/bin/sh", "-c", "exit 130"]);
    assert!(refused.contains("exit code 130"), "{refused}");
    cart.run(["bisect", "m", "left"]).expect_code(2);
    assert_eq!(cart.content(), before);

    let graph = cart.ok(["log", "m", "--graph"]);
    let lines: Vec<&str> = graph.lines().collect();
    assert_eq!(lines.len(), 8, "{graph}");
    assert!(
        lines[0].starts_with("* ")
            && lines[0].contains("(m:latest)")
            && lines[0].ends_with("merged")
    );
    assert_eq!(lines[1], "|\\");
    assert!(lines[7].starts_with("* ") && lines[7].ends_with("root"), "{graph}");
    assert!(!graph.contains('\u{1b}'), "colour is for terminals");
    assert!(cart.ok(["log", "m", "--graph", "--color", "always"]).contains('\u{1b}'));
    let all = cart.json(["log", "m", "--graph"]);
    assert_eq!(ids(&all["commits"]).len(), 6);
    assert_eq!(ids(&cart.json(["log", "m"])["commits"]).len(), 4);
    assert_eq!(ids(&cart.json(["log", "m", "--graph", "-n", "2"])["commits"]).len(), 2);
}
