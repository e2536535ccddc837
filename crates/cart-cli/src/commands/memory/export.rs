//! `cart memory export`.

use std::io::{self, Write as _};
use std::path::Path;

use cart_format::json;
use cart_memory::{Slot, SlotId, SlotRef, UnifiedMemory, Validity};
use clap::{Args, ValueHint};
use serde::Serialize;

use super::remembered::{Remembered, store_name};
use super::tags;
use crate::bytes::{counted, human};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Write down what a cartridge remembers, as JSON Lines.
///
/// One line a slot, the oldest first: text, token ids, energy, gate, ticks, source, tags and validity
/// (schemas/memory-entry.json). `cart memory import` reads them. Vectors are not written: they belong to the model.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory export smol:told -o told.jsonl
  cart memory export smol:told -o - | head -3")]
pub(crate) struct ExportArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Where to; `-` for stdout
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: String,
    /// Overwrite the file
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct ExportReport {
    manifest: String,
    memory_id: Option<String>,
    path: String,
    entries: usize,
    bytes: usize,
}

/// One line.
#[derive(Serialize)]
struct Entry<'m> {
    store: &'static str,
    slot: u64,
    text: &'m str,
    token_ids: &'m [u32],
    energy: f32,
    gate: f32,
    tick: u64,
    refreshed: u64,
    read: u64,
    count: u64,
    source: &'m str,
    tags: Vec<&'m str>,
    validity: ValidityEntry,
}

#[derive(Serialize)]
struct ValidityEntry {
    from: u64,
    until: Option<u64>,
    superseded_by: Option<u64>,
}

pub(crate) fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let to_stdout = args.output == "-";
    if to_stdout && context.json {
        let message = "--json prints a report where `-o -` prints the entries; give a file";
        return Err(Failure::arguments(message));
    }
    let path = Path::new(&args.output);
    if !to_stdout {
        history::refuse_existing(path, args.force)?;
    }
    let found = Remembered::open(context, &args.reference)?;
    let (entries, bytes) = found.memory.as_ref().map_or(Ok((0, Vec::new())), lines)?;
    if to_stdout {
        report::stdout(&bytes)?;
        if entries == 0 {
            context.remark("nothing is remembered");
        }
        return Ok(());
    }
    write_whole(path, &bytes).map_err(|source| {
        let message = format!("{} can't be written: {source}", path.display());
        Failure::refused_with(message, "give a path in a folder that is there and has room, or `-`")
    })?;
    let body = ExportReport {
        manifest: found.manifest.hex(),
        memory_id: found.id(),
        path: args.output.clone(),
        entries,
        bytes: bytes.len(),
    };
    if context.json {
        return report::print("memory-export", &body);
    }
    if entries == 0 {
        return report::line(&format!("nothing is remembered; {} is empty", args.output));
    }
    let count = counted(entries as u64, "slot");
    report::line(&format!("{count} in {}, {}", args.output, human(bytes.len() as u64)))
}

/// Writes a file beside its place first, so that the place never has half of it.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Every slot as a line, in order of the tick at which it was made; and how many there are.
fn lines(memory: &UnifiedMemory) -> Result<(usize, Vec<u8>), Failure> {
    let mut slots: Vec<(SlotRef, &Slot)> = memory.slots().collect();
    slots.sort_by_key(|(at, slot)| (slot.made, at.id));
    let mut bytes = Vec::new();
    for (at, slot) in &slots {
        let value = serde_json::to_value(entry(*at, slot)).map_err(Failure::bug)?;
        bytes.extend(json::to_canonical(&value).map_err(Failure::bug)?);
        bytes.push(b'\n');
    }
    Ok((slots.len(), bytes))
}

fn entry(at: SlotRef, slot: &Slot) -> Entry<'_> {
    let (source, tags) = tags::split(&slot.source);
    let Validity { from, until, superseded_by } = slot.validity;
    Entry {
        store: store_name(at.store),
        slot: at.id.number(),
        text: &slot.value.text,
        token_ids: &slot.value.token_ids,
        energy: slot.energy,
        gate: slot.gate,
        tick: slot.made,
        refreshed: slot.refreshed,
        read: slot.read,
        count: slot.count,
        source,
        tags,
        validity: ValidityEntry { from, until, superseded_by: superseded_by.map(SlotId::number) },
    }
}
