//! `cart memory show`.

use std::fmt::Write as _;

use cart_memory::{MemoryReport, SlotReport, StoreKind, StoreReport, UnifiedMemory};
use clap::Args;
use serde::Serialize;

use super::remembered::{Remembered, one_line, say_nothing, store_name};
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::report;
use crate::table::Table;

/// Show what a cartridge remembers, slot by slot.
///
/// The latest first, short-term before long-term memory. WEIGHT is σ(A) · energy · decay, what a slot is worth now;
/// HOLDS says from and to which tick what it says is true, which slot took its place, and whose place it took.
/// No model is loaded; every digest of the cartridge is recomputed.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory show smol:told
  cart memory show smol:told --ltm --limit 20
  cart --json memory show told.cart --stm")]
pub(crate) struct ShowArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Only short-term memory
    #[arg(long, conflicts_with = "ltm")]
    stm: bool,
    /// Only long-term memory
    #[arg(long)]
    ltm: bool,
    /// At most N slots of each
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct ShowReport {
    manifest: String,
    memory_id: Option<String>,
    memory: Option<MemoryReport>,
    slots: Vec<SlotReport>,
    /// Slots that `--stm`, `--ltm` and `--limit` left out.
    left_out: usize,
}

pub(crate) fn run(context: &Context, args: &ShowArgs) -> Result<(), Failure> {
    let found = Remembered::open(context, &args.reference)?;
    let slots = found.memory.as_ref().map_or_else(Vec::new, |memory| rows(memory, args));
    let all = found.memory.as_ref().map_or(0, |memory| memory.slots().count());
    let body = ShowReport {
        manifest: found.manifest.hex(),
        memory_id: found.id(),
        memory: found.memory.as_ref().map(UnifiedMemory::report),
        left_out: all - slots.len(),
        slots,
    };
    if context.json {
        return report::print("memory-show", &body);
    }
    match (&body.memory, &body.memory_id) {
        (Some(memory), Some(id)) => report::stdout(render(&body, memory, id).as_bytes()),
        _ => say_nothing(),
    }
}

fn rows(memory: &UnifiedMemory, args: &ShowArgs) -> Vec<SlotReport> {
    let wanted = |store: &StoreKind| match store {
        StoreKind::Stm => !args.ltm,
        StoreKind::Ltm => !args.stm,
    };
    let limit = args.limit.unwrap_or(usize::MAX);
    let stores = [StoreKind::Stm, StoreKind::Ltm].into_iter().filter(wanted);
    stores.flat_map(|store| memory.slot_reports(store, limit)).collect()
}

fn render(body: &ShowReport, memory: &MemoryReport, id: &str) -> String {
    let store = |report: &StoreReport| format!("{} of {} slots", report.slots, report.capacity);
    let mut text = format!(
        "memory {}  tick {}, dimension {}, space {}\n\
         short-term {}, long-term {}; goal {:.3} long after {}\n",
        &id[..12],
        memory.now,
        memory.dim,
        &memory.space.hex()[..12],
        store(&memory.stm),
        store(&memory.ltm),
        memory.goal_norm,
        counted(memory.goal_steps, "step"),
    );
    if memory.stm.slots + memory.ltm.slots == 0 {
        return text + "it is empty\n";
    }
    text += &table(&body.slots);
    if body.left_out > 0 {
        let _ = writeln!(text, "{} not shown", counted(body.left_out as u64, "slot"));
    }
    text
}

fn table(rows: &[SlotReport]) -> String {
    let mut table = Table::new(&[
        "KIND", ">SLOT", ">TICK", ">AGE", ">ENERGY", ">σ(A)", ">WEIGHT", "HOLDS", "SOURCE", "TEXT",
    ]);
    for row in rows {
        table.row([
            store_name(row.store).to_owned(),
            row.slot.to_string(),
            row.made.to_string(),
            row.age.to_string(),
            format!("{:.3}", row.energy),
            format!("{:.3}", row.open),
            format!("{:.3}", row.weight),
            holds(row),
            row.source.clone(),
            one_line(&row.text),
        ]);
    }
    table.render()
}

/// `from 3`, `3 to 9, then 12`, `from 9, was 4`.
fn holds(row: &SlotReport) -> String {
    let mut text = match row.until {
        Some(until) => format!("{} to {until}", row.from),
        None => format!("from {}", row.from),
    };
    if let Some(by) = row.superseded_by {
        let _ = write!(text, ", then {by}");
    }
    let before: Vec<String> = row.supersedes.iter().map(u64::to_string).collect();
    if !before.is_empty() {
        let _ = write!(text, ", was {}", before.join(" "));
    }
    text
}
