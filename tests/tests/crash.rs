//! `kill -9` at any instant of a pack: the store is sound, and the next pack succeeds.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cart_tests::{Cart, Chance, RawTensor, models, safetensors_bytes};

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
