//! `cart memory`: what is remembered, asked, written down and read in, through the binary.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;

use cart_tests::{Cart, fixture, schemas};
use serde_json::{Value, json};

const TOLD: &str = "The code of the red boat is 4821. The dog of Ann is called Rex. It is late. ";
const QUESTION: &str = "What is the code of the red boat? The code of the red boat is";

/// A store with the small model as `tiny`.
fn tiny() -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    cart
}

/// The same with `tiny:told`, which was told three sentences.
fn told() -> Cart {
    let cart = tiny();
    cart.json(["run", "tiny", "-p", TOLD, "-n", "0", "--memory", "--save", "tiny:told"]);
    cart
}

fn rows(report: &Value, field: &str) -> Vec<Value> {
    report[field].as_array().unwrap().clone()
}

fn texts(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_memory_is_shown_slot_by_slot_and_the_latest_come_first() {
    let cart = told();
    let before = cart.content();
    let all = cart.json(["memory", "show", "tiny:told"]);
    let inspected = cart.json(["inspect", "tiny:told", "--memory"]);
    assert_eq!(all["memory"], inspected["memory"]);
    let slots = rows(&all, "slots");
    assert_eq!(texts(&slots), texts(&rows(&inspected, "slots")));
    for row in &slots {
        let number = |field: &str| row[field].as_f64().unwrap();
        assert!(
            (number("open") * number("energy") * number("decay") - number("weight")).abs() < 1e-6
        );
        let now = all["memory"]["now"].as_u64().unwrap();
        assert_eq!(row["age"].as_u64().unwrap(), now - row["refreshed"].as_u64().unwrap());
        assert_eq!(row["holds"], true);
    }
    let short: Vec<u64> = slots
        .iter()
        .filter(|row| row["store"] == "stm")
        .map(|row| row["refreshed"].as_u64().unwrap())
        .collect();
    assert!(short.len() >= 3 && short.is_sorted_by(|a, b| a >= b), "{short:?}");
    let few = cart.json(["memory", "show", "tiny:told", "--stm", "--limit", "1"]);
    assert_eq!(few["slots"], json!([slots[0]]));
    assert_eq!(few["left_out"], slots.len() - 1);
    let said = cart.ok(["memory", "show", "tiny:told", "--limit", "1"]);
    assert!(said.contains("short-term") && said.contains("not shown"), "{said}");
    assert_eq!(cart.content(), before, "looking changed something");
}

#[test]
fn a_cartridge_that_remembers_nothing_is_no_error() {
    let cart = tiny();
    for what in ["show", "goal", "graph", "energy"] {
        assert_eq!(cart.json(["memory", what, "tiny"])["memory_id"], Value::Null);
        let said = cart.ok(["memory", what, "tiny"]);
        assert!(said.starts_with("no memory yet"), "{what}: {said}");
    }
    for what in ["recall", "reflect"] {
        assert_eq!(cart.json(["memory", what, "tiny", "-p", "a boat"])["memory_id"], Value::Null);
        let said = cart.ok(["memory", what, "tiny", "-p", "a boat"]);
        assert!(said.starts_with("no memory yet"), "{what}: {said}");
    }
    let path = cart.path("nothing.jsonl");
    assert_eq!(cart.json(["memory", "export", "tiny", "-o", &path])["entries"], 0);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[test]
fn a_damaged_cartridge_is_not_looked_into() {
    let cart = told();
    let manifest = cart.manifest("tiny:told");
    let blob = cart.blob(manifest["tokenizer"]["document"].as_str().unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    for what in ["show", "goal", "graph", "energy"] {
        cart.refused(["memory", what, "tiny:told"]);
    }
}

#[test]
fn recall_says_what_a_run_reads_and_changes_nothing() {
    let cart = told();
    let before = cart.content();
    let recalled = cart.json(["memory", "recall", "tiny:told", "-p", QUESTION, "-k", "9"]);
    let hits = rows(&recalled, "recalled");
    assert!(hits.len() >= 3, "{recalled}");
    assert!(hits[0]["text"].as_str().unwrap().contains("4821"), "{recalled}");
    let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let ran = cart.json(["run", "tiny:told", "-p", QUESTION, "-n", "1", "--memory", "--read-only"]);
    let read = rows(&ran["memory"], "read");
    assert_eq!((read.len(), &read[0]["text"]), (1, &hits[0]["text"]));
    // A run reports the cosine as the score.
    assert_eq!(read[0]["score"], hits[0]["cosine"]);
    let said = cart.ok(["memory", "recall", "tiny:told", "-p", QUESTION]);
    assert!(said.contains("4821"), "{said}");
    assert_eq!(cart.content(), before, "a question changed something");
    let piped = cart.run_with_stdin(["memory", "recall", "tiny:told", "-p", "-"], QUESTION);
    assert_eq!(piped.expect_code(0).stdout, said);
    cart.run(["memory", "recall", "tiny:told", "-p", QUESTION, "-k", "0"]).expect_code(2);
    let said = cart.refused(["memory", "recall", "tiny:told", "-p", ""]);
    assert!(said.contains("no tokens"), "{said}");
}

#[test]
fn what_was_imported_is_known_and_what_was_not_is_new() {
    let cart = tiny();
    let lines = "{\"text\": \"The code of the red boat is 4821.\", \"energy\": 1, \"tags\": [\"boat\"]}\n\n\
                 {\"text\": \"The dog of Ann is called Rex.\", \"energy\": 0.9}\n\
                 {\"text\": \"The mill stands at the river.\", \"energy\": 0.9}\n\
                 {\"text\": \"The cat of Tom is called Mia.\", \"energy\": 0.1}\n";
    let path = cart.file("facts.jsonl", lines.as_bytes());
    let imported = cart.json(["memory", "import", "tiny", &path, "--save", "tiny:facts"]);
    assert_eq!(
        (&imported["entries"], &imported["texts"], &imported["remembered"]),
        (&json!(4), &json!(4), &json!(4))
    );
    let shown = cart.json(["memory", "show", "tiny:facts"]);
    assert_eq!(shown["memory"], imported["memory"]);
    assert_eq!(shown["memory_id"], imported["saved"]["memory_id"]);
    let stm = cart.json(["memory", "show", "tiny:facts", "--stm"]);
    for row in rows(&stm, "slots") {
        let boat = row["text"] == "The code of the red boat is 4821.";
        let source = if boat { "facts.jsonl #boat" } else { "facts.jsonl" };
        assert_eq!(row["source"], source);
        assert_eq!(row["energy"].as_f64().unwrap() == 1.0, boat);
    }
    let ltm = rows(&cart.json(["memory", "show", "tiny:facts", "--ltm"]), "slots");
    assert_eq!(ltm.len(), 3, "what matters is consolidated, what does not is not: {ltm:?}");

    // The same text again is known to the bit: its key is the query's.
    let known =
        cart.json(["memory", "reflect", "tiny:facts", "-p", "The dog of Ann is called Rex."]);
    let found = &known["reflection"];
    assert!(found["novelty"].as_f64().unwrap() < 1e-3, "{known}");
    assert_eq!(
        (&found["novel"], &found["known"][0]["text"]),
        (&json!(false), &json!("The dog of Ann is called Rex."))
    );
    let other = cart.json(["memory", "reflect", "tiny:facts", "-p", "def area(width, height):"]);
    assert!(
        other["reflection"]["novelty"].as_f64()
            > found["novelty"].as_f64().map(|known| known + 0.1),
        "{other}"
    );
    let said = cart.ok(["memory", "reflect", "tiny:facts", "-p", "The dog of Ann is called Rex."]);
    assert!(said.starts_with("novelty 0.000: it is known"), "{said}");

    let goal = cart.json(["memory", "goal", "tiny:facts", "-k", "2"]);
    assert_eq!(goal["goal"]["steps"], 3);
    let cosines: Vec<f64> =
        rows(&goal["goal"], "nearest").iter().map(|row| row["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.len() == 2 && cosines[0] >= cosines[1] && cosines[1] > 0.0, "{goal}");
    assert!(cart.ok(["memory", "goal", "tiny:facts"]).contains("after 3 steps"));
    assert_eq!(cart.ok(["memory", "goal", "tiny"]), cart.ok(["memory", "show", "tiny"]));

    let energy = cart.json(["memory", "energy", "tiny:facts"]);
    let ltm = &energy["energies"]["ltm"]["energy"];
    assert_eq!(ltm["histogram"], json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 3]));
    let said = cart.ok(["memory", "energy", "tiny:facts"]);
    assert!(said.contains("0.9 to 1.0      3  ████"), "{said}");
    assert!(cart.ok(["memory", "graph", "tiny:facts"]).contains("keeps no graph"));
}

#[test]
fn what_was_exported_is_imported_again() {
    let cart = told();
    let path = cart.path("told.jsonl");
    let exported = cart.json(["memory", "export", "tiny:told", "-o", &path]);
    let text = std::fs::read_to_string(&path).unwrap();
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported["entries"], entries.len());
    assert_eq!(exported["bytes"], text.len());
    for entry in &entries {
        schemas::check("memory-entry", entry);
        assert_eq!(entry.as_object().unwrap().len(), 13, "every field: {entry}");
    }
    assert_eq!(cart.ok(["memory", "export", "tiny:told", "-o", "-"]), text);
    assert!(
        cart.refused(["memory", "export", "tiny:told", "-o", &path]).contains("exists already")
    );
    cart.json(["memory", "export", "tiny:told", "-o", &path, "--force"]);
    cart.refused_with_code(2, ["memory", "export", "tiny:told", "-o", "-"]);

    // One more entry has ended, one has a gate.
    let more = "{\"text\": \"It was early.\", \"validity\": {\"from\": 1, \"until\": 2}}\n\
                {\"text\": \"The door is open.\", \"gate\": 1.5, \"tags\": [\"door\"]}\n";
    let more = cart.file("more.jsonl", more.as_bytes());
    let imported = cart.json([
        "memory",
        "import",
        "tiny",
        &path,
        &more,
        "--save",
        "tiny:again",
        "--with-tag",
        "again",
    ]);
    assert_eq!((&imported["left_out"], &imported["silent"]), (&json!(1), &json!(0)));
    assert_eq!(imported["texts"], imported["remembered"]);
    let slots = rows(&cart.json(["memory", "show", "tiny:again"]), "slots");
    let mut wanted = texts(&entries);
    wanted.insert("The door is open.".to_owned());
    assert_eq!(texts(&slots), wanted);
    let door = slots.iter().find(|slot| slot["text"] == "The door is open.").unwrap();
    assert_eq!((&door["gate"], &door["source"]), (&json!(1.5), &json!("more.jsonl #door #again")));
    let first = slots.iter().find(|slot| slot["text"] == entries[0]["text"]).unwrap();
    assert_eq!(
        (&first["source"], &first["energy"]),
        (&json!("prompt #again"), &entries[0]["energy"])
    );
    // Tags come out apart from the source.
    let all = cart.ok(["memory", "export", "tiny:again", "-o", "-"]);
    assert!(
        all.contains(r#""source":"more.jsonl""#) && all.contains(r#"["door","again"]"#),
        "{all}"
    );
}

#[test]
fn a_text_file_is_remembered_sentence_by_sentence_on_any_number_of_threads() {
    let cart = tiny();
    // Longer than the model reads at once.
    let lines: Vec<String> = (0..60)
        .map(|n| format!("Box {n} has the number {}. It is in hall {}.", 7 * n + 100, n % 9))
        .collect();
    let text = lines.join("\n");
    let path = cart.file("boxes.txt", text.as_bytes());
    let mut ids = Vec::new();
    for threads in ["1", "2"] {
        let name = format!("tiny:boxes{threads}");
        let report =
            cart.json(["--threads", threads, "memory", "import", "tiny", &path, "--save", &name]);
        assert_eq!(report["entries"], 1);
        assert!(report["told"].as_u64().unwrap() >= 120, "{report}");
        assert_eq!(
            report["told"].as_u64().unwrap(),
            report["added"].as_u64().unwrap() + report["blended"].as_u64().unwrap()
        );
        assert!(report["consolidated"].as_u64().unwrap() >= 60, "{report}");
        ids.push(report["saved"]["memory_id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    let slots = rows(&cart.json(["memory", "show", "tiny:boxes1"]), "slots");
    assert!(texts(&slots).contains("Box 59 has the number 513."), "{slots:?}");
    assert!(slots.iter().all(|slot| slot["source"] == "boxes.txt"));
}

#[test]
fn settings_give_a_new_memory_a_graph_which_graphviz_can_draw() {
    let cart = tiny();
    let settings = cart.file("settings.json", br#"{"graph": {"rate": 0.5}}"#);
    let path = cart.file("row.txt", b"The boat is red.\nThe \"dog\" is Rex.\nThe mill is old.\n");
    let import = ["memory", "import", "tiny", &path, "--save", "tiny:row", "--settings", &settings];
    cart.json(import);
    let graph = cart.json(["memory", "graph", "tiny:row"]);
    assert_eq!(graph["rules"]["rate"], 0.5);
    // What the file does not say is as in a memory that a run begins.
    let run = told().json(["memory", "show", "tiny:told"]);
    let begun = cart.json(["memory", "show", "tiny:row"]);
    for store in ["stm", "ltm"] {
        assert_eq!(begun["memory"][store]["capacity"], run["memory"][store]["capacity"]);
    }
    for bad in ["{\"stm_slots\": 0}", "{\"colour\": 1}", "[]"] {
        let bad = cart.file("bad.json", bad.as_bytes());
        let other = ["memory", "import", "tiny", &path, "--save", "tiny:x", "--settings", &bad];
        assert!(cart.refused(other).contains("bad.json"));
    }
    let (links, nodes) = (rows(&graph, "links"), rows(&graph, "slots"));
    assert_eq!((links.len(), nodes.len()), (2, 3), "{graph}");
    assert!(links[0]["strength"].as_f64() >= links[1]["strength"].as_f64());
    let ends: BTreeSet<(u64, u64)> = links
        .iter()
        .map(|link| (link["from"].as_u64().unwrap(), link["to"].as_u64().unwrap()))
        .collect();
    assert_eq!(ends, BTreeSet::from([(0, 1), (1, 2)]), "one after the other");
    let dot = cart.ok(["memory", "graph", "tiny:row", "--dot"]);
    assert!(
        dot.starts_with("digraph memory {")
            && dot.contains("0 -> 1 [")
            && dot.contains("\\\"dog\\\""),
        "{dot}"
    );
    assert!(cart.ok(["memory", "graph", "tiny:row"]).contains("The mill is old."));
    let done = cart.run(["--json", "memory", "graph", "tiny:row", "--dot"]);
    assert_eq!(done.code, Some(2));
    // A memory that is there keeps its settings.
    let said = cart.refused([
        "memory",
        "import",
        "tiny:row",
        &path,
        "--save",
        "tiny:more",
        "--settings",
        &settings,
    ]);
    assert!(said.contains("leave out --settings"), "{said}");
}

#[test]
fn what_comes_through_a_pipe_is_remembered_like_a_file() {
    let cart = tiny();
    let import = |input: &str, text: &str, options: &[&str]| {
        let all = ["--json", "memory", "import", "tiny", input, "--save", "tiny:piped"];
        let done = cart.run_with_stdin(all.iter().chain(options), text);
        done.expect_code(0).report()
    };
    let text = "The boat is red. The door is open.";
    let lines = "{\"text\": \"The boat is red.\"}\n\n{\"text\": \"The door is open.\", \"tags\": [\"a\"]}\n";
    let piped = import("-", text, &[]);
    assert_eq!((&piped["entries"], &piped["told"]), (&json!(1), &json!(2)), "{piped}");
    let piped = import("-", lines, &["--jsonl"]);
    assert_eq!((&piped["entries"], &piped["told"]), (&json!(2), &json!(2)), "{piped}");
    let all = cart.ok(["memory", "export", "tiny:piped", "-o", "-"]);
    assert!(all.contains(r#""source":"stdin""#) && all.contains(r#"["a"]"#), "{all}");
    // What was exported goes on through a pipe, and so does a file with another ending.
    let again = import("-", &all, &["--jsonl"]);
    assert_eq!(again["entries"], all.lines().count());
    let path = cart.file("lines.txt", lines.as_bytes());
    let of_file = import(&path, "", &["--jsonl"]);
    assert_eq!(of_file["entries"], 2);

    let before = cart.content();
    let refused = |code: i32, text: &str, files: &[&str]| {
        let all = ["memory", "import", "tiny", "--save", "tiny:bad"];
        cart.run_with_stdin(all.iter().chain(files), text).expect_code(code).stderr
    };
    let said = refused(1, "{\"text\": \"A boat.\"}\nboat\n", &["-", "--jsonl"]);
    assert!(said.contains("stdin: line 2: not acceptable JSON"), "{said}");
    assert!(refused(1, "", &["-"]).contains("nothing to remember"));
    assert!(refused(2, text, &["-", &path, "-"]).contains("give it once"));
    assert_eq!(cart.content(), before);
}

#[test]
fn bad_files_are_refused_with_their_line_and_save_nothing() {
    let cart = tiny();
    let before = cart.content();
    let good = r#"{"text": "The boat is red."}"#;
    for (line, words) in [
        (
            r#"{"text": "A boat.", "colour": 1}"#,
            "line 2: field `colour` is not known; known: text, energy",
        ),
        (
            r#"{"text": "A boat.", "energy": 1.5}"#,
            "line 2: field `energy` is 1.5; allowed: a number from 0 to 1",
        ),
        (r#"{"text": "A boat.", "energy": "much"}"#, "field `energy` is \"much\""),
        (r#"{"text": "A boat.", "tags": ["a b"]}"#, "field `tags` is [\"a b\"]"),
        (r#"{"text": "A boat.", "gate": 1e300}"#, "field `gate` is 1e+300"),
        (r#"{"text": "A boat.", "tick": -1}"#, "field `tick` is -1; allowed: a whole number"),
        (r#"{"text": "A boat.", "store": "mtm"}"#, "field `store` is \"mtm\""),
        (r#"{"text": "A boat.", "token_ids": ["a"]}"#, "field `token_ids` is [\"a\"]"),
        (r#"{"text": "A boat.", "validity": {"to": 1}}"#, "field `validity` is {\"to\":1}"),
        (r#"{"text": " . "}"#, "field `text` is \" . \""),
        (r#"{"energy": 1}"#, "field `text` is absent"),
        (r#"["A boat."]"#, "line 2: [\"A boat.\"]; allowed: an object"),
        (r#"{"text": "A boat."#, "line 2: not acceptable JSON: "),
        (r#"{"text": "A boat.", "energy": NaN}"#, "line 2: not acceptable JSON: "),
        (r#"{"text": "A boat.", "text": "A car."}"#, "line 2: not acceptable JSON: "),
        (r#"{"text": "A boat.", "text": "A car."}"#, "the key \"text\" comes twice at column 26"),
        (
            r#"{"text": "A boat.", "validity": {"from": 1, "from": 2}}"#,
            "the key \"from\" comes twice",
        ),
    ] {
        let path = cart.file("bad.jsonl", format!("{good}\n{line}\n").as_bytes());
        let said = cart.refused(["memory", "import", "tiny", &path, "--save", "tiny:bad"]);
        assert!(said.contains(words), "{line}: {said}");
    }
    let path = cart.file("latin.txt", b"The boat \xe9");
    let said = cart.refused(["memory", "import", "tiny", &path, "--save", "tiny:bad"]);
    assert!(said.contains("not UTF-8 from byte 9 on"), "{said}");
    let path = cart.file("dots.txt", b"... ...\n");
    let said = cart.refused(["memory", "import", "tiny", &path, "--save", "tiny:bad"]);
    assert!(said.contains("nothing to remember"), "{said}");
    let said = cart.refused(["memory", "import", "tiny", "nowhere.txt", "--save", "tiny:bad"]);
    assert!(said.contains("nowhere.txt can't be read"), "{said}");
    let path = cart.file("good.txt", b"The boat is red.");
    for options in [["--energy", "1.5"], ["--energy", "NaN"], ["--with-tag", "a b"]] {
        let arguments = ["memory", "import", "tiny", &path, "--save", "tiny:bad"];
        cart.refused_with_code(2, arguments.into_iter().chain(options));
    }
    assert_eq!(cart.content(), before);
    // Unless it is asked for.
    let path = cart.file("odd.jsonl", br#"{"text": "The boat is red.", "colour": 1}"#);
    cart.json(["memory", "import", "tiny", &path, "--save", "tiny:odd", "--ignore-unknown"]);
}
