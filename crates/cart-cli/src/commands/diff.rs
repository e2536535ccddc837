//! `cart diff`.

mod answers;
mod compare;
mod findings;
mod page;
mod terminal;
mod words;

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Show what differs between two cartridges, and whether it matters.
///
/// Tensors with the same digest are not read (a renamed one is found by it). Of the others it says how many elements changed, by
/// how much, and where: by layer and by module. Memories are compared slot by slot and link by link, tokenizers token by token, the
/// rest field by field. Exit code 0 whether they differ or not; --json says which.
///
/// --behaviour lets both read the same prompts and says how far apart their predictions are: KL divergence of B from A in nats,
/// how often the best token is the same, perplexity of the prompts, and where greedily generated texts part.
#[derive(Args)]
#[command(after_help = "\
‖Δ‖/‖W‖ is how far weights moved, relative to those of A: rounding to bf16 moves them by 0.0017, quantizing to 8 bits by
about 0.005. Effective rank is (Σσ²)²/Σσ⁴ over the singular values of the change: 1 for a single direction, mn/(m+n) for
noise in m rows and n columns.

Prompts of --behaviour: those of --prompts FILE, one a line; else those of both cartridges' probes; else these:
  The capital of France is
  Once upon a time, there was a
  def fibonacci(n):
  Water boils at a temperature of
  To make a cup of tea, first
  1, 2, 3, 5, 8, 13,
  The opposite of hot is
  Dear Sir or Madam,

Examples:
  cart diff smol smol:told
  cart diff a.cart b.cart --all --rank
  cart diff smol smol:tuned --behaviour --html diff.html")]
pub(crate) struct DiffArgs {
    /// A cartridge
    #[arg(value_name = "A")]
    a: String,
    /// Another
    #[arg(value_name = "B")]
    b: String,
    /// List everything, not the first ten of a kind
    #[arg(long)]
    all: bool,
    /// Compare tensors by their digests alone, without reading them
    #[arg(long, conflicts_with = "rank")]
    digests: bool,
    /// Estimate the effective rank of each change; takes about twice as long
    #[arg(long)]
    rank: bool,
    /// Compare what both answer
    #[arg(long)]
    behaviour: bool,
    /// Prompts for --behaviour, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "behaviour")]
    prompts: Option<PathBuf>,
    /// Tokens that each generates after a prompt
    #[arg(long, value_name = "N", default_value_t = 32, requires = "behaviour", value_parser = clap::value_parser!(u16).range(1..=4096))]
    steps: u16,
    /// Write a page with everything to look at in a browser
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Overwrite the page if it is there
    #[arg(long, requires = "html")]
    force: bool,
}

pub(crate) fn run(context: &Context, args: &DiffArgs) -> Result<(), Failure> {
    if let Some(path) = &args.html {
        history::refuse_existing(path, args.force)?;
    }
    let found = compare::difference(context, args)?;
    let labels = (args.a.as_str(), args.b.as_str());
    if let Some(path) = &args.html {
        let bytes = page::write(path, &found, labels)?;
        context.remark(&format!("{}: {}", path.display(), crate::bytes::human(bytes)));
    }
    if context.json {
        return report::print("diff", &found);
    }
    let limit = if args.all { usize::MAX } else { 10 };
    report::coloured(&terminal::render(&found, labels, limit))
}
