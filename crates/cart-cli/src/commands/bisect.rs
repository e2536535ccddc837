//! `cart bisect`.

use std::process::{Command, Stdio};
use std::time::Instant;

use cart_format::{CommitId, ManifestId};
use cart_store::{Bisection, Store, Verdict};
use clap::Args;
use serde::Serialize;
use thiserror::Error;

use crate::bytes::{counted, seconds, timestamp};
use crate::context::Context;
use crate::failure::Failure;
use crate::progress;
use crate::report;

/// Find the commit that broke something.
///
/// GOOD is a commit that BAD came from. COMMAND judges commits between them, merges included, each time the one that leaves the fewest
/// suspects: exit code 0 says good, 125 that it can't be judged, 1 to 127 bad; others, and signals, end the search. `{}` in its arguments
/// is replaced by the commit's REF, which is in $CART_REF too; $CART_STORE names the store. GOOD and BAD are judged first. What
/// COMMAND prints goes to stderr. Exit code 1 if the commit can't be told.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bisect smol:v1 smol -- cart verify {}
  cart bisect smol:v1 smol -- cart probe {}
  cart bisect smol:v1 smol -- sh -c 'cart run {} -p \"2 + 2 =\" -n 3 | grep -q 4'")]
pub(crate) struct BisectArgs {
    /// A commit that is as it should be
    #[arg(value_name = "GOOD")]
    good: String,
    /// A commit that is not
    #[arg(value_name = "BAD")]
    bad: String,
    /// Judges a commit by its exit code
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// A search that makes no sense, or came to no end.
#[derive(Debug, Error)]
enum Refusal {
    #[error("`{reference}` is no commit: history is searched commit by commit")]
    Bare { reference: String },
    #[error("`{good}` is no commit that `{bad}` came from{}", near(*.common))]
    NoAncestor { good: String, bad: String, common: Option<CommitId> },
    #[error("`{good}` and `{bad}` are one commit: there is nothing to search")]
    Same { good: String, bad: String },
    #[error("the command says that {which} `{reference}` is {said}: exit code {code}")]
    WrongEnd { which: &'static str, reference: String, said: &'static str, code: i32 },
    #[error("`{program}` can't be started: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("the command ended with {how} at commit {commit}; 0 says good, 125 skip, 1 to 127 bad")]
    Ended { how: String, commit: CommitId },
    #[error("interrupted")]
    Interrupted,
}

fn near(common: Option<CommitId>) -> String {
    match common {
        Some(common) => format!("; both came from {common}: is that one good?"),
        None => "; they have no commit in common".to_owned(),
    }
}

#[derive(Serialize)]
struct BisectReport {
    good: String,
    bad: String,
    command: Vec<String>,
    /// Commits that could be the first bad one before the search.
    suspects: usize,
    steps: Vec<Step>,
    first_bad: Option<Found>,
    /// Those that it could be, where it can't be told.
    remaining: Vec<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct Step {
    commit: String,
    verdict: &'static str,
    exit_code: i32,
    /// Suspects after it.
    suspects: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Found {
    commit: String,
    manifest: String,
    parents: Vec<String>,
    time: u64,
    message: String,
    recipe: String,
}

pub(crate) fn run(context: &Context, args: &BisectArgs) -> Result<(), Failure> {
    progress::stop_on_interrupt();
    let began = Instant::now();
    let store = context.store()?;
    let (good, bad) = (commit(&store, &args.good)?, commit(&store, &args.bad)?);
    check_ends(&store, args, good, bad)?;
    let judge = Judge { context, store: &store, command: &args.command };
    for (reference, id, expected) in
        [(&args.good, good, Verdict::Good), (&args.bad, bad, Verdict::Bad)]
    {
        judge.expect(reference, id, expected)?;
    }
    let mut search = store.bisection(&good, &bad).map_err(Failure::refused)?;
    let suspects = search.suspects();
    let mut steps = Vec::new();
    while let Some(next) = search.next() {
        let began = Instant::now();
        let (verdict, exit_code) = judge.ask(next)?;
        search.mark(next, verdict);
        let step = Step {
            commit: next.hex(),
            verdict: word(verdict),
            exit_code,
            suspects: search.suspects(),
            seconds: began.elapsed().as_secs_f64(),
        };
        context.remark(&format!(
            "{} {}: {} left",
            next.short(),
            step.verdict,
            counted(step.suspects as u64, "suspect")
        ));
        steps.push(step);
    }
    let body = BisectReport {
        good: good.hex(),
        bad: bad.hex(),
        command: args.command.clone(),
        suspects,
        steps,
        first_bad: search.found().map(|id| found(&store, id)).transpose()?,
        remaining: remaining(&search),
        seconds: began.elapsed().as_secs_f64(),
    };
    if context.json {
        report::print("bisect", &body)?;
    } else {
        render(&body)?;
    }
    if body.first_bad.is_some() { Ok(()) } else { Err(Failure::Found) }
}

/// The commit that a REF means.
fn commit(store: &Store, reference: &str) -> Result<CommitId, Failure> {
    let found = store.resolve(reference).map_err(Failure::refused)?;
    let cartridge = store.open_cartridge(&found).map_err(Failure::refused)?;
    let commit = cartridge.commit().map(|(id, _)| id);
    commit.ok_or_else(|| Failure::refused(Refusal::Bare { reference: reference.to_owned() }))
}

/// Refuses ends between which there is nothing to search.
fn check_ends(
    store: &Store,
    args: &BisectArgs,
    good: CommitId,
    bad: CommitId,
) -> Result<(), Failure> {
    let names = || (args.good.clone(), args.bad.clone());
    if good == bad {
        let (good, bad) = names();
        return Err(Failure::refused(Refusal::Same { good, bad }));
    }
    if store.ancestors(&bad).map_err(Failure::refused)?.contains_key(&good) {
        return Ok(());
    }
    let common = store.common_ancestors(&good, &bad).map_err(Failure::refused)?.first().copied();
    let (good, bad) = names();
    Err(Failure::refused(Refusal::NoAncestor { good, bad, common }))
}

/// The command that judges.
struct Judge<'a> {
    context: &'a Context,
    store: &'a Store,
    command: &'a [String],
}

/// What says that a commit can't be judged.
const SKIP: i32 = 125;
/// The last exit code that says bad.
const BAD: i32 = 127;

impl Judge<'_> {
    fn ask(&self, commit: CommitId) -> Result<(Verdict, i32), Failure> {
        let reference = commit.hex();
        let mut arguments = self.command.iter().map(|one| one.replace("{}", &reference));
        let program = arguments.next().expect("clap asks for one");
        // Our stdout is for the report.
        let status = Command::new(&program)
            .args(arguments)
            .env("CART_REF", &reference)
            .env("CART_STORE", self.store.root())
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .status()
            .map_err(|source| Failure::refused(Refusal::Start { program, source }))?;
        if progress::interrupted() {
            return Err(Failure::refused(Refusal::Interrupted));
        }
        match status.code() {
            Some(0) => Ok((Verdict::Good, 0)),
            Some(SKIP) => Ok((Verdict::Skip, SKIP)),
            Some(code @ 1..=BAD) => Ok((Verdict::Bad, code)),
            code => {
                let how =
                    code.map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
                Err(Failure::refused(Refusal::Ended { how, commit }))
            }
        }
    }

