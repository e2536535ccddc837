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
use cart_nn::graph::Products;
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
    let products = products(context, args)?;
    let context = &context.with_precision(beside(context, args));
    match &args.what {
        Train::Agent(args) => agent::run(context, args, products),
        Train::Distill(args) => distill::run(context, args, products),
        Train::Gates(args) => gates::run(context, args, products),
        Train::Memory(args) => memory::run(context, args, products),
        Train::Plot(args) => plot::run(context, args),
    }
}

/// In what steps multiply. They are made on the CPU; a device is for a model that is not trained, and where
/// there is none, it would change nothing.
fn products(context: &Context, args: &TrainArgs) -> Result<Products, Failure> {
    let Context { device, precision, .. } = *context;
    if matches!(args.what, Train::Plot(_)) {
        return Ok(Products::F32);
    }
    let products = match precision {
        None | Some(Precision::F32) => Products::F32,
        Some(Precision::BF16) => Products::Bf16,
        Some(Precision::F16) => {
            return Err(Failure::refused_with(
                "steps multiply in f32 or bf16, and f16 was asked for: gradients are under its range",
                "take --precision bf16, or leave it out",
            ));
        }
    };
    if matches!(args.what, Train::Agent(_)) {
        if !matches!(device, DeviceChoice::Cpu | DeviceChoice::Graph) {
            return Err(Failure::refused_with(
                format!("a new model is trained on the CPU, and {device} was asked for"),
                "leave --device out",
            ));
        }
    } else if device != DeviceChoice::Cpu {
        context.remark(&format!("what is not trained computes on {device}; steps on the CPU"));
    }
    if products == Products::Bf16 {
        context.remark("steps multiply in bf16; sums, and all that is learned, are f32");
    }
    if !products.is_native() {
        context.remark("this processor has no instructions for bf16: f32 would be quicker");
    }
    Ok(products)
}

/// In what a model computes that is not trained. The CPU's kernels take weights as they are; a teacher that is
/// a graph on the CPU keeps `f32`, and multiplies as steps do.
fn beside(context: &Context, args: &TrainArgs) -> Option<Precision> {
    match (context.device, &args.what) {
        (DeviceChoice::Cpu, _) => None,
        (DeviceChoice::Graph, Train::Distill(_)) => context.precision.map(|_| Precision::F32),
        _ => context.precision,
    }
}
