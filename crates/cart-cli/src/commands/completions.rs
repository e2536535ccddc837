//! `cart completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::report;

/// Print a completion script for a shell.
#[derive(Args)]
#[command(after_help = "Examples:
  cart completions bash > ~/.local/share/bash-completion/completions/cart
  cart completions zsh > ~/.zfunc/_cart")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "cart", &mut script);
    report::stdout(&script)
}
