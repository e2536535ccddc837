//! Imported, verified, loaded and run, a checkpoint gives the logits of `transformers`.

use cart_engine::Prompt;

use crate::given::{fixture, greedy, shelf};

const CHECKPOINTS: [&str; 6] = [
    "llama-bf16",
    "llama-f16-untied",
    "llama-f32-sharded",
    "llama-f32-tied",
    "llama3-rope-parameters",
    "llama3-rope-scaling",
];

#[test]
fn log_probabilities_are_those_of_transformers() {
    let shelf = shelf();
    for name in CHECKPOINTS {
        let folder = fixture("logits").join(name);
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let ids: Vec<u32> = serde_json::from_value(expected["input_ids"].clone()).unwrap();
        let logits: Vec<Vec<f64>> = serde_json::from_value(expected["logits"].clone()).unwrap();
        let last = logits.last().unwrap();
        let norm = last.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let agent = shelf.agent(shelf.import(&folder));
        let mut options = greedy(1);
        options.top_logprobs = 20;
        let generation = agent.generate(&Prompt::Tokens(ids), &options, |_| {}).unwrap();
        assert_eq!(generation.top_logprobs[0].len(), 20);
        for top in &generation.top_logprobs[0] {
            let expected = last[top.token as usize] - norm;
            assert!((top.logprob - expected).abs() < 1e-3, "{name}: {top:?} {expected}");
        }
    }
}
