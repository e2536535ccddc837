//! Tokens a second of a Llama in a GGUF file, and its five best tokens for some token ids:
//! `speed MODEL.gguf [LEVEL] [-- IDS…]`. Threads by `RAYON_NUM_THREADS`.

use std::time::Instant;

use cart_nn::{KernelLevel, LogitsFor, Model, Run, State};

#[path = "support/gguf.rs"]
mod gguf;

fn forward(model: &Model, state: &mut State, tokens: &[u32]) -> Vec<f32> {
    let run = Run { state, tokens, logits: LogitsFor::Last, taps: None };
    model.forward(&mut [run]).expect("tokens in range").remove(0).data
}

fn best(logits: &[f32]) -> Vec<(usize, f32)> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order[..5].iter().map(|&token| (token, logits[token] - largest - sum.ln())).collect()
}

fn largest(logits: &[f32]) -> u32 {
    let best =
        (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
    best as u32
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("a path to a GGUF file");
    let file = gguf::Gguf::parse(std::fs::read(path).expect("a readable file"));
    let rest: Vec<String> = args.collect();
    let level = rest.first().and_then(|name| name.parse().ok()).unwrap_or(KernelLevel::detect());
    let start = Instant::now();
    let model = Model::load(&file.llama(), &file.tensors).expect("a Llama");
    let model = model.with_kernel_level(level).expect("a level of this processor");
    println!(
        "load {:.1} ms, {level}, {:?}",
        start.elapsed().as_secs_f64() * 1e3,
        model.weight_bytes()
    );
    let ids: Vec<u32> = rest.iter().filter_map(|id| id.parse().ok()).collect();
    if !ids.is_empty() {
        for (token, log_probability) in best(&forward(&model, &mut model.new_state(), &ids)) {
            println!("{token} {log_probability:.4}");
        }
        return;
    }
    println!("{:?}", model.threads());
    let prompt: Vec<u32> = (0..512).map(|index| (index * 7919 + 13) % 40_000).collect();
    for _ in 0..3 {
        let mut state = model.new_state();
        let start = Instant::now();
        forward(&model, &mut state, &prompt);
        let prefill = start.elapsed().as_secs_f64();
        let mut rates = Vec::new();
        for past in [8, 500] {
            state.truncate(past).expect("attention keeps every position");
            let start = Instant::now();
            let mut token = 42;
            for _ in 0..64 {
                token = largest(&forward(&model, &mut state, &[token]));
            }
            rates.push(64.0 / start.elapsed().as_secs_f64());
        }
        println!(
            "prefill 512: {:.0} tok/s; decode at 8: {:.1} tok/s, at 500: {:.1} tok/s",
            512.0 / prefill,
            rates[0],
            rates[1],
        );
    }
}
