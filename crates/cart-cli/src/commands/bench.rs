//! `cart bench`.

mod engine;
mod kernels;
mod memory;
mod profile;
mod recall;
mod session;
mod swap;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Measure what a cartridge can do.
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Recall(recall::RecallArgs),
    Memory(memory::MemoryArgs),
    Engine(engine::EngineArgs),
    Kernels(kernels::KernelsArgs),
    Profile(profile::ProfileArgs),
    Session(session::SessionArgs),
    Swap(swap::SwapBenchArgs),
    #[command(hide = true)]
    EngineJob(engine::worker::EngineJobArgs),
    #[command(hide = true)]
    EngineBound(engine::bound::EngineBoundArgs),
}

pub(crate) fn run(context: &Context, args: &BenchArgs) -> Result<(), Failure> {
    match &args.what {
        Bench::Recall(args) => recall::run(context, args),
        Bench::Memory(args) => memory::run(context, args),
        Bench::Engine(args) => engine::run(context, args),
        Bench::Kernels(args) => kernels::run(context, args),
        Bench::Profile(args) => profile::run(context, args),
        Bench::Session(args) => session::run(context, args),
        Bench::Swap(args) => swap::run(context, args),
        Bench::EngineJob(args) => engine::worker::run(context, args),
        Bench::EngineBound(args) => engine::bound::run(args),
    }
}

/// The text that speed is measured on: the GNU General Public License, version 3.
pub(crate) const TEXT: &str = include_str!("../../../../fixtures/text/gpl-3.txt");

/// The most likely token; the first of equals.
fn top(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}
