//! `cart train`.

mod agent;
mod folder;
pub(crate) mod gates;
mod gradients;
pub(crate) mod memory;
mod steps;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Train: a run starts from a cartridge or from nothing, ends in one, and can be interrupted and gone on with
#[derive(Args)]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    what: Train,
}

#[derive(Subcommand)]
enum Train {
    Agent(agent::AgentArgs),
    Gates(gates::GatesArgs),
    Memory(memory::MemoryArgs),
}

pub(crate) fn run(context: &Context, args: &TrainArgs) -> Result<(), Failure> {
    match &args.what {
        Train::Agent(args) => agent::run(context, args),
        Train::Gates(args) => gates::run(context, args),
        Train::Memory(args) => memory::run(context, args),
    }
}
