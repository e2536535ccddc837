//! `cart experiment`.

mod gates;
mod seam;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Repeat an experiment on a cartridge's memory, with numbers and plots
#[derive(Args)]
pub(crate) struct ExperimentArgs {
    #[command(subcommand)]
    what: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    Gates(gates::GatesArgs),
    Seam(seam::SeamArgs),
}

pub(crate) fn run(context: &Context, args: &ExperimentArgs) -> Result<(), Failure> {
    match &args.what {
        Experiment::Gates(args) => gates::run(context, args),
        Experiment::Seam(args) => seam::run(context, args),
    }
}
