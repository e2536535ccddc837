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

use cart_engine::{DeviceChoice, Precision};
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
    check_device(context, args)?;
    match &args.what {
        Train::Agent(args) => agent::run(context, args),
        Train::Distill(args) => distill::run(context, args),
        Train::Gates(args) => gates::run(context, args),
        Train::Memory(args) => memory::run(context, args),
        Train::Plot(args) => plot::run(context, args),
    }
}

/// Steps are made on the CPU in `f32`. What was asked for besides is for a model that is not trained; where
/// there is none, it would change nothing.
fn check_device(context: &Context, args: &TrainArgs) -> Result<(), Failure> {
    let Context { device, precision, .. } = *context;
    let in_what = precision.map_or_else(String::new, |precision| format!(" in {precision}"));
    let is_usual = matches!(device, DeviceChoice::Cpu | DeviceChoice::Graph)
        && matches!(precision, None | Some(Precision::F32));
    match &args.what {
        Train::Agent(_) if !is_usual => {
            return Err(Failure::refused_with(
                format!(
                    "a new model is trained on the CPU in f32, and {device}{in_what} was asked for"
                ),
                "leave --device and --precision out",
            ));
        }
        Train::Agent(_) | Train::Plot(_) => {}
        Train::Distill(_) | Train::Gates(_) | Train::Memory(_) => {
            if device != DeviceChoice::Cpu || precision.is_some() {
                context.remark(&format!(
                    "what is not trained computes on {device}{in_what}; steps are made on the CPU in f32"
                ));
            }
        }
    }
    Ok(())
}
