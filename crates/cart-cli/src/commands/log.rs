//! `cart log`.

mod graph;

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use cart_format::{Commit, CommitId};
use clap::Args;
use serde::Serialize;

use crate::bytes::timestamp;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Show the history of a cartridge, newest first.
///
/// Without --graph, first parents only: what the name pointed to before. With it, everything that the cartridge came from, merges drawn
/// as in git, a line for each commit.
#[derive(Args)]
#[command(after_help = "Examples:
  cart log smol
  cart log smol -n 3
  cart log both --graph")]
pub(crate) struct LogArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// At most so many commits
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// Draw all parents, not only the first
    #[arg(long)]
    graph: bool,
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
    let limit = args.limit.unwrap_or(usize::MAX);
    let chain = if args.graph {
        history::ancestors(context, &args.reference, limit)?
    } else {
        history::ancestry(context, &args.reference, limit)?
    };
    if args.graph && !context.json {
        return draw(context, &chain);
    }
    let commits: Vec<LogCommit> = chain
        .into_iter()
        .map(|(id, commit)| LogCommit {
            commit: id.hex(),
            manifest: commit.manifest.hex(),
            parents: commit.parents.iter().map(CommitId::hex).collect(),
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

const ID: Style = AnsiColor::Yellow.on_default();
const NAME: Style = AnsiColor::Green.on_default().bold();

/// A line for each commit, and the lines that lead from one to the next.
fn draw(context: &Context, chain: &[(CommitId, Commit)]) -> Result<(), Failure> {
    let mut names: BTreeMap<CommitId, Vec<String>> = BTreeMap::new();
    for (name, commit) in context.store()?.list_refs().map_err(Failure::refused)? {
        names.entry(commit).or_default().push(name.to_string());
    }
    let mut graph = graph::Graph::default();
    let mut lines = Vec::new();
    for (id, commit) in chain {
        let rows = graph.rows(*id, &commit.parents);
        let named = names
            .get(id)
            .map_or_else(String::new, |names| format!(" {NAME}({}){NAME:#}", names.join(", ")));
        let said = if commit.message.is_empty() { &commit.recipe.kind } else { &commit.message };
        let said = said.lines().next().unwrap_or_default();
        let (id, time) = (id.short(), timestamp(commit.time));
        lines.push(format!("{} {ID}{id}{ID:#}{named} {time}  {said}\n", rows[0]));
        lines.extend(rows[1..].iter().map(|row| format!("{row}\n")));
    }
    report::coloured(&lines.concat())
}
