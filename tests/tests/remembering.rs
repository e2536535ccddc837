//! What an agent remembers, over processes, saves and loads.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const FACT: &str = "The code of the red boat is 4821.";
const QUESTION: &str = "What is the code of the red boat? The code of the red boat is";

/// A store with the small model as `tiny`.
fn tiny() -> Cart {
    let cart = Cart::new();
    let packed = cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    assert_eq!(packed["runnable"], true, "{packed}");
    cart
}

/// Tells the fact and saves.
fn told(cart: &Cart) -> Value {
    cart.json(["run", "tiny", "-p", FACT, "-n", "0", "--memory", "--save", "tiny:told"])
}

fn slots(cart: &Cart, reference: &str) -> Vec<Value> {
    cart.json(["inspect", reference, "--memory"])["slots"].as_array().unwrap().clone()
}

#[test]
fn a_fact_is_told_saved_and_read_in_another_process() {
    let cart = tiny();
    let telling = told(&cart);
    assert!(telling["memory"]["written"].as_u64().unwrap() >= 1, "{telling}");
    assert_eq!(telling["token_ids"].as_array().unwrap().len(), 0);
    assert_eq!(telling["saved"]["name"], "tiny:told");
    let saved = slots(&cart, "tiny:told");
    assert!(saved.iter().any(|slot| slot["text"].as_str().unwrap().contains("4821")), "{saved:?}");
    assert!(slots(&cart, "tiny").is_empty());

    let asked =
        cart.json(["run", "tiny:told", "-p", QUESTION, "-n", "8", "--memory", "--read-only"]);
    let read = asked["memory"]["read"].as_array().unwrap();
    assert!(read.iter().any(|slot| slot["text"].as_str().unwrap().contains("4821")), "{asked}");
    assert_eq!(asked["memory"]["written"], 0);
    // Off unless asked for.
    let bare = cart.json(["run", "tiny:told", "-p", QUESTION, "-n", "8"]);
    assert_eq!(bare["memory"], Value::Null);
    assert_ne!(bare["logprobs"], asked["logprobs"], "the memory that was read changed nothing");
}

#[test]
fn a_save_is_history_and_shares_the_weights() {
    let cart = tiny();
    let before = cart.blobs();
    let telling = told(&cart);
    let new: u64 = cart
        .blobs()
        .difference(&before)
        .map(|blob| std::fs::metadata(cart.blob(blob)).unwrap().len())
        .sum();
    assert!(new < 400_000, "saving a memory wrote {new} bytes");
    let commits = cart.json(["log", "tiny:told"])["commits"].clone();
    assert_eq!(commits[0]["commit"], telling["saved"]["commit"]);
    assert_eq!(commits[0]["recipe"], "run");
    assert_eq!(commits[1]["recipe"], "import");
    cart.ok(["verify", "tiny:told"]);
    cart.ok(["fsck"]);
    let diff = cart.json(["diff", "tiny", "tiny:told"]);
    assert_eq!(diff["identical"], false);
    assert_eq!(diff["tensors"]["changed"].as_array().unwrap().len(), 0);
    assert!(!diff["memory"]["added"].as_array().unwrap().is_empty(), "{diff}");
}

