//! What is remembered after a swap.

use std::path::PathBuf;

use cart_engine::runtime::{Runtime, RuntimeOptions};
use cart_engine::swap::{InFlight, Loading, MemoryPolicy, SwapRequest};
use cart_memory::Input;
use cart_store::Cartridge;
use serde_json::{Value, json};

use crate::client::post;
use crate::given::{Server, Shelf, agent, shelf, told};

/// Zero in a cartridge of another space.
const CHANGED: &str = "model.layers.1.mlp.down_proj.weight";

/// A store with `one`, `again` (the same weights, and a memory) and `two` (another space), and a server over `one` that was
/// told something.
fn given() -> (Shelf, Server, Value) {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let manifest = told(&shelf, &one);
    shelf.recommit("again", &one, |commit| commit.manifest = manifest);
    shelf.without(CHANGED, "two");
    let server = shelf.serve("one");
    let write = json!({"prompt": "The code of the red boat is 4821.", "max_tokens": 8,
        "temperature": 0, "memory": {"write": true}});
    post(&server, "/v1/completions", &write);
    server.wait_until("both observations", |state| {
        state["streams"] == 0 && state["memory"]["counters"]["observations"].as_u64() >= Some(2)
    });
    let memory = server.state()["memory"].clone();
    (shelf, server, memory)
}

/// Swaps, and gives what is remembered then.
fn swapped(server: &Server, to: &str, memory: &str) -> Value {
    let answer = post(server, "/cart/swap", &json!({"ref": to, "memory": memory}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["memory"], memory);
    server.wait_until("the new generation", |state| state["active"]["name"] == to);
    server.state()["memory"].clone()
}

fn slots(memory: &Value, store: &str) -> u64 {
    memory[store]["slots"].as_u64().unwrap()
}

#[test]
fn a_memory_is_migrated_into_another_space_and_back() {
    let (_shelf, server, before) = given();
    for to in ["two", "one"] {
        let after = swapped(&server, to, "migrate");
        for store in ["stm", "ltm"] {
            assert_eq!(slots(&after, store), slots(&before, store));
        }
        assert_eq!(after["counters"], before["counters"]);
    }
    // The new generation writes to it and reads it.
    let ask = json!({"prompt": "What is the code of the red boat? The code of the red boat is",
        "max_tokens": 4, "temperature": 0, "memory": {"write": true}});
    assert_eq!(post(&server, "/v1/completions", &ask).status, 200);
    server.wait_until("one more", |state| {
        state["memory"]["counters"]["observations"].as_u64()
            > before["counters"]["observations"].as_u64()
    });
}

#[test]
fn a_memory_without_slots_is_migrated_and_a_goal_alone_is_refused() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    shelf.recommit("again", &one, |commit| commit.manifest = told(&shelf, &one));
    shelf.without(CHANGED, "two");
    let server = shelf.serve("one");
    // Nothing is remembered, so that one is begun.
    let begun = swapped(&server, "one", "stm-only");
    assert_eq!((slots(&begun, "stm"), begun["empty"].as_bool()), (0, Some(true)));
    let moved = swapped(&server, "two", "migrate");
    assert_eq!((slots(&moved, "stm"), moved["empty"].as_bool()), (0, Some(true)));
    assert_ne!(moved["space"], begun["space"]);
    for same in ["counters", "surprise", "now"] {
        assert_eq!(moved[same], begun[same]);
    }
    assert_eq!(moved["ltm"]["capacity"], begun["ltm"]["capacity"]);

    let agent = agent(&shelf.open("again"));
    agent.tell_memory(|memory| Input::Advance { at: memory.now() + 8 }).unwrap();
    let manifest = agent.save_memory(&shelf.store).unwrap().id;
    shelf.recommit("wanting", &one, |commit| commit.manifest = manifest);
    let before = swapped(&server, "wanting", "replace");
    assert!(before["goal_norm"].as_f64() > Some(0.0), "{before}");
    let wanting = swapped(&server, "one", "goal-only");
    assert_eq!((slots(&wanting, "stm"), slots(&wanting, "ltm")), (0, 0));
    let refused = post(&server, "/cart/swap", &json!({"ref": "two", "memory": "migrate"}));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.error()["code"], json!("memory_not_migrated"));
    assert!(
        refused.body.contains("a goal") && refused.body.contains("`replace`"),
        "{}",
        refused.body
    );
    assert_eq!(server.state()["memory"], wanting);
}

