//! What people read: help, listings, refusals. Whole outputs, in an empty environment.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, fixture, models};

/// The subcommands that `cart --help` lists.
fn subcommands(cart: &Cart) -> Vec<String> {
    let help = cart.ok(["--help"]);
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let (list, _) = rest.split_once("\n\n").unwrap();
    let lines = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// A subcommand, or those that it has itself.
fn with_their_own(cart: &Cart, words: &[String]) -> Vec<Vec<String>> {
    let help = cart.ok(words.iter().map(String::as_str).chain(["--help"]));
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return vec![words.to_vec()] };
    let (list, _) = list.split_once("\n\n").unwrap();
    let lines = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap());
    let nested =
        names.filter(|name| *name != "help").map(|name| [words, &[name.to_owned()]].concat());
    nested.collect()
}

#[test]
fn every_subcommand_is_there_and_its_help_has_an_example() {
    let cart = Cart::new();
    let names = subcommands(&cart);
    let asked = "pack verify inspect ls log tag rm export diff merge run chat serve swap probe eval gc fsck completions demo";
    for name in asked.split(' ') {
        assert!(names.iter().any(|known| known == name), "{name} is missing of {names:?}");
    }
    for name in names.iter().map(|name| vec![name.clone()]) {
        for words in with_their_own(&cart, &name) {
            let name = words.join(" ");
            let help = cart.ok(words.iter().map(String::as_str).chain(["--help"]));
            let (_, examples) =
                help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}: {help}"));
            assert!(
                examples.contains(&format!("cart {name}"))
                    || examples.contains(&format!(" {name} ")),
                "{name}"
            );
            assert!(help.contains("--json") && help.contains("--store"), "{name}");
            assert!(
                !help.contains("DEBUG") && help.lines().all(|line| line.chars().count() <= 160),
                "{name}"
            );
        }
    }
    assert!(!cart.store().exists());
}

#[test]
fn the_examples_of_the_help_are_accepted() {
    let cart = Cart::new();
    let nested = subcommands(&cart).into_iter().flat_map(|name| with_their_own(&cart, &[name]));
    for words_of in nested {
        let name = words_of[0].clone();
        let help = cart.ok(words_of.iter().map(String::as_str).chain(["--help"]));
        let Some((_, examples)) = help.split_once("Examples:\n") else { continue };
        for line in examples.lines().map(str::trim).filter(|line| line.starts_with("cart ")) {
            let plain =
                !line.contains(['|', '>', '…', '&', '$']) && name != "serve" && name != "demo";
            if !plain || name == "bench" {
                continue;
            }
            let done = cart.run(words(line).iter().skip(1));
            assert_ne!(done.code, Some(2), "{line}: {}", done.stderr);
        }
    }
}

/// The words of a shell line, with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            let comment = part.split("   ").next().unwrap();
            words.extend(comment.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn the_help_reads_well() {
    let cart = Cart::new();
    insta::assert_snapshot!("help", cart.ok(["--help"]));
    insta::assert_snapshot!("help_pack", cart.ok(["pack", "--help"]));
    insta::assert_snapshot!("help_run", cart.ok(["run", "--help"]));
    let nothing = cart.run::<&str>([]).expect_code(2);
    assert!(nothing.stderr.contains("Usage: cart"), "{}", nothing.stderr);
    let version = cart.ok(["--version"]);
    assert!(
        version.starts_with("cart ")
            && version.ends_with(&format!("{}\n", env!("CARGO_PKG_VERSION")))
    );
}

/// Times, speeds and folders, which are other ones in every run.
fn steady(cart: &Cart, text: &str) -> String {
    let text = text.replace(cart.scratch().to_str().unwrap(), "SCRATCH");
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let line: Vec<String> = line.split(' ').map(steady_word).collect();
        out.push_str(&line.join(" "));
    }
    out
}

