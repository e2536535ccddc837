//! `cart rm`.

use cart_store::RefName;
use clap::Args;
use serde::Serialize;

use crate::context::{Context, now};
use crate::failure::Failure;
use crate::report;

/// Remove names.
///
/// The content stays until `cart gc` collects what no name reaches, after its grace period.
#[derive(Args)]
#[command(after_help = "Examples:
  cart rm smol:old
  cart rm smol:a smol:b && cart gc")]
pub(crate) struct RmArgs {
    /// The names
    #[arg(value_name = "NAME[:TAG]", required = true)]
    names: Vec<RefName>,
}

#[derive(Serialize)]
struct RmReport {
    removed: Vec<Removed>,
}

#[derive(Serialize)]
struct Removed {
    name: String,
    commit: String,
}

pub(crate) fn run(context: &Context, args: &RmArgs) -> Result<(), Failure> {
    let store = context.store()?;
    // All of them are looked up before the first is removed: an unknown name changes nothing.
    let mut found = Vec::new();
    for name in &args.names {
        let commit = store.read_ref(name).map_err(Failure::refused)?;
        let commit = commit
            .ok_or_else(|| Failure::refused(cart_store::RefError::Absent { name: name.clone() }))?;
        found.push((name, commit));
    }
    let mut removed = Vec::new();
    for (name, commit) in found {
        store.delete_ref(name, commit, now(), "cart rm").map_err(Failure::refused)?;
        removed.push(Removed { name: name.to_string(), commit: commit.hex() });
    }
    if context.json {
        return report::print("rm", &RmReport { removed });
    }
    for row in &removed {
        report::line(&format!("removed {} (commit {})", row.name, &row.commit[..12]))?;
    }
    Ok(())
}
