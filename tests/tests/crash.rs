//! `kill -9` at any instant of a command that writes: the store is sound, and the same command
//! succeeds afterwards.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cart_tests::{Cart, Chance, RawTensor, fixture, models, safetensors_bytes};

/// Rounds unless `$CART_CRASH_ROUNDS` says otherwise.
const ROUNDS: u64 = 200;

fn rounds() -> u64 {
    std::env::var("CART_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

/// A model that no round had before: most of its tensors are new, some are shared with the others.
fn model(cart: &Cart, round: u64) -> String {
    let mut tensors = models::small_tensors(6, 1);
    let own = models::small_tensors(18, 1000 + round).into_iter();
    tensors.extend(own.map(|tensor| RawTensor { name: format!("own.{}", tensor.name), ..tensor }));
    cart.file("m.safetensors", &safetensors_bytes(&tensors, &[]))
}

fn start(cart: &Cart, arguments: &[&str]) -> Child {
    let mut command = cart.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_kill_at_any_instant_of_a_pack_leaves_a_sound_store() {
    let cart = Cart::new();
    let file = model(&cart, 0);
    cart.ok(["pack", &file, "-t", "kept"]);
    let whole = time_of_a_pack(&cart);
    let mut chance = Chance::new(5);
    let (mut killed, mut finished, mut named, mut left) = (0, 0, 0, 0);
    for round in 1..=rounds() {
        let file = model(&cart, round);
        let name = format!("m:{round}");
        let mut child = start(&cart, &["pack", &file, "-t", &name]);
        std::thread::sleep(whole.mul_f64(chance.below(1200) as f64 / 1000.0));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            finished += 1;
        } else {
            killed += 1;
        }
        let checked = cart.json(["fsck"]);
        left += u64::from(checked["temporary_files"] != 0 || checked["unreachable_blobs"] != 0);
        // The name is there and complete, or it is not there.
        let listed = cart.json(["ls", &name])["cartridges"].as_array().unwrap().len();
        if listed == 1 {
            named += 1;
            cart.ok(["verify", &name]);
        }
        assert!(listed == 1 || !status.success(), "a pack that succeeded left no name");
        cart.ok(["pack", &file, "-t", &name]);
        cart.ok(["verify", &name, "kept"]);
        if round % 16 == 0 {
            cart.ok(["gc", "--grace", "0"]);
            assert_eq!(cart.json(["fsck"])["temporary_files"], 0);
        }
    }
    eprintln!("{killed} killed, {finished} finished; {named} named, {left} left something behind");
    assert!(killed > rounds() / 3, "too few were killed before they were done");
    assert!(left > rounds() / 20, "too few were killed while they wrote");
}

/// The median of some packs of new models.
fn time_of_a_pack(cart: &Cart) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|index| {
            let file = model(cart, 1 << (40 + index));
            let start = Instant::now();
            cart.ok(["pack", &file]);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[2]
}

/// Kills a command at random instants, a quarter of [`rounds`] times.
///
/// * `begin`: makes what the command works on, and gives its arguments
/// * `after`: looks at what is left, whether the command was killed or not; the store has passed
///   fsck
fn kill_at_any_instant(
    cart: &Cart,
    mut begin: impl FnMut(u64) -> Vec<String>,
    mut after: impl FnMut(u64, &[String]),
) {
    let mut times: Vec<Duration> = (0..5)
        .map(|index| {
            let arguments = begin(1 << (40 + index));
            let start = Instant::now();
            cart.ok(&arguments);
            start.elapsed()
        })
        .collect();
    times.sort();
    let mut chance = Chance::new(7);
    let mut killed = 0;
    let rounds = rounds().div_ceil(4);
    for round in 1..=rounds {
        let arguments = begin(round);
        let mut command = cart.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(times[2].mul_f64(chance.below(1100) as f64 / 1000.0));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        cart.ok(["fsck"]);
        after(round, &arguments);
    }
    assert!(killed > rounds / 4, "only {killed} of {rounds} were killed before they were done");
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

#[test]
fn a_kill_at_any_instant_of_a_gc_loses_nothing_that_has_a_name() {
    let cart = Cart::new();
    cart.ok(["pack", &model(&cart, 0), "-t", "kept"]);
    let begin = |round| {
        let file = model(&cart, round);
        cart.ok(["pack", &file, "-t", "gone"]);
        cart.ok(["rm", "gone"]);
        owned(&["gc", "--grace", "0"])
    };
    let after = |_, gc: &[String]| {
        cart.ok(["verify", "kept"]);
        cart.ok(gc);
        cart.ok(["verify", "kept"]);
        let checked = cart.json(["fsck"]);
        assert_eq!(
            (&checked["unreachable_blobs"], &checked["temporary_files"]),
            (&0.into(), &0.into())
        );
    };
    kill_at_any_instant(&cart, begin, after);
}

#[test]
fn a_kill_at_any_instant_of_a_tag_leaves_the_name_where_it_was_or_where_it_goes() {
    let cart = Cart::new();
    for (round, name) in [(0, "one"), (1, "two")] {
        cart.ok(["pack", &model(&cart, round), "-t", name]);
    }
    let commit = |name: &str| cart.json(["inspect", name])["commit"].as_str().unwrap().to_owned();
    let ends = [commit("one"), commit("two")];
    let begin = |round| owned(&["tag", ["one", "two"][round as usize % 2], "moving"]);
    let after = |round, tag: &[String]| {
        if cart.json(["ls", "moving"])["cartridges"] != serde_json::json!([]) {
            assert!(ends.contains(&commit("moving")));
        }
        cart.ok(tag);
        assert_eq!(commit("moving"), ends[round as usize % 2]);
        cart.ok(["verify", "moving"]);
    };
    kill_at_any_instant(&cart, begin, after);
}

#[test]
fn a_kill_at_any_instant_of_a_run_that_saves_leaves_the_name_old_or_new() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart.ok(["tag", "tiny", "told"]);
    let told = || {
        let memory = &cart.json(["inspect", "told"])["memory"];
        memory["counters"]["observations"].as_u64().unwrap_or(0)
    };
    let begin = |round: u64| {
        let fact = format!("The code of boat {} is {}.", round % 97, 1000 + round % 9000);
        owned(&["run", "told", "-p", &fact, "-n", "0", "--memory", "--save", "told"])
    };
    let mut before = 0;
    let after = |_, run: &[String]| {
        assert!(told() >= before, "memory that had been saved is gone");
        cart.ok(["verify", "told", "tiny"]);
        cart.ok(run);
        before = told();
        assert!(before > 0);
    };
    kill_at_any_instant(&cart, begin, after);
}

#[test]
fn a_kill_at_any_instant_of_an_export_leaves_all_of_it_or_nothing() {
    let cart = Cart::new();
    cart.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let to = cart.scratch().join("out");
    let begin = |_| {
        let _ = std::fs::remove_dir_all(&to);
        owned(&["export", "tiny", "--as", "hf", "-o", to.to_str().unwrap()])
    };
    let whole = || {
        let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        names.iter().all(|name| {
            let original = std::fs::read(Path::new(&fixture("tiny")).join(name)).unwrap();
            std::fs::read(to.join(name)).is_ok_and(|exported| exported == original)
        })
    };
    let after = |_, export: &[String]| {
        assert!(whole() || !to.exists(), "half an export has the name");
        let _ = std::fs::remove_dir_all(&to);
        cart.ok(export);
        assert!(whole());
    };
    kill_at_any_instant(&cart, begin, after);
}

#[test]
fn a_kill_while_a_cart_file_is_written_leaves_the_old_one() {
    let cart = Cart::new();
    let model = cart.file("m.safetensors", &models::segmented_safetensors());
    let file = cart.path("m.cart");
    cart.ok(["pack", &model, "-t", "m", "-o", &file]);
    let bytes = std::fs::read(&file).unwrap();
    let start_time = Instant::now();
    cart.ok(["export", "m", "-o", &file, "--force"]);
    let whole = start_time.elapsed();
    let mut chance = Chance::new(6);
    for _ in 0..10 {
        let mut child = start(&cart, &["export", "m", "-o", &file, "--force"]);
        std::thread::sleep(whole.mul_f64(chance.below(1000) as f64 / 1000.0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(std::fs::read(&file).unwrap() == bytes);
    }
}
