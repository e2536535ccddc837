//! `cart ls`.

use cart_store::{OpenError, Store};
use clap::Args;
use serde::Serialize;

use crate::bytes::{human, timestamp};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;
use crate::table::Table;

/// List the store's cartridges.
#[derive(Args)]
#[command(after_help = "Examples:
  cart ls
  cart ls smol
  cart --json ls")]
pub(crate) struct LsArgs {
    /// Only names that begin with this
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    cartridges: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    manifest: Option<String>,
    commit: String,
    bytes: Option<u64>,
    tensors: Option<u64>,
    memory: bool,
    time: Option<u64>,
    message: Option<String>,
    error: Option<String>,
}

pub(crate) fn run(context: &Context, args: &LsArgs) -> Result<(), Failure> {
    let store = match Store::open(context.store_root()?) {
        Ok(store) => store,
        // Nothing was packed yet, which is no error.
        Err(OpenError::Absent { .. }) => return none(context),
        Err(error) => return Err(Failure::refused(error)),
    };
    let prefix = args.prefix.as_deref().unwrap_or("");
    let mut cartridges = Vec::new();
    for (name, commit_id) in store.list_refs().map_err(Failure::refused)? {
        if !name.to_string().starts_with(prefix) {
            continue;
        }
        let mut row = Row {
            name: name.to_string(),
            manifest: None,
            commit: commit_id.hex(),
            bytes: None,
            tensors: None,
            memory: false,
            time: None,
            message: None,
            error: None,
        };
        // A damaged one is listed as such; it must not hide the others.
        match store.cartridge(commit_id) {
            Ok(cartridge) => row.fill(&cartridge),
            Err(error) => row.error = Some(error.to_string()),
        }
        cartridges.push(row);
    }
    if cartridges.is_empty() {
        return none(context);
    }
    if context.json {
        return report::print("ls", &Listing { cartridges });
    }
    report::stdout(render(&cartridges).as_bytes())
}

fn none(context: &Context) -> Result<(), Failure> {
    if context.json {
        return report::print("ls", &Listing { cartridges: Vec::new() });
    }
    context.remark("no cartridges; `cart pack MODEL -t NAME` makes one");
    Ok(())
}

impl Row {
    fn fill(&mut self, cartridge: &cart_store::Cartridge) {
        let manifest = cartridge.manifest();
        self.manifest = Some(cartridge.manifest_id().hex());
        self.bytes = Some(manifest.total_bytes());
        self.tensors = Some(manifest.model.tensors.len() as u64);
        self.memory = manifest.memory.is_some();
        if let Some((_, commit)) = cartridge.commit() {
            self.time = Some(commit.time);
            self.message = Some(commit.message.clone()).filter(|message| !message.is_empty());
        }
    }
}

fn render(rows: &[Row]) -> String {
    let mut table =
        Table::new(&["NAME", "ID", ">SIZE", ">TENSORS", "MEMORY", "COMMITTED", "MESSAGE"]);
    for row in rows {
        let short = |hex: &String| hex[..12].to_owned();
        let message = row.error.as_ref().map(|error| format!("DAMAGED: {error}"));
        table.row([
            row.name.clone(),
            row.manifest.as_ref().map_or_else(|| "?".to_owned(), short),
            row.bytes.map_or_else(String::new, human),
            row.tensors.map_or_else(String::new, |tensors| tensors.to_string()),
            if row.memory { "yes" } else { "-" }.to_owned(),
            row.time.map_or_else(String::new, timestamp),
            message.or_else(|| row.message.clone()).unwrap_or_default(),
        ]);
    }
    table.render()
}
