//! Tokens a second of a Llama in a GGUF file after 512, 4,000 and 8,000 positions, for each format
//! of keys and values: `context MODEL.gguf [FORMAT…]`. Threads by `RAYON_NUM_THREADS`.

use std::time::Instant;

use cart_nn::{KvFormat, LogitsFor, Model, Run, State};

#[path = "support/gguf.rs"]
mod gguf;

/// Depths at which tokens are timed.
const DEPTHS: [usize; 3] = [512, 4000, 8000];

/// Tokens timed at a depth.
const STEPS: usize = 24;

fn forward(model: &Model, state: &mut State, tokens: &[u32], logits: LogitsFor) {
    let run = Run { state, tokens, logits, taps: None };
    model.forward(&mut [run]).expect("tokens in range");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("a path to a GGUF file");
    let file = gguf::Gguf::parse(std::fs::read(path).expect("a readable file"));
    let mut formats: Vec<KvFormat> = args.map(|name| name.parse().expect("a format")).collect();
    if formats.is_empty() {
        formats.extend(KvFormat::ALL);
    }
    let model = Model::load(&file.llama(), &file.tensors).expect("a Llama");
    let prompt: Vec<u32> = (0..8000).map(|index| (index * 7919 + 13) % 40_000).collect();
    let states = formats.iter().map(|format| {
        let mut state = model.new_state_in(*format).expect("heads of 64");
        for (from, to) in [(0, 512), (512, 4000), (4000, 8000)] {
            let start = Instant::now();
            forward(&model, &mut state, &prompt[from..to], LogitsFor::None);
            let rate = (to - from) as f64 / start.elapsed().as_secs_f64();
            println!("{format}: positions {from} to {to} read at {rate:.0} tok/s");
        }
        println!("{format}: {:.1} MB", state.bytes() as f64 / 1e6);
        (*format, state)
    });
    let states: Vec<_> = states.collect();
    for depth in DEPTHS {
        for (format, state) in &states {
            let mut best = 0.0_f64;
            for _ in 0..4 {
                let mut state = state.clone();
                state.truncate(depth).expect("every layer attends");
                forward(&model, &mut state, &[42], LogitsFor::Last);
                let start = Instant::now();
                for token in 0..STEPS {
                    forward(&model, &mut state, &[token as u32 * 31], LogitsFor::Last);
                }
                best = best.max(STEPS as f64 / start.elapsed().as_secs_f64());
            }
            println!("{format}: {best:.1} tok/s at {depth}");
        }
    }
}
