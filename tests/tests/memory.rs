//! `cart memory`: traces that are replayed, and those that are refused.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_memory::log::LogWriter;
use cart_memory::trace::Trace;
use cart_tests::{Cart, fixture};

#[test]
fn a_trace_is_replayed_to_the_same_memory_on_any_number_of_threads() {
    let cart = Cart::new();
    for name in ["stm", "ltm", "observer", "goal", "store", "graph", "validity"] {
        let trace = fixture(&format!("memory/{name}.trace.jsonl"));
        let one = cart.json(["--threads", "1", "memory", "replay", "--trace", &trace]);
        let two = cart.json(["--threads", "2", "memory", "replay", "--trace", &trace]);
        assert_eq!(one, two);
        assert_eq!(one["operations"], 1000);
        let last = one["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(last["state"], one["state"]);
        let brief = cart.json(["memory", "replay", "--trace", &trace, "--state", "last"]);
        assert_eq!(brief["memory_id"], one["memory_id"]);
        assert!(brief["steps"][0].get("state").is_none());
        let said = cart.ok(["memory", "replay", "--trace", &trace]);
        assert!(said.contains("1000 operations") && said.contains("observe"), "{said}");
    }
}

#[test]
fn a_log_is_replayed_cut_or_whole_and_refused_where_it_was_edited() {
    let cart = Cart::new();
    let text = std::fs::read_to_string(fixture("memory/graph.trace.jsonl")).unwrap();
    let mut trace = Trace::open(&text).unwrap();
    let start = trace.memory();
    let (mut writer, mut bytes) =
        LogWriter::begin(start.space(), start.normalization(), start.config()).unwrap();
    while let Some(step) = trace.step().unwrap() {
        bytes.extend(writer.record(&step.input, &step.outcome).unwrap());
    }
    let path = cart.file("whole.log", &bytes);
    let one = cart.json(["--threads", "1", "memory", "replay", "--log", &path]);
    assert_eq!(one, cart.json(["--threads", "2", "memory", "replay", "--log", &path]));
    assert_eq!((&one["records"], &one["cut_bytes"]), (&1000.into(), &0.into()));
    assert_eq!(one["memory_id"], trace.memory().snapshot().id().hex());
    assert!(one["statistics"]["reads"]["entropy"].as_f64().unwrap() > 0.0);
    assert!(cart.ok(["memory", "replay", "--log", &path]).contains("1000 records"));

    let path = cart.file("cut.log", &bytes[..bytes.len() - 7]);
    let cut = cart.json(["memory", "replay", "--log", &path]);
    assert_eq!(cut["records"], 999);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let path = cart.file("edited.log", &bytes);
    let said = cart.refused(["memory", "replay", "--log", &path]);
    assert!(said.contains("was changed after it was written"), "{said}");
    // The hint says what can be done, and it can be.
    let until = said.split("`--until ").nth(1).unwrap().split('`').next().unwrap();
    let before = cart.json(["memory", "replay", "--log", &path, "--until", until]);
    assert_eq!(before["records"].to_string(), until);
}

#[test]
fn a_bad_trace_is_refused_with_its_line_and_field() {
    let cart = Cart::new();
    let header = r#"{"trace": "cart.memory-trace/1", "dim": 2, "config": {"merge": "nearest"}}"#;
    let good = r#"{"op": "observe", "key": [1, 0], "energy": 0.5}"#;
    let bad = r#"{"op": "observe", "key": [1, NaN], "energy": 0.5}"#;
    let path = cart.file("bad.jsonl", format!("{header}\n{good}\n{bad}\n").as_bytes());
    let said = cart.refused(["memory", "replay", "--trace", &path]);
    assert!(said.contains("bad.jsonl: line 3, field `key`: NaN"), "{said}");
    assert!(said.contains("spec/36-memory-trace.md"), "{said}");
    let said = cart.refused(["memory", "replay", "--trace", "nowhere.jsonl"]);
    assert!(said.contains("nowhere.jsonl can't be read"), "{said}");
}
