//! The `cart` command: arguments, rendering and exit codes over the other crates.
//!
//! One subcommand is one file in [`commands`]; its doc comment is its help. Data goes to stdout,
//! talk to stderr. Exit codes and the wording of errors are in [`failure`].

mod asking;
mod bytes;
mod child;
mod commands;
mod computed;
mod context;
mod drawing;
mod facts;
mod failure;
mod held;
mod history;
mod names;
mod packed;
mod panel;
mod progress;
mod report;
mod sampling;
mod saved;
mod table;
mod trust;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::context::{Context, GlobalOptions};

/// Pack, verify, compare and run AI agents as one content-addressed artifact.
///
/// A cartridge is an agent's weights, tokenizer, memory and metadata under one id. REF names one:
/// `name`, `name:tag`, `name@sha256:<id>`, a unique prefix of an id, or the path of a .cart file.
#[derive(Parser)]
#[command(name = "cart", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  cart pack ./SmolLM2-135M-Instruct.gguf -t smol    put a model into the store
  cart verify smol                                  recompute every digest
  cart run smol -p 'The capital of France is' -n 8  complete a prompt
  cart serve smol                                   OpenAI-compatible server with hot swap

Exit codes: 0 done, 1 refused or damaged, 2 wrong arguments, 70 a bug in cart.")]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { cart_nn::shorten_idling() };
    failure::install_panic_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::exit_for_arguments(&error),
    };
    let context = Context::new(cli.global);
    let json = context.json;
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli.command.run(&context))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(json),
        Err(_) => ExitCode::from(failure::BUG),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
