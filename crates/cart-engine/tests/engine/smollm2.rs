//! SmolLM2 from GGUF, where `CART_SMOLLM2` names the file: perplexity, first steps and tokenizer
//! against llama.cpp and the reference tokenizer.

use std::path::PathBuf;

use cart_engine::{ParseSpecial, ShowSpecial, TextStream, perplexity};

use crate::given::{fixture, shelf};

fn model() -> PathBuf {
    PathBuf::from(std::env::var_os("CART_SMOLLM2").expect("CART_SMOLLM2 names the GGUF file"))
}

#[test]
#[ignore = "needs the SmolLM2 file in CART_SMOLLM2"]
fn perplexity_of_the_gpl_is_llama_cpps() {
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(&model()));
    let text = std::fs::read_to_string(fixture("text/gpl-3.txt")).unwrap();
    let text: String = text.chars().take(20_000).collect();
    let report = perplexity(&agent, &text, 512).unwrap();
    println!("{report:?}");
    assert!((18.30..=18.55).contains(&report.perplexity), "{report:?}");
}

#[test]
#[ignore = "needs the SmolLM2 file in CART_SMOLLM2"]
fn the_tokenizer_agrees_with_the_reference() {
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(&model()));
    let tokenizer = agent.tokenizer().unwrap();
    let lines = |name: &str| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(fixture("tokenizer").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let ids = |case: &serde_json::Value| -> Vec<u32> {
        serde_json::from_value(case["ids"].clone()).unwrap()
    };
    let cases = lines("smollm2-fuzz.jsonl");
    assert!(cases.len() >= 2000);
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, ParseSpecial::Yes).unwrap();
        assert_eq!(found, ids(case), "{text:?}");
        let decoded = case.get("decoded").and_then(|decoded| decoded.as_str()).unwrap_or(text);
        assert_eq!(tokenizer.decode(&found, ShowSpecial::Yes).unwrap(), decoded);
    }
    for case in &lines("smollm2-decode.jsonl") {
        let ids = ids(case);
        for (show, field) in [(ShowSpecial::Yes, "decoded"), (ShowSpecial::No, "without_special")] {
            let expected = case[field].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids, show).unwrap(), expected, "{ids:?}");
            let mut stream = TextStream::new(show);
            let mut text: String =
                ids.iter().map(|&id| stream.push(tokenizer, id).unwrap()).collect();
            text += &stream.flush(tokenizer).unwrap();
            assert_eq!(text, expected, "{ids:?}");
        }
    }
}