    /// Sees that an end of the search is what it is said to be.
    fn expect(&self, reference: &str, commit: CommitId, expected: Verdict) -> Result<(), Failure> {
        let (verdict, code) = self.ask(commit)?;
        if verdict == expected {
            return Ok(());
        }
        let which = if expected == Verdict::Good { "GOOD" } else { "BAD" };
        let (reference, said) = (reference.to_owned(), word(verdict));
        self.context
            .remark("both ends have to be what they are said to be before a search makes sense");
        Err(Failure::refused(Refusal::WrongEnd { which, reference, said, code }))
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Bad => "bad",
        Verdict::Skip => "skip",
    }
}

fn found(store: &Store, id: CommitId) -> Result<Found, Failure> {
    let commit = store.commit(&id).map_err(Failure::refused)?;
    Ok(Found {
        commit: id.hex(),
        manifest: ManifestId::hex(&commit.manifest),
        parents: commit.parents.iter().map(CommitId::hex).collect(),
        time: commit.time,
        message: commit.message,
        recipe: commit.recipe.kind,
    })
}

fn remaining(search: &Bisection) -> Vec<String> {
    match search.found() {
        Some(_) => Vec::new(),
        None => search.remaining().map(|id| id.hex()).collect(),
    }
}

fn render(body: &BisectReport) -> Result<(), Failure> {
    let Some(first) = &body.first_bad else {
        report::line(&format!(
            "the first bad commit is one of {}; the rest could not be judged:",
            counted(body.remaining.len() as u64, "commit")
        ))?;
        return body.remaining.iter().try_for_each(|id| report::line(&format!("  {id}")));
    };
    report::line(&format!(
        "first bad commit {}  {}  {}\n  cartridge sha256:{}",
        first.commit,
        timestamp(first.time),
        first.recipe,
        first.manifest
    ))?;
    if !first.message.is_empty() {
        report::line(&format!("  {}", first.message))?;
    }
    report::line(&format!(
        "  {} among {} in {}",
        counted(body.steps.len() as u64, "step"),
        counted(body.suspects as u64, "commit"),
        seconds(body.seconds)
    ))
}
