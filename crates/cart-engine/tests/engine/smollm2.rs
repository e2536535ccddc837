//! SmolLM2 from GGUF, where `CART_TEST_MODEL` names the file: perplexity, first steps and tokenizer
//! against llama.cpp and the reference tokenizer.

use cart_engine::{GenerateOptions, ParseSpecial, ShowSpecial, TextStream};

use crate::given::{fixture, gpl_perplexity, greedy, large_model, raw, shelf};

/// Prompts with the five best first tokens and their ln p, by llama.cpp on the CPU.
const FIRST_STEPS: [(&str, [(u32, f64); 5]); 3] = [
    (
        "The capital of France is",
        [(7042, -0.2486), (260, -2.7849), (4528, -4.3539), (2250, -4.6861), (1315, -4.6949)],
    ),
    (
        "def fibonacci(n):\n",
        [(198, -1.4509), (1604, -1.5841), (3725, -2.4837), (19, -2.7073), (3272, -3.4822)],
    ),
    (
        "<|im_start|>user\nName three colors.<|im_end|>\n<|im_start|>assistant\n",
        [(33, -1.9297), (504, -2.3520), (4590, -2.6250), (788, -3.2030), (2122, -3.4810)],
    ),
];

#[test]
fn perplexity_of_the_gpl_is_llama_cpps() {
    let Some(model) = large_model("CART_TEST_MODEL") else { return };
    let found = gpl_perplexity(&model);
    assert!((18.30..=18.55).contains(&found), "{found}");
}

#[test]
fn the_tokenizer_agrees_with_the_reference() {
    let Some(model) = large_model("CART_TEST_MODEL") else { return };
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(&model));
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

#[test]
fn the_first_steps_are_llama_cpps() {
    let Some(model) = large_model("CART_TEST_MODEL") else { return };
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(&model));
    let options = GenerateOptions { top_logprobs: 8, ..greedy(1) };
    let mut largest = 0.0_f64;
    for (prompt, expected) in FIRST_STEPS {
        let found = raw(&agent, prompt, &options).top_logprobs.remove(0);
        let found: Vec<(u32, f64)> = found.iter().map(|top| (top.token, top.logprob)).collect();
        println!("{prompt:?}\n  found    {found:?}\n  expected {expected:?}");
        for (token, logprob) in expected {
            let own = found.iter().find(|found| found.0 == token);
            let own = own.unwrap_or_else(|| panic!("{token} is not among the best: {found:?}"));
            largest = largest.max((own.1 - logprob).abs());
            // llama.cpp's 8-bit activations put it up to 0.13 nat off the exact numbers.
            assert!(found[4].1 - own.1 < 0.05, "{token} is not among the five best: {found:?}");
        }
    }
    println!("largest distance {largest} nat");
    assert!(largest < 0.15, "{largest}");
}
