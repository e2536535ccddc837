//! `cart bench swap`.

mod judge;
mod shown;
mod storm;

use std::num::NonZeroUsize;
use std::path::Path;

use cart_engine::Agent;
use cart_format::ManifestId;
use cart_store::Cartridge;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use storm::Storm;

/// Change cartridges under many streams, and hold every stream's text to what its cartridges give alone.
///
/// Streams run all the time while the cartridge changes, each time to one that is drawn, in a mode and with a memory policy
/// that are drawn; some swaps must be refused (damaged, other weights, another space), some are rollbacks, and some clients go
/// away. Afterwards the text of every stream is compared with what the cartridges that it ran on answer with nothing beside
/// them: dropped streams ended with an error that nobody asked for, garbled ones say something else, stale ones began on a cartridge that
/// had been left. Exits with 1 if there is any.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench swap smol smol:told mamba
  cart --json bench swap smol smol:told mamba --streams 1000 --swaps 100 --seed 7")]
pub(crate) struct SwapBenchArgs {
    /// Cartridges, two or more; the first runs at first
    #[arg(value_name = "REF", required = true, num_args = 2..)]
    references: Vec<String>,
    /// How many streams
    #[arg(long, value_name = "N", default_value_t = 1000)]
    streams: usize,
    /// How many swaps
    #[arg(long, value_name = "N", default_value_t = 100)]
    swaps: usize,
    /// How many streams run at once
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(64).expect("64 is not 0"))]
    at_once: NonZeroUsize,
    /// Most tokens of a stream
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(48).expect("48 is not 0"))]
    tokens: NonZeroUsize,
    /// What is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// A cartridge, and what it gives alone.
struct Candidate {
    name: String,
    cartridge: Cartridge,
    agent: Agent,
}

#[derive(Serialize)]
struct SwapBenchReport {
    cartridges: Vec<CartridgeRow>,
    seed: u64,
    at_once: usize,
    tokens: usize,
    seconds: f64,
    tokens_generated: u64,
    streams: StreamCounts,
    swaps: SwapCounts,
    /// By mode.
    modes: Vec<ModeRow>,
    /// Slots that the active generation remembers at the end.
    memory_slots: usize,
    peak_rss_bytes: Option<u64>,
    /// What is wrong, at most 20.
    wrong: Vec<String>,
}

#[derive(Serialize)]
struct CartridgeRow {
    name: String,
    manifest: ManifestId,
    family: Option<String>,
}

#[derive(Clone, Default, Serialize)]
struct StreamCounts {
    asked: usize,
    /// Ended by themselves.
    finished: usize,
    /// Of these, on another generation than they began on.
    moved: usize,
    /// Ended by a swap that was told to.
    aborted: usize,
    /// Whose client went away.
    vanished: usize,
    dropped: usize,
    garbled: usize,
    stale: usize,
}

#[derive(Clone, Default, Serialize)]
struct SwapCounts {
    asked: usize,
    done: usize,
    rolled_back: usize,
    /// As they had to be.
    refused: usize,
    /// Done though they had to be refused, or the other way round.
    wrong: usize,
}

#[derive(Serialize)]
struct ModeRow {
    mode: &'static str,
    swaps: usize,
    /// Milliseconds for which the token loop stood still.
    pause_p50_ms: f64,
    pause_p99_ms: f64,
    pause_max_ms: f64,
}

pub(crate) fn run(context: &Context, args: &SwapBenchArgs) -> Result<(), Failure> {
    let candidates = args
        .references
        .iter()
        .map(|reference| Candidate::load(context, reference))
        .collect::<Result<Vec<_>, _>>()?;
    let scratch = tempfile::tempdir().map_err(Failure::refused)?;
    let damaged = args
        .references
        .iter()
        .enumerate()
        .map(|(number, reference)| {
            damaged(context, reference, &scratch.path().join(format!("{number}.cart")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    context.remark(&format!("{} streams, {} swaps …", args.streams, args.swaps));
    let storm = Storm::new(context, args, &candidates, damaged)?.run()?;
    context.remark("comparing every text with what its cartridges give alone …");
    let body = judge::report(args, &candidates, &storm)?;
    let failed =
        body.streams.dropped + body.streams.garbled + body.streams.stale + body.swaps.wrong;
    if context.json {
        report::print("bench-swap", &body)?;
    } else {
        report::stdout(shown::render(&body).as_bytes())?;
    }
    if failed == 0 {
        return Ok(());
    }
    let what = body.wrong.first().cloned().unwrap_or_default();
    Err(Failure::refused_with(
        format!("{failed} of the streams and swaps went wrong; the first: {what}"),
        "the report lists the first 20; the same --seed draws the same swaps",
    ))
}

impl Candidate {
    fn load(context: &Context, reference: &str) -> Result<Self, Failure> {
        let cartridge = history::open(context, reference)?;
        let (agent, _) = history::load(context, reference)?;
        Ok(Self { name: reference.to_owned(), cartridge, agent })
    }
}

/// A copy of a cartridge with a bit that is not as it was.
fn damaged(context: &Context, reference: &str, path: &Path) -> Result<Cartridge, Failure> {
    history::write_cart(context, history::open(context, reference)?, path)?;
    let mut bytes = std::fs::read(path).map_err(Failure::refused)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).map_err(Failure::refused)?;
    history::open(context, &path.to_string_lossy())
}