#[test]
fn saving_what_was_loaded_gives_the_same_id() {
    let cart = tiny();
    let telling = told(&cart);
    let id = &telling["saved"]["manifest"];
    // Loaded and saved again, with nothing between.
    let again =
        cart.run_with_stdin(["chat", "tiny:told"], "/save tiny:again\n/quit\n").expect_code(0);
    assert!(again.stdout.contains(id.as_str().unwrap()), "{again:?}");
    assert_eq!(&cart.json(["inspect", "tiny:again"])["manifest"], id);
    // Asked for nothing that it could read, and told nothing.
    let asked = [
        "run",
        "tiny:told",
        "-p",
        "x",
        "-n",
        "0",
        "--memory",
        "--read-only",
        "--save",
        "tiny:asked",
    ];
    let asked = cart.json(asked);
    assert_eq!(
        asked["memory"]["read"],
        json!([]),
        "the question should have nothing to do with the fact"
    );
    assert_eq!(&asked["saved"]["manifest"], id);
    // Through a .cart file and another store the id stays what it is.
    let file = cart.path("told.cart");
    cart.ok(["export", "tiny:told", "-o", &file]);
    let other = Cart::new();
    assert_eq!(&other.json(["pack", &file, "-t", "told"])["manifest"], id);
    assert_eq!(slots(&other, "told"), slots(&cart, "tiny:told"));
    // The commit's parent stayed behind, which is no damage.
    other.ok(["fsck"]);
    other.ok(["gc", "--grace", "0"]);
    assert_eq!(other.json(["log", "told"])["commits"].as_array().unwrap().len(), 1);
    other.ok(["verify", "told"]);
    // The same telling from the same state is the same memory, on any number of threads.
    let third = Cart::new();
    third.ok(["pack", &fixture("tiny"), "-t", "tiny"]);
    let replay = third.json([
        "run",
        "tiny",
        "-p",
        FACT,
        "-n",
        "0",
        "--memory",
        "--save",
        "tiny:told",
        "--threads",
        "1",
    ]);
    assert_eq!(&replay["saved"]["manifest"], id);
}

#[test]
fn an_empty_memory_is_exact() {
    let cart = tiny();
    for prompt in ["One day, Anna", QUESTION, "é 7"] {
        let run = |extra: &[&str]| {
            let arguments =
                ["run", "tiny", "-p", prompt, "-n", "12", "--top-logprobs", "20", "--ignore-eos"];
            let mut report = cart.json([&arguments[..], extra].concat());
            let fields = report.as_object_mut().unwrap();
            fields.remove("seconds");
            fields.remove("memory");
            report
        };
        let bare = run(&[]);
        // Every digit of every log-probability, because the report's numbers are exact.
        assert_eq!(bare, run(&["--memory", "--read-only"]), "{prompt}");
        assert_eq!(bare["token_ids"].as_array().unwrap().len(), 12);
        assert_eq!(bare["top_logprobs"][0].as_array().unwrap().len(), 20);
    }
}

#[test]
fn a_memory_of_another_model_is_refused() {
    let cart = tiny();
    told(&cart);
    let file = cart.path("told.cart");
    cart.ok(["export", "tiny:told", "-o", &file]);
    // The same memory under weights of which one was changed: the space does not fit any more.
    let mut manifest = cart.manifest("tiny:told");
    let memory = manifest["memory"].take();
    manifest["memory"] = memory;
    let tensors = manifest["model"]["tensors"].as_object_mut().unwrap();
    let names: Vec<String> = tensors.keys().cloned().collect();
    let pair = names.iter().flat_map(|a| names.iter().map(move |b| (a, b))).find(|(a, b)| {
        tensors[*a]["shape"] == tensors[*b]["shape"] && tensors[*a]["blob"] != tensors[*b]["blob"]
    });
    let (a, b) = pair.unwrap();
    let (left, right) = (tensors[a].clone(), tensors[b].clone());
    tensors.insert(a.clone(), right);
    tensors.insert(b.clone(), left);
    manifest.as_object_mut().unwrap().remove("origin");
    let used: Vec<String> = blobs_named(&manifest);
    manifest["blobs"].as_object_mut().unwrap().retain(|blob, _| used.contains(blob));
    let bytes = cart_format::json::to_canonical(&manifest).unwrap();
    let id = cart_format::ManifestId::of(&bytes);
    std::fs::write(cart.blob(&id.hex()), bytes).unwrap();
    let said = cart.refused(["run", &id.hex(), "-p", "x", "--memory"]);
    assert!(said.contains("space"), "{said}");
}

/// Every digest in a manifest, outside its table of blobs.
fn blobs_named(manifest: &Value) -> Vec<String> {
    let mut outside = manifest.clone();
    outside.as_object_mut().unwrap().remove("blobs");
    let text = outside.to_string();
    let words = text.split(|c: char| !c.is_ascii_hexdigit());
    words.filter(|word| word.len() == 64).map(str::to_owned).collect()
}

