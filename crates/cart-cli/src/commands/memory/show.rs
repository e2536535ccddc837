//! `cart memory show`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cart_memory::gate::sigmoid;
use cart_memory::{MemoryReport, Slot, SlotId, SlotRef, StoreKind, StoreReport, UnifiedMemory};
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
    slots: Vec<SlotRow>,
    /// Slots that `--stm`, `--ltm` and `--limit` left out.
    left_out: usize,
}

#[derive(Serialize)]
struct SlotRow {
    store: &'static str,
    slot: u64,
    made: u64,
    refreshed: u64,
    read: u64,
    /// Ticks since it was written.
    age: u64,
    energy: f32,
    gate: f32,
    /// σ(A).
    open: f32,
    decay: f32,
    /// σ(A) · energy · decay.
    weight: f32,
    count: u64,
    holds: bool,
    from: u64,
    until: Option<u64>,
    superseded_by: Option<u64>,
    supersedes: Vec<u64>,
    consolidated: bool,
    tokens: usize,
    source: String,
    text: String,
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

fn rows(memory: &UnifiedMemory, args: &ShowArgs) -> Vec<SlotRow> {
    let mut supersedes: BTreeMap<SlotId, Vec<u64>> = BTreeMap::new();
    for (_, slot) in memory.slots() {
        if let Some(by) = slot.validity.superseded_by {
            supersedes.entry(by).or_default().push(slot.id.number());
        }
    }
    let wanted = |store| match store {
        StoreKind::Stm => !args.ltm,
        StoreKind::Ltm => !args.stm,
    };
    let mut rows = Vec::new();
    for store in [StoreKind::Stm, StoreKind::Ltm].into_iter().filter(|&store| wanted(store)) {
        let mut slots: Vec<(SlotRef, &Slot)> =
            memory.slots().filter(|(at, _)| at.store == store).collect();
        slots.sort_by_key(|(_, slot)| std::cmp::Reverse((slot.refreshed, slot.id)));
        slots.truncate(args.limit.unwrap_or(usize::MAX));
        rows.extend(slots.into_iter().map(|(at, slot)| {
            row(memory, at.store, slot, supersedes.remove(&slot.id).unwrap_or_default())
        }));
    }
    rows
}

fn row(memory: &UnifiedMemory, store: StoreKind, slot: &Slot, supersedes: Vec<u64>) -> SlotRow {
    let now = memory.now();
    let decay = slot.decay(store, now, memory.config());
    SlotRow {
        store: store_name(store),
        slot: slot.id.number(),
        made: slot.made,
        refreshed: slot.refreshed,
        read: slot.read,
        age: now.saturating_sub(slot.refreshed),
        energy: slot.energy,
        gate: slot.gate,
        open: sigmoid(f64::from(slot.gate)) as f32,
        decay,
        weight: slot.gated_energy() * decay,
        count: slot.count,
        holds: slot.validity.holds(now),
        from: slot.validity.from,
        until: slot.validity.until,
        superseded_by: slot.validity.superseded_by.map(SlotId::number),
        supersedes,
        consolidated: slot.consolidation.is_some_and(|offer| offer.into.is_some()),
        tokens: slot.value.token_ids.len(),
        source: slot.source.clone(),
        text: slot.value.text.clone(),
    }
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

fn table(rows: &[SlotRow]) -> String {
    let mut table = Table::new(&[
        "KIND", ">SLOT", ">TICK", ">AGE", ">ENERGY", ">σ(A)", ">WEIGHT", "HOLDS", "SOURCE", "TEXT",
    ]);
    for row in rows {
        table.row([
            row.store.to_owned(),
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
fn holds(row: &SlotRow) -> String {
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
