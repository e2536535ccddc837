//! `cart tag`.

use cart_store::RefName;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Give a cartridge a name, or move a name to it.
#[derive(Args)]
#[command(after_help = "Examples:
  cart tag smol smol:stable
  cart tag 3f5ac2d1 smol:before-the-merge")]
pub(crate) struct TagArgs {
    /// A cartridge of the store
    #[arg(value_name = "REF")]
    reference: String,
    /// The name
    #[arg(value_name = "NAME[:TAG]")]
    name: RefName,
    /// Why, in words, for the name's log
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
}

#[derive(Serialize)]
struct TagReport {
    name: String,
    commit: String,
    manifest: String,
    previous: Option<String>,
}

pub(crate) fn run(context: &Context, args: &TagArgs) -> Result<(), Failure> {
    let store = context.store()?;
    let cartridge = history::open(context, &args.reference)?;
    let Some((commit, _)) = cartridge.commit() else {
        return Err(Failure::arguments(format!(
            "`{}` is content without a commit, so there is nothing to name; name a commit of it",
            args.reference
        )));
    };
    let previous = history::name_commit(&store, commit, Some(&args.name), &args.message)?;
    let body = TagReport {
        name: args.name.to_string(),
        commit: commit.hex(),
        manifest: cartridge.manifest_id().hex(),
        previous: previous.map(|id| id.hex()),
    };
    if context.json {
        return report::print("tag", &body);
    }
    let was = body.previous.map_or(String::new(), |id| format!("  (was commit {})", &id[..12]));
    report::line(&format!("{} is commit {}{was}", body.name, &body.commit[..12]))
}
