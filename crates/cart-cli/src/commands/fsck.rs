//! `cart fsck`.

use cart_store::FsckOptions;
use clap::Args;

use crate::bytes::{counted, human};
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Bar;
use crate::report;

/// Check the whole store.
///
/// Every blob is hashed, every manifest, commit and name is read, and everything that a name
/// reaches must be there. Exit code 1 if anything is wrong.
#[derive(Args)]
#[command(after_help = "Examples:
  cart fsck
  cart --json fsck --store /backup/cart")]
pub(crate) struct FsckArgs {}

pub(crate) fn run(context: &Context, _args: &FsckArgs) -> Result<(), Failure> {
    let store = context.store()?;
    let bar = Bar::new(context, "checking");
    let options = FsckOptions { threads: context.threads, ..FsckOptions::default() };
    let body = store.fsck(&options, &bar).map_err(Failure::refused)?;
    drop(bar);
    if context.json {
        report::print("fsck", &body)?;
    } else {
        report::line(&format!(
            "{}  {}, {}, {}, {}",
            if body.problems.is_empty() { "clean" } else { "DAMAGED" },
            counted(body.blobs, "blob"),
            human(body.bytes),
            counted(body.commits, "commit"),
            counted(body.refs, "name"),
        ))?;
        for problem in &body.problems {
            report::line(&format!("  {problem}"))?;
        }
    }
    if body.problems.is_empty() { Ok(()) } else { Err(Failure::Found) }
}
