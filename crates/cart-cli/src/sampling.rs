//! Options of generation that `run`, `chat` and `bench` share.

use cart_engine::{GenerateOptions, MemoryControl, MemoryOptions, SamplingOptions};
use clap::Args;

use crate::context::now;

/// How tokens are chosen.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 takes the best token; 1 samples from the model's own distribution
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Sample among the K best tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample among the best tokens that hold this much probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Sample among tokens at least this fraction as probable as the best
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Divides the logits of tokens that came before; 1 for none
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Makes sampling repeatable
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Stop before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

/// How memory takes part.
#[derive(Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct MemoryArgs {
    /// Read the memory (recalled spans before the prompt, neighbours at the sampler) and write to
    /// it
    #[arg(long)]
    pub(crate) memory: bool,
    /// With --memory: do not write
    #[arg(long, requires = "memory")]
    read_only: bool,
    /// With --memory: do not read
    #[arg(long, requires = "memory", conflicts_with = "read_only")]
    write_only: bool,
    /// With --memory: exchange the slots' texts by this seed, as a control experiment
    #[arg(long, requires = "memory", value_name = "SEED")]
    shuffled: Option<u64>,
    /// With --memory: run the bare model beside, to measure the memory's effect
    #[arg(long, requires = "memory")]
    compare: bool,
}

impl SamplingArgs {
    /// The options of a generation of at most `max_tokens` tokens.
    pub(crate) fn options(&self, max_tokens: usize, memory: MemoryOptions) -> GenerateOptions {
        GenerateOptions {
            sampling: SamplingOptions {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
                ..SamplingOptions::default()
            },
            max_tokens: Some(max_tokens),
            stop: self.stop.clone(),
            memory,
            now: std::time::Duration::from_secs(now()),
            ..GenerateOptions::default()
        }
    }
}

impl MemoryArgs {
    /// The options of the engine.
    pub(crate) fn options(&self) -> MemoryOptions {
        if !self.memory {
            return MemoryOptions::default();
        }
        let mut options = match (self.read_only, self.write_only) {
            (true, _) => MemoryOptions::read_only(),
            (_, true) => MemoryOptions::write_only(),
            _ => MemoryOptions::on(),
        };
        options.compare = self.compare;
        if let Some(seed) = self.shuffled {
            options.control = MemoryControl::Shuffled(seed);
        }
        options
    }
}
