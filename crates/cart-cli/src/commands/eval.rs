//! `cart eval`.

use std::path::{Path, PathBuf};

use cart_engine::{MemoryUse, Scored};
use clap::{Args, ValueHint};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::sampling::MemoryArgs;

/// Measure perplexity on a text.
///
/// The text is cut into chunks of --chunk tokens. Of each whole chunk the second half is scored,
/// given all that comes before it in the chunk; what is left over at the end is not scored. The
/// perplexity is e to the mean of −ln p over the scored tokens: lower is better, and 1 is
/// certainty.
///
/// With --memory each chunk is read as a prompt would be: its first half asks for what is recalled, and nothing is written.
/// --before reads a text before each chunk, which shows what the same text does in the context.
///
/// llama.cpp's llama-perplexity cuts and scores in the same way, so figures for the same text and
/// chunk can be compared.
#[derive(Args)]
#[command(after_help = "Examples:
  cart eval smol --text gpl-3.txt
  cart --json eval smol --text gpl-3.txt --chars 20000
  cart eval smol:told --text second-half.txt --memory --spans 0 --search all
  cart eval smol --text second-half.txt --before first-half.txt")]
pub(crate) struct EvalArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// A text in UTF-8
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: PathBuf,
    /// Only the first so many characters
    #[arg(long, value_name = "N")]
    chars: Option<usize>,
    /// Tokens of a chunk, of which the second half is scored
    #[arg(long, value_name = "N", default_value_t = 512)]
    chunk: usize,
    /// A text that is read before each chunk
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    before: Option<PathBuf>,
    #[command(flatten)]
    memory: MemoryArgs,
}

#[derive(Serialize)]
struct EvalReport {
    manifest: String,
    perplexity: f64,
    nats_per_token: f64,
    tokens: usize,
    scored: usize,
    standard_error: f64,
    chunks: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryEffect>,
}

/// What memory did, over all chunks.
#[derive(Serialize)]
struct MemoryEffect {
    slots: usize,
    /// Chunks for which something was recalled.
    recalled: usize,
    /// Scored tokens at which neighbours changed the distribution.
    knn_steps: usize,
    /// Mean λ over these.
    knn_lambda: f64,
    /// Mean of ln p with memory − ln p without it; none where the bare model did not run beside.
    delta_logprob: Option<f64>,
    /// Mean KL divergence from the bare model's distribution, in nats.
    kl: Option<f64>,
    micros_per_token: f64,
}

impl MemoryEffect {
    /// The means of the chunks, which all have as many tokens.
    fn of(chunks: &[MemoryUse]) -> Option<Self> {
        let first = chunks.first()?;
        let mean = |of: &dyn Fn(&MemoryUse) -> Option<f64>| {
            let sum: Option<f64> = chunks.iter().map(of).sum();
            sum.map(|sum| sum / chunks.len() as f64)
        };
        let knn_steps = chunks.iter().map(|used| used.knn_steps).sum();
        let lambdas: f64 = chunks.iter().map(|used| used.knn_lambda * used.knn_steps as f64).sum();
        Some(Self {
            slots: first.slots,
            recalled: chunks.iter().filter(|used| used.prefix_tokens > 0).count(),
            knn_steps,
            knn_lambda: if knn_steps == 0 { 0.0 } else { lambdas / knn_steps as f64 },
            delta_logprob: mean(&|used| used.delta_logprob),
            kl: mean(&|used| used.kl),
            micros_per_token: mean(&|used| Some(used.micros_per_token)).unwrap_or_default(),
        })
    }
}

pub(crate) fn run(context: &Context, args: &EvalArgs) -> Result<(), Failure> {
    let text = read(&args.text)?;
    let end = args
        .chars
        .and_then(|chars| text.char_indices().nth(chars))
        .map_or(text.len(), |(at, _)| at);
    let before = args.before.as_deref().map(read).transpose()?.unwrap_or_default();
    let (agent, _) = history::load(context, &args.reference)?;
    let scored = Scored {
        text: &text[..end],
        chunk: args.chunk,
        before: &before,
        memory: args.memory.options(),
    };
    let measured = cart_engine::perplexity_of(&agent, &scored).map_err(Failure::refused)?;
    let body = EvalReport {
        manifest: agent.id().hex(),
        perplexity: measured.perplexity,
        nats_per_token: measured.perplexity.ln(),
        tokens: measured.tokens,
        scored: measured.scored,
        standard_error: measured.standard_error,
        chunks: measured.chunks,
        seconds: measured.took.as_secs_f64(),
        memory: MemoryEffect::of(&measured.memory),
    };
    if context.json {
        return report::print("eval", &body);
    }
    if let Some(memory) = &body.memory {
        context.remark(&format!(
            "memory: something recalled for {} of {} chunks; neighbours at {} of {} tokens, mean λ {:.3}",
            memory.recalled, body.chunks, memory.knn_steps, body.scored, memory.knn_lambda,
        ));
    }
    report::line(&format!(
        "perplexity {:.3}  ({:.4} nats a token over {} of {} tokens, {} chunks; {:.0} tokens/s)",
        body.perplexity,
        body.nats_per_token,
        body.scored,
        body.tokens,
        body.chunks,
        (body.chunks * args.chunk) as f64 / body.seconds,
    ))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| {
        Failure::refused_with(
            format!("{} can't be read: {source}", path.display()),
            "give a file of UTF-8 text",
        )
    })
}
