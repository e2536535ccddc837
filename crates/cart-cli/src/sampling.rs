//! Options of generation that `run`, `chat` and `bench` share.

use cart_engine::{
    GenerateOptions, GoalOptions, KnnOptions, MemoryControl, MemoryOptions, SamplingOptions,
};
use clap::{Args, ValueEnum};

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
    /// With --memory: so many recalled spans before the prompt; 0 for none [default: 1, or 0 beside memory layers]
    #[arg(long, requires = "memory", value_name = "N")]
    spans: Option<usize>,
    /// With --memory: so many further spans, which came after those by the association graph
    #[arg(long, requires = "memory", value_name = "N", default_value_t = 0)]
    linked: usize,
    /// With --memory: so many neighbours at the sampler; 0 for none [default: 8, or 1024 of all spans]
    #[arg(long, requires = "memory", value_name = "N")]
    neighbours: Option<usize>,
    /// With --memory: where neighbours are searched
    #[arg(long, requires = "memory", value_name = "SCOPE", value_enum)]
    search: Option<Search>,
    /// With --memory: leave the cartridge's memory layers out
    #[arg(long, requires = "memory")]
    no_layers: bool,
    /// With --memory: let the goal weigh on every choice this strongly (0.5 is usual); below 0 away from it
    #[arg(long, requires = "memory", value_name = "STRENGTH", allow_negative_numbers = true)]
    goal: Option<f32>,
    /// With --goal: let it pull at the residual stream this strongly too, which doubles the work
    #[arg(long, requires = "goal", value_name = "STRENGTH", allow_negative_numbers = true)]
    goal_residual: Option<f32>,
    /// With --goal: most that it may change a step's distribution, as KL divergence [default: 0.5]
    #[arg(long, requires = "goal", value_name = "NATS")]
    max_kl: Option<f32>,
    /// With --memory: exchange the slots' texts by this seed, as a control experiment
    #[arg(long, requires = "memory", value_name = "SEED")]
    shuffled: Option<u64>,
    /// With --memory: run the bare model beside, to measure the memory's effect
    #[arg(long, requires = "memory")]
    compare: bool,
}

/// Where neighbours are searched.
#[derive(Clone, Copy, ValueEnum)]
enum Search {
    /// In the spans that were recalled for the prompt
    Recalled,
    /// In all spans
    All,
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
        if let Some(spans) = self.spans {
            options.prefix = options.prefix.filter(|_| spans > 0);
            options.prefix.iter_mut().for_each(|prefix| {
                (prefix.top_k, prefix.beside_layers) = (spans, true);
            });
        }
        options.prefix.iter_mut().for_each(|prefix| prefix.linked = self.linked);
        if let Some(Search::All) = self.search {
            options.knn = options.knn.map(|_| KnnOptions::of_all());
        }
        if let Some(neighbours) = self.neighbours {
            options.knn = options.knn.filter(|_| neighbours > 0);
            options.knn.iter_mut().for_each(|knn| knn.k = neighbours);
        }
        options.layers = options.layers.filter(|_| !self.no_layers);
        options.goal = self.goal.map(|strength| {
            let usual = GoalOptions::default();
            GoalOptions {
                strength,
                residual: self.goal_residual.unwrap_or(usual.residual),
                max_kl: self.max_kl.unwrap_or(usual.max_kl),
            }
        });
        if let Some(seed) = self.shuffled {
            options.control = MemoryControl::Shuffled(seed);
        }
        options
    }
}
