//! `cart memory`.

mod replay;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Look into what an agent remembers
#[derive(Args)]
pub(crate) struct MemoryArgs {
    #[command(subcommand)]
    what: Memory,
}

#[derive(Subcommand)]
enum Memory {
    Replay(replay::ReplayArgs),
}

pub(crate) fn run(context: &Context, args: &MemoryArgs) -> Result<(), Failure> {
    match &args.what {
        Memory::Replay(args) => replay::run(context, args),
    }
}
