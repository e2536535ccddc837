//! `cart memory`.

mod dream;
mod energy;
mod export;
mod goal;
mod graph;
mod import;
mod migrate;
mod plot;
mod pull;
mod recall;
mod reflect;
mod remembered;
mod replay;
mod show;
mod tags;

use std::fs::File;
use std::path::Path;

use cart_engine::Agent;
use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

pub(crate) use goal::goal_text;
pub(crate) use recall::recall_text;
pub(crate) use remembered::{one_line, store_name};

/// Look into what an agent remembers, add to it, tidy it up, draw it, take it to another model
#[derive(Args)]
pub(crate) struct MemoryArgs {
    #[command(subcommand)]
    what: Memory,
}

#[derive(Subcommand)]
enum Memory {
    Show(show::ShowArgs),
    Recall(recall::RecallArgs),
    Reflect(reflect::ReflectArgs),
    Goal(goal::GoalArgs),
    Graph(graph::GraphArgs),
    Energy(energy::EnergyArgs),
    Dream(dream::DreamArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Migrate(migrate::MigrateArgs),
    Plot(plot::PlotArgs),
    Pull(pull::PullArgs),
    Replay(replay::ReplayArgs),
}

pub(crate) fn run(context: &Context, args: &MemoryArgs) -> Result<(), Failure> {
    match &args.what {
        Memory::Show(args) => show::run(context, args),
        Memory::Recall(args) => recall::run(context, args),
        Memory::Reflect(args) => reflect::run(context, args),
        Memory::Goal(args) => goal::run(context, args),
        Memory::Graph(args) => graph::run(context, args),
        Memory::Energy(args) => energy::run(context, args),
        Memory::Dream(args) => dream::run(context, args),
        Memory::Export(args) => export::run(context, args),
        Memory::Import(args) => import::run(context, args),
        Memory::Migrate(args) => migrate::run(context, args),
        Memory::Plot(args) => plot::run(context, args),
        Memory::Pull(args) => pull::run(context, args),
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
