//! `cart eval`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Measure perplexity on a text.
///
/// The text is cut into chunks of --chunk tokens. Of each whole chunk the second half is scored,
/// given all that comes before it in the chunk; what is left over at the end is not scored. The
/// perplexity is e to the mean of −ln p over the scored tokens: lower is better, and 1 is
/// certainty.
///
/// llama.cpp's llama-perplexity cuts and scores in the same way, so figures for the same text and
/// chunk can be compared.
#[derive(Args)]
#[command(after_help = "Examples:
  cart eval smol --text gpl-3.txt
  cart --json eval smol --text gpl-3.txt --chars 20000")]
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
}

pub(crate) fn run(context: &Context, args: &EvalArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.text).map_err(|source| {
        Failure::refused_with(
            format!("{} can't be read: {source}", args.text.display()),
            "give a file of UTF-8 text",
        )
    })?;
    let end = args
        .chars
        .and_then(|chars| text.char_indices().nth(chars))
        .map_or(text.len(), |(at, _)| at);
    let (agent, _) = history::load(context, &args.reference)?;
    let measured =
        cart_engine::perplexity(&agent, &text[..end], args.chunk).map_err(Failure::refused)?;
    let body = EvalReport {
        manifest: agent.id().hex(),
        perplexity: measured.perplexity,
        nats_per_token: measured.perplexity.ln(),
        tokens: measured.tokens,
        scored: measured.scored,
        standard_error: measured.standard_error,
        chunks: measured.chunks,
        seconds: measured.took.as_secs_f64(),
    };
    if context.json {
        return report::print("eval", &body);
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
