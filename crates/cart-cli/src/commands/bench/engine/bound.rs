//! What the machine can do at best, measured in a process that runs as the engines do.

use std::process::Command;

use cart_nn::{KernelLevel, machine};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::report;

/// Measure what so many threads can do.
#[derive(Args)]
pub(crate) struct EngineBoundArgs {
    /// How many
    threads: u16,
}

/// What so many threads can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) threads: u16,
    pub(crate) read_bytes_per_second: f64,
    /// Multiplications and additions counted apart.
    pub(crate) int8_operations_per_second: f64,
}

pub(crate) fn run(args: &EngineBoundArgs) -> Result<(), Failure> {
    let threads = usize::from(args.threads);
    let bound = Bound {
        threads: args.threads,
        read_bytes_per_second: machine::read_bandwidth(threads),
        int8_operations_per_second: machine::int8_throughput(KernelLevel::detect(), threads),
    };
    report::line(&serde_json::to_string(&bound).map_err(Failure::bug)?)
}

/// Asks a process for its bound.
///
/// * `cart`: this program, in front of it what is in front of every engine
pub(crate) fn measure(mut cart: Command, threads: u16) -> Result<Bound, Failure> {
    cart.args(["bench", "engine-bound", &threads.to_string()]);
    let output = cart.output().map_err(Failure::refused)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Failure::refused(format!("what the machine can do was not measured: {said}"))
    })
}
