//! Steps per second of a small model on random bytes: `steps SPEC BATCH SECONDS`. The rival is
//! `scripts/rivals/train.py`, which runs both.

use std::time::{Duration, Instant};

use cart_train::agent::{Agent, AgentSpec};
use cart_train::{Chance, Corpus, Schedule, TrainOptions};

/// Steps before the clock starts.
const WARM: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let spec: AgentSpec = words.next().unwrap_or_default().parse()?;
    let batch: usize = words.next().map_or(Ok(16), |word| word.parse())?;
    let seconds: f64 = words.next().map_or(Ok(10.0), |word| word.parse())?;
    let context = spec.context as usize;
    let mut chance = Chance::new(1, &[]);
    let tokens = (0..64 * batch * context).map(|_| chance.below(256) as u32).collect();
    let corpus = Corpus::new(tokens, 0.05, context, batch, 0)?;
    let schedule = Schedule { peak: 1e-3, warmup: 10, steps: u64::MAX, floor: 0.1 };
    let options = TrainOptions { schedule, weight_decay: 0.1, clip: 1.0, accumulate: 1, seed: 0 };
    let mut agent = Agent::new(&spec, corpus, options)?;
    for _ in 0..WARM {
        agent.step()?;
    }
    let (began, mut steps, mut loss) = (Instant::now(), 0, 0.0);
    while began.elapsed() < Duration::from_secs_f64(seconds) {
        loss = agent.step()?.loss;
        steps += 1;
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{{\"steps_per_second\": {:.3}, \"parameters\": {}, \"loss\": {loss:.4}}}",
        f64::from(steps) / took,
        agent.trainer().parameters()
    );
    Ok(())
}
