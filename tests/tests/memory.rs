//! `cart memory`: traces that are replayed, and those that are refused.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_memory::UnifiedMemory;
use cart_memory::log::{LogError, LogWriter, MemoryLog};
use cart_memory::trace::Trace;
use cart_tests::{Cart, fixture, schemas};
use serde_json::Value;

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
    let states = cart.run(["memory", "replay", "--log", &path, "--state", "last"]);
    assert_eq!(states.code, Some(2), "{states:?}");
    assert!(states.stderr.contains("--state") && states.stderr.contains("--log"), "{states:?}");

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
fn the_schemas_allow_nothing_that_is_not_reported() {
    let cart = Cart::new();
    let trace = fixture("memory/validity.trace.jsonl");
    let good = cart.json(["memory", "replay", "--trace", &trace, "--state", "last"]);
    let steps = good["steps"].as_array().unwrap();
    let first = |name: &str| {
        let events = steps.iter().enumerate();
        let mut all = events.flat_map(|(step, row)| {
            row["events"].as_array().unwrap().iter().enumerate().map(move |(at, e)| (step, at, e))
        });
        let (step, at, _) = all.find(|(.., event)| event["event"] == name).unwrap();
        format!("/steps/{step}/events/{at}")
    };
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut report = good.clone();
        change(&mut report);
        assert!(!schemas::breaches("report-memory-replay", &report).is_empty());
    };
    let recall = steps.iter().position(|step| step["op"] == "recall").unwrap();
    let places =
        [first("added"), first("evicted"), first("superseded"), format!("/steps/{recall}/answer")];
    for place in places {
        refused(&|report| report.pointer_mut(&place).unwrap()["more"] = 1.into());
        let kept = ["event", "kind"];
        let fields = good.pointer(&place).unwrap().as_object().unwrap().keys();
        for field in fields.filter(|field| !kept.contains(&field.as_str())) {
            refused(&|report| {
                report.pointer_mut(&place).unwrap().as_object_mut().unwrap().remove(field);
            });
        }
    }
    refused(&|report| report["state"]["counters"]["more"] = 1.into());
}

/// A session with the small model that is told two sentences, saved and logged.
fn session(cart: &Cart, threads: &str, from: &str, tag: &str, prompt: &str) -> (Value, String) {
    let log = cart.path(&format!("{tag}.log"));
    let saved = format!("tiny:{tag}");
    let ran = cart.json([
        "--threads",
        threads,
        "run",
        from,
        "-p",
        prompt,
        "-n",
        "24",
        "--memory",
        "--memory-log",
        &log,
        "--save",
        &saved,
    ]);
    (ran, log)
}

#[test]
fn the_log_of_a_real_session_leads_to_the_memory_that_it_saved() {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let told = "The code of the red boat is 4821. The dog of Ann is called Rex. ";
    let asked = "What is the code of the red boat? The code of the red boat is";
    let mut ids = Vec::new();
    for threads in ["1", "2"] {
        let tag = format!("told{threads}");
        let (ran, log) = session(&cart, threads, "tiny", &tag, told);
        assert!(ran["memory"]["written"].as_u64().unwrap() >= 2, "{ran}");
        let replayed = cart.json(["--threads", threads, "memory", "replay", "--log", &log]);
        assert_eq!(replayed["memory_id"], ran["saved"]["memory_id"]);
        assert_eq!(
            (&replayed["cut_bytes"], replayed["records"].as_u64()),
            (&0.into(), ran["memory"]["written"].as_u64())
        );
        // A session that goes on from a memory, reads it and writes.
        let from = format!("tiny:{tag}");
        let (on, log) = session(&cart, threads, &from, &format!("on{threads}"), asked);
        assert!(!on["memory"]["read"].as_array().unwrap().is_empty(), "{on}");
        let replayed = cart.json(["memory", "replay", "--log", &log, "--base", &from]);
        assert_eq!(replayed["memory_id"], on["saved"]["memory_id"]);
        assert_eq!(replayed["statistics"]["reads"]["reads"], 1);
        ids.push((ran["saved"]["memory_id"].clone(), on["saved"]["memory_id"].clone()));
        let said = cart.refused(["memory", "replay", "--log", &log]);
        assert!(said.contains("`--base REF`"), "{said}");
        let said = cart.refused([
            "memory",
            "replay",
            "--log",
            &log,
            "--base",
            &format!("tiny:on{threads}"),
        ]);
        assert!(said.contains("goes on from memory"), "{said}");
    }
    assert_eq!(ids[0], ids[1]);
    // No log is written over.
    let log = cart.path("told1.log");
    let said =
        cart.refused(["run", "tiny", "-p", "x", "-n", "0", "--memory", "--memory-log", &log]);
    assert!(said.contains("a log is a new file"), "{said}");
}

#[test]
fn the_log_of_a_real_session_opens_wherever_it_was_cut() {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let (_, path) =
        session(&cart, "1", "tiny", "told", "The boat is red. The dog is Rex. It is late. ");
    let bytes = std::fs::read(&path).unwrap();
    // Each whole log of fewer operations, by its length.
    let all = MemoryLog::open(&bytes).unwrap().records.len();
    assert!(all >= 3, "{all}");
    let whole: Vec<usize> = (0..=all)
        .map(|first| MemoryLog::open_first(&bytes, first as u64).unwrap().whole_bytes)
        .collect();
    let memories: Vec<String> = (0..=all)
        .map(|first| {
            let log = MemoryLog::open_first(&bytes, first as u64).unwrap();
            UnifiedMemory::replay(&log, None).unwrap().snapshot().id().hex()
        })
        .collect();
    let places = (0..bytes.len()).step_by(997).chain(whole.iter().flat_map(|&end| [end - 1, end]));
    for cut in places {
        let opened = MemoryLog::open(&bytes[..cut.min(bytes.len())]);
        match whole.iter().rposition(|&end| end <= cut) {
            None => assert!(matches!(opened, Err(LogError::NoHead { .. })), "cut at {cut}"),
            Some(last) => assert_eq!(opened.unwrap().records.len(), last, "cut at {cut}"),
        }
    }
    // The binary says the same, and which memory that is.
    for (last, &end) in whole.iter().enumerate() {
        for cut in [end, end + 1, end + 60] {
            let cut = cut.min(bytes.len());
            let path = cart.file("cut.log", &bytes[..cut]);
            let replayed = cart.json(["memory", "replay", "--log", &path]);
            assert_eq!(replayed["memory_id"], memories[last], "cut at {cut}");
            assert_eq!(replayed["cut_bytes"], cut - end);
        }
    }
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
