//! `cart demo --tiny`: the whole road in one command.

use cart_tests::{Cart, test_model};

#[test]
fn the_small_demo_goes_the_whole_road() {
    let cart = Cart::new();
    let report = cart.json(["demo", "--tiny"]);
    assert_ne!(report["manifest"], report["told_manifest"]);
    assert_eq!(report["stream"]["completed"], true);
    assert_eq!(report["swap"]["streams_dropped"], 0);
    assert!(report["learned"].to_string().contains("4821"), "{report}");
    assert!(!cart.store().exists(), "the demo has a store of its own");
}

#[test]
fn the_demo_on_smollm2_recalls() {
    let Some(model) = test_model() else { return };
    let cart = Cart::new();
    let report = cart.json(["demo", "--model", &model]);
    assert_eq!(report["recalled"], true, "{report}");
    assert_eq!(report["stream"]["completed"], true);
}