/// The table of page 30 §2, written out.
#[test]
fn the_spec_says_how_a_space_is_made() {
    let cart = tiny();
    told(&cart);
    let manifest = cart.manifest("tiny:told");
    let layers = manifest["model"]["architecture"]["layers"].as_array().unwrap().len();
    let page = include_str!("../../spec/30-memory.md");
    let text = "c9389ea41108f5d92a3cbcd9228f50922c74acda199c5b00db82ce24d094aa3b";
    assert!(page.contains(text));
    let document = json!({
        "procedure": 1,
        "architecture": manifest["model"]["architecture"],
        "tensors": manifest["model"]["tensors"],
        "tokenizer": manifest["tokenizer"]["document"],
        "tap_layer": (4 * layers / 5).max(1) - 1,
        "pooling": "mean_without_first",
        "normalization": { "method": "mean_and_deviation_without_first", "text": text },
    });
    let (_, rest) = page.split_once("<!-- space").unwrap();
    let (table, _) = rest.split_once("<!-- /space").unwrap();
    let listed = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let fields: std::collections::BTreeSet<&str> =
        document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(listed.collect::<std::collections::BTreeSet<_>>(), fields);
    let bytes = cart_format::json::to_canonical(&document).unwrap();
    assert_eq!(manifest["memory"]["space"], cart_format::SpaceId::of(&bytes).hex());
}

#[test]
fn a_conversation_is_remembered() {
    let cart = tiny();
    let done = cart
        .run_with_stdin(
            ["chat", "tiny", "--memory", "-n", "12"],
            "My name is Vera.\n/memory\n/save tiny:vera\n/help\n/clear\n/quit\n",
        )
        .expect_code(0);
    assert!(done.stdout.contains("Vera"), "{done:?}");
    assert!(done.stdout.contains("saved tiny:vera"), "{done:?}");
    let saved = slots(&cart, "tiny:vera");
    assert!(saved.iter().any(|slot| slot["text"].as_str().unwrap().contains("Vera")), "{saved:?}");
    cart.ok(["verify", "tiny:vera"]);
}

#[test]
fn recall_is_counted_four_ways_in_two_processes() {
    let cart = tiny();
    let report = cart.json(["bench", "recall", "tiny", "--facts", "6", "--seed", "2"]);
    assert_eq!(report["facts"], 6);
    assert!(report["slots"].as_u64().unwrap() >= 6, "{report}");
    for row in report["rows"].as_array().unwrap() {
        for way in ["memory", "none", "shuffled", "context"] {
            assert!(row[way].as_u64().unwrap() <= 6, "{row}");
        }
        assert_eq!(row["none"], 0, "a made-up fact was known: {row}");
    }
    assert_eq!(cart.json(["bench", "recall", "tiny", "--facts", "6", "--seed", "2"]), report);
}

#[test]
fn controls_and_comparisons_say_what_they_did() {
    let cart = tiny();
    for fact in [FACT, "The code of the blue hat is 7350.", "My name is Vera."] {
        let from = if fact == FACT { "tiny" } else { "tiny:told" };
        cart.ok(["run", from, "-p", fact, "-n", "0", "--memory", "--save", "tiny:told"]);
    }
    assert!(slots(&cart, "tiny:told").len() >= 3);
    let ask = |extra: &[&str]| {
        let question = ["run", "tiny:told", "-p", QUESTION, "-n", "6", "--memory", "--read-only"];
        cart.json([&question[..], extra].concat())
    };
    let real = ask(&["--compare"]);
    assert!(
        real["memory"]["delta_logprob"].is_number() && real["memory"]["kl"].is_number(),
        "{real}"
    );
    assert!(real["memory"]["kl"].as_f64().unwrap() > 0.0);
    let shuffled = ask(&["--shuffled", "3"]);
    assert_ne!(real["memory"]["read"], shuffled["memory"]["read"], "{shuffled}");
    assert_eq!(shuffled, {
        let mut again = ask(&["--shuffled", "3"]);
        again["seconds"] = shuffled["seconds"].clone();
        again["memory"]["micros_per_token"] = shuffled["memory"]["micros_per_token"].clone();
        again
    });
    let writing =
        cart.json(["run", "tiny:told", "-p", QUESTION, "-n", "2", "--memory", "--write-only"]);
    assert_eq!(writing["memory"]["read"], json!([]));
    assert!(writing["memory"]["written"].as_u64().unwrap() > 0);
}
