//! `cart gc`.

use cart_store::GcOptions;
use clap::Args;

use crate::bytes::{counted, human};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::report;

/// Collect what no name reaches.
///
/// Unreachable blobs go to the store's trash, and are deleted once they have been there for the
/// grace period. An unreadable name or commit stops the collection before anything moves.
#[derive(Args)]
#[command(after_help = "Examples:
  cart gc --dry-run
  cart gc
  cart gc --grace 0")]
pub(crate) struct GcArgs {
    /// Seconds that unreachable content is kept in the trash
    #[arg(long, value_name = "SECONDS", default_value_t = 14 * 24 * 3600)]
    grace: u64,
    /// Only say what would be collected
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: &GcArgs) -> Result<(), Failure> {
    let store = context.store()?;
    let options = GcOptions { now: now(), grace: args.grace, dry_run: args.dry_run };
    let body = store.gc(&options).map_err(Failure::refused)?;
    if context.json {
        return report::print("gc", &body);
    }
    let would = if args.dry_run { "would move" } else { "moved" };
    report::line(&format!(
        "{} kept; {would} {} ({}) to the trash; deleted {} ({}) from it",
        counted(body.kept_blobs, "blob"),
        counted(body.trashed_blobs, "blob"),
        human(body.trashed_bytes),
        counted(body.deleted_files, "file"),
        human(body.deleted_bytes),
    ))
}
