//! `cart memory plot`: drawings of a memory and of its log, as SVG and PNG.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cart_tests::{Cart, fixture};
use serde_json::{Value, json};

const FIGURES: [&str; 6] = ["slots", "survival", "energy", "goal", "cosines", "graph"];

/// A store with `tiny:lived` and `lived.log`, of a small memory in which slots come and go.
fn lived() -> Cart {
    let cart = Cart::new();
    cart.json(["pack", &fixture("tiny"), "-t", "tiny"]);
    let settings = cart.file("settings.json", br#"{"stm_slots": 6, "graph": {"rate": 0.5}}"#);
    let first = cart.file("first.txt", b"The mill stands at the river.");
    let import = ["memory", "import", "tiny", &first, "--save", "tiny:begun", "--settings"];
    cart.json(import.into_iter().chain([settings.as_str()]));
    let told: Vec<String> =
        (0..14).map(|n| format!("Box {n} is number {}.", 7 * n + 100)).collect();
    let told = told.join(" ");
    let log = cart.path("lived.log");
    let run = ["run", "tiny:begun", "-p", &told, "-n", "0", "--memory", "--memory-log", &log];
    cart.json(run.into_iter().chain(["--save", "tiny:lived"]));
    cart
}

fn figures(report: &Value, field: &str) -> Vec<String> {
    let rows = report[field].as_array().unwrap().iter();
    rows.map(|row| row["figure"].as_str().unwrap().to_owned()).collect()
}

fn size_of_png(bytes: &[u8]) -> (u32, u32) {
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn each_figure_is_drawn_in_both_forms_the_same_every_time() {
    let cart = lived();
    let before = cart.content();
    let log = cart.path("lived.log");
    let folder = cart.path("plots");
    let plot =
        ["memory", "plot", "tiny:lived", "--log", &log, "--base", "tiny:begun", "-o", &folder];
    let plotted = cart.json(plot);
    assert_eq!(plotted["left_out"], json!([]), "{plotted}");
    let drawn = plotted["drawn"].as_array().unwrap();
    assert_eq!(drawn.len(), 12);
    let mut all = Vec::new();
    for file in drawn {
        let (path, name) = (file["path"].as_str().unwrap(), file["figures"][0].as_str().unwrap());
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(file["bytes"], bytes.len());
        if path.ends_with(&format!("{name}.png")) {
            assert_eq!(size_of_png(&bytes), (800, 480));
            assert!(bytes.len() > 8000, "{name} is nearly empty");
        } else {
            assert!(path.ends_with(&format!("{name}.svg")), "{path}");
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"), "{name}");
            let words = match name {
                "slots" => "Slots over time",
                "survival" => "Kaplan and Meier",
                "energy" => "running mean",
                "goal" => "cosine with the step before",
                "cosines" => "cosines of all pairs",
                _ => "Which memory leads to which",
            };
            assert!(text.contains(words), "{name}: {text}");
        }
        all.push(bytes);
    }
    assert_eq!(cart.content(), before, "drawing changed something");

    assert!(cart.refused(plot).contains("exists already"));
    let again = cart.json(plot.into_iter().chain(["--force"]));
    for (file, bytes) in again["drawn"].as_array().unwrap().iter().zip(&all) {
        assert!(std::fs::read(file["path"].as_str().unwrap()).unwrap() == *bytes, "{file}");
    }

    // All on one sheet.
    let sheet = cart.path("sheet.png");
    let plot =
        ["memory", "plot", "tiny:lived", "--log", &log, "--base", "tiny:begun", "-o", &sheet];
    assert_eq!(cart.json(plot)["drawn"][0]["figures"], json!(FIGURES));
    assert_eq!(size_of_png(&std::fs::read(&sheet).unwrap()), (1600, 1440));
}

#[test]
fn links_and_slots_are_in_their_figures() {
    let cart = lived();
    let links = cart.json(["memory", "graph", "tiny:lived"])["links"].as_array().unwrap().len();
    let path = cart.path("graph.svg");
    let plotted = cart.json(["memory", "plot", "tiny:lived", "-o", &path]);
    assert_eq!(plotted["drawn"][0]["figures"], json!(["cosines", "graph"]));
    assert_eq!(figures(&plotted, "left_out"), ["slots", "survival", "energy", "goal"]);
    assert_eq!(plotted["records"], Value::Null);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(links > 0 && text.contains(&format!("{links} links, towards the dot")), "{links}");
    assert!(text.contains("Box 13 is number"), "{text}");
}

#[test]
fn what_can_not_be_drawn_is_refused_or_named() {
    let cart = lived();
    let log = cart.path("lived.log");
    let path = cart.path("a.svg");
    let said = cart.refused_with_code(2, ["memory", "plot", "tiny:lived", "-o", "a.gif"]);
    assert!(said.contains("allowed: .svg, .png"), "{said}");
    let said = cart.refused(["memory", "plot", "tiny:lived", "--log", &log, "-o", &path]);
    assert!(said.contains("--base REF"), "{said}");
    let other =
        ["memory", "plot", "tiny:begun", "--log", &log, "--base", "tiny:begun", "-o", &path];
    let said = cart.refused(other);
    assert!(said.contains("leads to memory") && said.contains("tiny:begun has"), "{said}");
    let said = cart.refused(["memory", "plot", "tiny:begun", "-o", &path]);
    assert!(said.contains("nothing that could be drawn"), "{said}");
    let none = cart.json(["memory", "plot", "tiny", "-o", &path]);
    assert_eq!((&none["memory_id"], &none["drawn"]), (&Value::Null, &json!([])));
    assert!(!std::path::Path::new(&path).exists());
}
