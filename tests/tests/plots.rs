//! `cart memory plot`: drawings of a memory and of its log, as SVG and PNG, and as text.
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
fn figures_are_text_where_they_are_asked_for_in_a_terminal() {
    let cart = lived();
    let before = cart.content();
    let log = cart.path("lived.log");
    let plot = ["memory", "plot", "tiny:lived", "--log", &log, "--base", "tiny:begun", "-o", "-"];
    let text = cart.ok(plot);
    for words in [
        "Slots over time: σ(A) · energy · decay",
        "short-term, slots by number",
        "share that lives longer",
        "running mean (α 0.1)",
        "cosine with the step before",
        "cosines of all pairs",
        "links",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "colour in a pipe: {text}");
    // Shades, dots and bars, not only frames.
    for drawn in [['░', '▓'], ['⠁', '⣿'], ['█', '▏']] {
        let is_drawn = |char: char| (drawn[0]..=drawn[1]).contains(&char);
        assert!(text.contains(is_drawn), "nothing of {drawn:?}: {text}");
    }
    let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!((60..=80).contains(&widest(&text)), "{} columns: {text}", widest(&text));
    let wide = |columns: &str| {
        let done = cart.command(plot).env("COLUMNS", columns).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(wide("80"), text);
    assert!((100..=120).contains(&widest(&wide("120"))), "{}", wide("120"));
    assert!(widest(&wide("44")) < 70, "{}", wide("44"));

    // What the numbers say is what is drawn.
    let graph = cart.json(["memory", "graph", "tiny:lived"]);
    let links = graph["links"].as_array().unwrap();
    assert!(text.contains(&format!("Which memory leads to which: {} links", links.len())));
    let (strongest, slots) = (&links[0], graph["slots"].as_array().unwrap());
    let to = slots.iter().find(|slot| slot["slot"] == strongest["to"]).unwrap();
    let row = text.lines().find(|line| line.contains("  → ")).unwrap();
    assert!(row.contains(&format!("{:.3}", strongest["strength"].as_f64().unwrap())), "{row}");
    assert!(row.contains(&format!(": {}", to["text"].as_str().unwrap().trim())), "{row}");

    let coloured = cart.ok(["--color", "always"].into_iter().chain(plot));
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    let without = cart.command(plot).env("NO_COLOR", "1").output().unwrap();
    assert_eq!(String::from_utf8(without.stdout).unwrap(), text);
    let without_log = cart.run(["memory", "plot", "tiny:lived", "-o", "-"]).expect_code(0);
    assert!(without_log.stderr.contains("slots left out: no log was given"), "{without_log:?}");
    assert!(without_log.stdout.starts_with("How alike slots are"), "{without_log:?}");
    let said = cart.refused_with_code(2, plot);
    assert!(said.contains("two forms of one output"), "{said}");
    assert_eq!(cart.content(), before, "drawing changed something");
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
