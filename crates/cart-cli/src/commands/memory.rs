//! `cart memory`.

mod replay;

use std::fs::File;
use std::path::Path;

use cart_engine::Agent;
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

/// Writes down what is done to an agent's memory from now on, in a file that was not there.
pub(super) fn log_to(agent: &Agent, path: &Path) -> Result<(), Failure> {
    let file = File::create_new(path).map_err(|source| {
        Failure::refused_with(
            format!("{} can't be written: {source}", path.display()),
            "a log is a new file",
        )
    })?;
    agent.log_memory(Box::new(file)).map_err(Failure::refused)
}