#[test]
fn memories_of_one_space_are_joined_whole_or_in_part() {
    let counted = |memory: &Value| memory["counters"]["observations"].as_u64().unwrap();
    let (_shelf, server, before) = given();
    let merged = swapped(&server, "again", "merge");
    assert_eq!(slots(&merged, "stm"), slots(&before, "stm") + 2);
    assert_eq!(counted(&merged), counted(&before) + 2);

    let (_shelf, server, before) = given();
    let moved = swapped(&server, "again", "stm-only");
    assert_eq!((slots(&moved, "stm"), counted(&moved)), (slots(&before, "stm"), 2));

    let (_shelf, server, _) = given();
    let wanting = swapped(&server, "again", "goal-only");
    assert_eq!((slots(&wanting, "stm"), counted(&wanting)), (2, 2));
    // Into a cartridge that remembers nothing.
    let alone = swapped(&server, "one", "stm-only");
    assert_eq!((slots(&alone, "stm"), slots(&alone, "ltm"), counted(&alone)), (2, 0, 0));
}

#[test]
fn parts_of_a_memory_of_another_space_are_refused() {
    let (_shelf, server, before) = given();
    for memory in ["merge", "stm-only", "goal-only"] {
        let refused = post(&server, "/cart/swap", &json!({"ref": "two", "memory": memory}));
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.error()["code"], json!("memory_of_another_space"));
        assert!(refused.body.contains("migrate"), "{}", refused.body);
    }
    assert_eq!(server.state()["memory"], before);
    let refused = post(&server, "/cart/swap", &json!({"ref": "two", "memory": "half"}));
    assert_eq!(refused.status, 400, "{}", refused.body);
}

fn request(name: &str, cartridge: &Cartridge) -> SwapRequest {
    let (in_flight, memory) = (InFlight::default(), MemoryPolicy::default());
    let (name, cartridge) = (name.to_owned(), cartridge.clone());
    SwapRequest { name, cartridge, in_flight, memory, loading: Loading::Beside }
}

#[test]
fn a_swap_of_the_memory_alone_takes_weights_and_tokenizer_from_what_runs() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let manifest = told(&shelf, &one);
    shelf.recommit("again", &one, |commit| commit.manifest = manifest);
    let (again, two) = (shelf.open("again"), shelf.without(CHANGED, "two"));
    let runtime = Runtime::start("one", one.clone(), RuntimeOptions::default()).unwrap();
    let handle = runtime.handle();
    let before = handle.active().unwrap();

    let sizes = |cartridge: &Cartridge| -> u64 {
        cartridge.manifest().blobs.values().map(|blob| blob.size).sum()
    };
    let report = handle.swap(request("again", &again)).unwrap();
    let after = handle.active().unwrap();
    assert!(after.agent().shares_weights_with(before.agent()));
    assert_eq!(after.agent().id(), manifest);
    assert_eq!((report.memory_slots, report.steps_checked), (2, 0));
    // The blobs that it has beyond the other are those of its memory, and they were checked.
    assert_eq!(report.bytes_verified, sizes(&again) - sizes(&one));
    assert!(report.bytes_shared > 0 && report.bytes_shared <= sizes(&one));
    assert_eq!(before.agent().memory().map(|memory| memory.slots().count()), None);

    // Other weights are read.
    let report = handle.swap(request("two", &two)).unwrap();
    assert_eq!((report.bytes_shared, report.bytes_verified), (0, sizes(&two)));
    assert!(report.steps_checked > 0);
    let other = handle.active().unwrap();
    assert!(!other.agent().shares_weights_with(after.agent()));
}

#[test]
fn a_damaged_memory_is_refused_though_the_weights_run() {
    let shelf = shelf();
    let one = shelf.tiny("one");
    let manifest = told(&shelf, &one);
    shelf.recommit("again", &one, |commit| commit.manifest = manifest);
    let again = shelf.open("again");
    let state = again.manifest().memory.as_ref().unwrap().state;
    let path: PathBuf = again.locate(&state).unwrap().path.to_path_buf();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let server = shelf.serve("one");
    let refused = post(&server, "/cart/swap", &json!({"ref": "again"}));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.error()["code"], json!("verification_failed"));
    assert!(refused.body.contains("memory state"), "{}", refused.body);
    assert_eq!(server.state()["active"]["name"], "one");
}
