//! The subcommands, a file each. A command's doc comment is its help.

mod apply;
mod bench;
mod bisect;
mod chat;
mod completions;
mod delta;
mod demo;
mod diff;
mod eval;
mod experiment;
mod export;
mod fsck;
mod gc;
mod inspect;
mod log;
mod ls;
mod memory;
mod merge;
mod pack;
mod probe;
mod quantize;
mod rm;
mod run;
mod serve;
mod swap;
mod tag;
mod train;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

/// A subcommand with its arguments.
#[derive(Subcommand)]
pub(crate) enum Command {
    Pack(pack::PackArgs),
    Verify(verify::VerifyArgs),
    Inspect(inspect::InspectArgs),
    Ls(ls::LsArgs),
    Log(log::LogArgs),
    Bisect(bisect::BisectArgs),
    Tag(tag::TagArgs),
    Rm(rm::RmArgs),
    Export(export::ExportArgs),
    Diff(diff::DiffArgs),
    Merge(merge::MergeArgs),
    Delta(delta::DeltaArgs),
    Apply(apply::ApplyArgs),
    Quantize(quantize::QuantizeArgs),
    Run(run::RunArgs),
    Chat(chat::ChatArgs),
    Serve(serve::ServeArgs),
    Swap(swap::SwapArgs),
    Train(train::TrainArgs),
    Probe(probe::ProbeArgs),
    Eval(eval::EvalArgs),
    Experiment(experiment::ExperimentArgs),
    Memory(memory::MemoryArgs),
    Gc(gc::GcArgs),
    Fsck(fsck::FsckArgs),
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Runs the subcommand.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Pack(args) => pack::run(context, &args),
            Self::Verify(args) => verify::run(context, &args),
            Self::Inspect(args) => inspect::run(context, &args),
            Self::Ls(args) => ls::run(context, &args),
            Self::Log(args) => log::run(context, &args),
            Self::Bisect(args) => bisect::run(context, &args),
            Self::Tag(args) => tag::run(context, &args),
            Self::Rm(args) => rm::run(context, &args),
            Self::Export(args) => export::run(context, &args),
            Self::Diff(args) => diff::run(context, &args),
            Self::Merge(args) => merge::run(context, &args),
            Self::Delta(args) => delta::run(context, &args),
            Self::Apply(args) => apply::run(context, &args),
            Self::Quantize(args) => quantize::run(context, &args),
            Self::Run(args) => run::run(context, &args),
            Self::Chat(args) => chat::run(context, &args),
            Self::Serve(args) => serve::run(context, &args),
            Self::Swap(args) => swap::run(context, &args),
            Self::Train(args) => train::run(context, &args),
            Self::Probe(args) => probe::run(context, &args),
            Self::Eval(args) => eval::run(context, &args),
            Self::Experiment(args) => experiment::run(context, &args),
            Self::Memory(args) => memory::run(context, &args),
            Self::Gc(args) => gc::run(context, &args),
            Self::Fsck(args) => fsck::run(context, &args),
            Self::Bench(args) => bench::run(context, &args),
            Self::Demo(args) => demo::run(context, &args),
            Self::Completions(args) => completions::run(&args),
        }
    }
}
