//! `cart memory pull`.

use cart_format::Recipe;
use cart_memory::MemoryReport;
use cart_server::postgres::Postgres;
use cart_store::RefName;
use clap::Args;
use serde::Serialize;

use crate::bytes::counted;
use crate::commands::serve::database;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::saved::{self, Kept, Saved};

/// Take a long-term memory that servers share into a cartridge, so that it travels.
///
/// What the database has for the cartridge's model, as of one instant, becomes the memory of the new commit, in place of
/// the one that REF has. Nothing changes in the database.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory pull smol --ltm postgres://cart@db.example/agents --save smol:shared
  CART_LTM=postgres://cart@db.example/agents cart memory pull smol --save smol:shared")]
pub(crate) struct PullArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The database: postgres://USER@HOST:PORT/DATABASE; the password may be in $PGPASSWORD
    #[arg(long, value_name = "URL", env = "CART_LTM", hide_env_values = true)]
    ltm: String,
    /// The name of the new commit; that of REF moves REF on
    #[arg(long, value_name = "NAME[:TAG]")]
    save: RefName,
}

#[derive(Serialize)]
struct PullReport {
    /// Where it was taken from.
    place: String,
    /// How the database keeps keys.
    keys: &'static str,
    memory: MemoryReport,
    saved: Saved,
}

pub(crate) fn run(context: &Context, args: &PullArgs) -> Result<(), Failure> {
    let address = database(&args.ltm)?;
    let (agent, origin) = history::load(context, &args.reference)?;
    let pulled = Postgres::read(&address, agent.space()).map_err(|error| {
        Failure::refused_with(
            format!("the long-term memory at {address} can't be used: {error}"),
            "`cart serve REF --ltm URL` makes one",
        )
    })?;
    let memory = pulled.memory();
    let kept = Kept { memory: Some(memory), session: None };
    let saved = saved::save(context, &origin, kept, &args.save, Recipe::new("memory-pull"))?;
    let (place, keys) = (address.to_string(), pulled.key_type());
    let body = PullReport { place, keys, memory: memory.report(), saved };
    if context.json {
        return report::print("memory-pull", &body);
    }
    report::line(&format!(
        "{} from {}",
        counted(body.memory.ltm.slots as u64, "long-term slot"),
        body.place
    ))?;
    report::line(&body.saved.said())
}
