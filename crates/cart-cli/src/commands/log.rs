//! `cart log`.

use clap::Args;
use serde::Serialize;

use crate::bytes::timestamp;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Show the history of a cartridge, newest first.
#[derive(Args)]
#[command(after_help = "Examples:
  cart log smol
  cart log smol -n 3")]
pub(crate) struct LogArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// At most so many commits
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Log {
    commits: Vec<LogCommit>,
}

#[derive(Serialize)]
struct LogCommit {
    commit: String,
    manifest: String,
    parents: Vec<String>,
    time: u64,
    message: String,
    recipe: String,
    probes: usize,
}

pub(crate) fn run(context: &Context, args: &LogArgs) -> Result<(), Failure> {
    let chain = history::ancestry(context, &args.reference, args.limit.unwrap_or(usize::MAX))?;
    let commits: Vec<LogCommit> = chain
        .into_iter()
        .map(|(id, commit)| LogCommit {
            commit: id.hex(),
            manifest: commit.manifest.hex(),
            parents: commit.parents.iter().map(cart_format::CommitId::hex).collect(),
            time: commit.time,
            message: commit.message,
            recipe: commit.recipe.kind,
            probes: commit.probes.len(),
        })
        .collect();
    if context.json {
        return report::print("log", &Log { commits });
    }
    for commit in &commits {
        let probes = match commit.probes {
            0 => String::new(),
            count => format!("  {}", crate::bytes::counted(count as u64, "probe")),
        };
        report::line(&format!(
            "commit {}  {}  {}{probes}\n  cartridge sha256:{}",
            &commit.commit[..12],
            timestamp(commit.time),
            commit.recipe,
            commit.manifest,
        ))?;
        if !commit.message.is_empty() {
            report::line(&format!("  {}", commit.message))?;
        }
    }
    Ok(())
}