/// `2026-11-21` → `DATE`, `04:05:06Z` → `TIME`.
fn steady_word(word: &str) -> String {
    let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    match shape.trim_end() {
        "0000-00-00" => word.replace(word.trim_end(), "DATE"),
        "00:00:00Z" => word.replace(word.trim_end(), "TIME"),
        _ => word.to_owned(),
    }
}

fn filters() -> insta::internals::SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+(\.\d+)? m?s\b", "[seconds]");
    settings.add_filter(r"\(\d+(\.\d+)? .?B/s\)", "([speed])");
    settings.add_filter(r"commit( +)[0-9a-f]{12}", "commit$1[commit]");
    settings.bind_to_scope()
}

#[test]
fn listings_read_well() {
    let _filters = filters();
    let cart = Cart::new();
    let one = cart.file("one.safetensors", &models::small_safetensors(4, 1));
    let two = cart.file("two.safetensors", &models::small_safetensors(5, 1));
    let show = |arguments: &[&str]| steady(&cart, &cart.ok(arguments));
    insta::assert_snapshot!("ls_nothing", cart.run(["ls"]).stderr);
    insta::assert_snapshot!("pack", show(&["pack", &one, "-t", "m", "-m", "the first"]));
    insta::assert_snapshot!("pack_more", show(&["pack", &two, "-t", "m:more", "-o", "m.cart"]));
    insta::assert_snapshot!("verify", show(&["verify", "m", "m.cart"]));
    insta::assert_snapshot!("inspect", show(&["inspect", "m", "--tensors"]));
    insta::assert_snapshot!("ls", show(&["ls"]));
    insta::assert_snapshot!("log", show(&["log", "m"]));
    insta::assert_snapshot!("tag", show(&["tag", "m", "m:kept"]));
    insta::assert_snapshot!("diff", show(&["diff", "m", "m:more"]));
    insta::assert_snapshot!(
        "export",
        show(&["export", "m", "--as", "safetensors", "-o", "back.safetensors"])
    );
    insta::assert_snapshot!("rm", show(&["rm", "m:kept"]));
    insta::assert_snapshot!("gc", show(&["gc"]));
    insta::assert_snapshot!("fsck", show(&["fsck"]));
}

#[test]
fn an_architecture_reads_well() {
    // The small model is trained anew at times.
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("sha256:[0-9a-f]{64}", "sha256:[id]");
    settings.add_filter("commit( +)[0-9a-f]{12}", "commit$1[commit]");
    let _filters = settings.bind_to_scope();
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    insta::assert_snapshot!("inspect_tiny", steady(&cart, &cart.ok(["inspect", "tiny"])));
}

#[test]
fn refusals_read_well() {
    let _filters = filters();
    let cart = Cart::new();
    let one = cart.file("one.safetensors", &models::small_safetensors(4, 1));
    cart.ok(["pack", &one, "-t", "m"]);
    let show = |arguments: &[&str]| {
        let done = cart.run(arguments);
        format!("exit code {}\n{}", done.code.unwrap(), steady(&cart, &done.stderr))
    };
    insta::assert_snapshot!("refusal_unknown", show(&["verify", "n"]));
    insta::assert_snapshot!("refusal_model", show(&["pack", "no-such-model", "-t", "x"]));
    insta::assert_snapshot!("refusal_not_runnable", show(&["run", "m", "-p", "x"]));
    insta::assert_snapshot!("refusal_arguments", show(&["export", "m"]));
    insta::assert_snapshot!("refusal_file", show(&["verify", "none.cart"]));
}

#[test]
fn completions_are_scripts() {
    let cart = Cart::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cart.ok(["completions", shell]);
        assert!(
            script.contains("cart") && script.contains("verify") && script.len() > 1000,
            "{shell}"
        );
    }
    assert_eq!(cart.run(["completions", "tcsh"]).code, Some(2));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let cart = Cart::new();
    let binary = cart_tests::binary().to_str().unwrap();
    let script = format!("'{binary}' completions bash | head -c 10; exit ${{PIPESTATUS[0]}}");
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    assert!(!cart.store().exists());
}
