//! `cart train`.

mod agent;
mod distill;
mod folder;
pub(crate) mod gates;
mod gradients;
mod keep;
pub(crate) mod memory;
mod pace;
mod plot;
mod text;

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
    Agent(Box<agent::AgentArgs>),
    Distill(Box<distill::DistillArgs>),
    Gates(Box<gates::GatesArgs>),
    Memory(Box<memory::MemoryArgs>),
    Plot(plot::PlotArgs),
}

pub(crate) fn run(context: &Context, args: &TrainArgs) -> Result<(), Failure> {
    cart_nn::keep_freed_memory();
    match &args.what {
        Train::Agent(args) => agent::run(context, args),
        Train::Distill(args) => distill::run(context, args),
        Train::Gates(args) => gates::run(context, args),
        Train::Memory(args) => memory::run(context, args),
        Train::Plot(args) => plot::run(context, args),
    }
}
