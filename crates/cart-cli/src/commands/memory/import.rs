//! `cart memory import`.

mod entry;
mod teller;

use std::path::{Path, PathBuf};

use cart_engine::{EncodeError, LoadOptions, MemoryLogError};
use cart_format::Recipe;
use cart_memory::{MemoryConfig, MemoryReport};
use cart_store::{Progress as _, RefName};
use clap::{Args, ValueHint};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::tags;
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::Bar;
use crate::report;
use crate::saved::{self, Kept, Saved};
use entry::{Entry, Origin, Reading};
use teller::{Teller, Written};

/// Energy of what does not say its own: enough to be consolidated.
const ENERGY: f32 = 0.8;

/// Let an agent remember what is in files, and save it.
///
/// Files that end in .jsonl or .ndjson have an entry a line: `text`, and where wanted `energy` (0 to 1), `tags`,
/// `source` and `gate`; what `cart memory export` wrote is read too, but token ids, vectors and ticks are made anew, and
/// entries that no longer hold are left out. Every other file is text, of which each sentence or line is remembered, and
/// so is stdin, which is `-`; with --jsonl all are JSON Lines. All of it goes through the model. Nothing is saved unless every entry can be taken.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory import smol notes.txt --save smol:notes
  cart memory import smol facts.jsonl more.jsonl --save smol:facts --energy 0.9 --with-tag fact
  grep -h decided *.txt | cart memory import smol - --save smol:decided
  cart memory export smol:notes -o - | cart memory import smol - --jsonl --save smol:again
  cart --json memory import smol:notes told.jsonl --save smol:both --ignore-unknown")]
pub(crate) struct ImportArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Texts and JSON Lines; - is stdin
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// The name of the new commit; that of REF moves REF on
    #[arg(long, value_name = "NAME[:TAG]")]
    save: RefName,
    /// Energy of entries that do not say theirs, 0 to 1
    #[arg(long, value_name = "E", default_value_t = ENERGY)]
    energy: f32,
    /// A tag for every entry (may be given several times)
    #[arg(long, value_name = "TAG")]
    with_tag: Vec<String>,
    /// Read all as JSON Lines, whatever their endings
    #[arg(long)]
    jsonl: bool,
    /// Pass over fields that are not known
    #[arg(long)]
    ignore_unknown: bool,
    /// Settings of a memory that begins here, as JSON (spec/30-memory.md §7 and §8); the others are as usual
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    settings: Option<PathBuf>,
}

/// Why an entry can't be remembered.
#[derive(Debug, Error)]
enum ImportError {
    #[error("{origin}: the text can't be read by the model")]
    Encode { origin: Origin, source: EncodeError },
    #[error("{origin}: {source}")]
    Told { origin: Origin, source: MemoryLogError },
    #[error("cancelled at {origin}; nothing was saved")]
    Cancelled { origin: Origin },
    #[error("none of {found} entries says anything that holds; there is nothing to remember")]
    Nothing { found: usize },
}

#[derive(Serialize)]
struct ImportReport {
    entries: usize,
    /// Entries that no longer held.
    left_out: usize,
    /// Entries without a span that says something.
    silent: usize,
    #[serde(flatten)]
    written: Written,
    /// Different texts among the spans.
    texts: usize,
    /// Of these, texts that are in the memory now.
    remembered: usize,
    memory: MemoryReport,
    saved: Saved,
}

pub(crate) fn run(context: &Context, args: &ImportArgs) -> Result<(), Failure> {
    check(args)?;
    let reading = Reading { lines: args.jsonl, ignore_unknown: args.ignore_unknown };
    let mut entries = Vec::new();
    for path in &args.files {
        entries.extend(entry::read(path, reading).map_err(entry::EntryError::failure)?);
    }
    let mut load = history::load_options(context);
    if let Some(path) = &args.settings {
        load.memory = settings(path, &load)?;
    }
    let (agent, origin) = history::load_with(context, &args.reference, &load)?;
    if args.settings.is_some() && agent.memory().is_some() {
        let message = format!("{} has a memory, which keeps its settings", args.reference);
        return Err(Failure::refused_with(message, "leave out --settings"));
    }
    let all = entries.len();
    entries.retain(|entry| entry.holds);
    let left_out = all - entries.len();
    let mut teller = Teller::new(&agent);
    let silent = tell(context, &mut teller, entries, args)?;
    if teller.written().told == 0 {
        return Err(Failure::refused_with(
            ImportError::Nothing { found: all },
            "an entry says something with two tokens and a letter or a digit",
        ));
    }
    let memory = agent.memory().expect("a memory that was told something is there");
    let (texts, remembered) = teller.texts(&memory);
    let kept = Kept { memory: Some(&memory), session: None };
    let saved = saved::save(context, &origin, kept, &args.save, Recipe::new("memory-import"))?;
    let written = teller.into_written();
    let memory = memory.report();
    let body =
        ImportReport { entries: all, left_out, silent, written, texts, remembered, memory, saved };
    if context.json {
        return report::print("memory-import", &body);
    }
    say(context, &body)
}

fn check(args: &ImportArgs) -> Result<(), Failure> {
    if !(0.0..=1.0).contains(&args.energy) {
        return Err(Failure::arguments(format!("--energy is {}; allowed: 0 to 1", args.energy)));
    }
    if args.files.iter().filter(|path| entry::is_stdin(path)).count() > 1 {
        return Err(Failure::arguments("- stands for stdin, which can be read once; give it once"));
    }
    match args.with_tag.iter().find(|tag| !tags::is_tag(tag)) {
        Some(tag) => {
            Err(Failure::arguments(format!("--with-tag is {tag:?}; allowed: {}", entry::TAG)))
        }
        None => Ok(()),
    }
}

/// The settings in a file, over those that a memory has otherwise.
fn settings(path: &Path, load: &LoadOptions) -> Result<MemoryConfig, Failure> {
    let refused = |error: &dyn std::fmt::Display| {
        Failure::refused_with(
            format!("{}: {error}", path.display()),
            "give an object with settings of spec/30-memory.md §7 and §8",
        )
    };
    let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
    let given: serde_json::Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| refused(&error))?;
    let mut all = serde_json::to_value(&load.memory).map_err(Failure::bug)?;
    all.as_object_mut().expect("settings are an object").extend(given);
    let config: MemoryConfig = serde_json::from_value(all).map_err(|error| refused(&error))?;
    config.check().map_err(|error| refused(&error))?;
    Ok(config)
}

/// Tells the memory every entry; gives how many say nothing.
fn tell(
    context: &Context,
    teller: &mut Teller<'_>,
    entries: Vec<Entry>,
    args: &ImportArgs,
) -> Result<usize, Failure> {
    let bar = Bar::new(context, "reading");
    bar.total(entries.iter().map(|entry| entry.text.len() as u64).sum());
    let mut silent = 0;
    for mut entry in entries {
        entry.tags.extend_from_slice(&args.with_tag);
        entry.energy.get_or_insert(args.energy);
        let told = teller.tell(&entry, &bar).map_err(Failure::refused)?;
        silent += usize::from(told == 0);
    }
    Ok(silent)
}

fn say(context: &Context, body: &ImportReport) -> Result<(), Failure> {
    report::line(&format!(
        "{}: {} told ({} new, {} blended), {} consolidated; {} short-term and {} long-term slots",
        counted(body.entries as u64, "entry").replace("entrys", "entries"),
        counted(body.written.told as u64, "span"),
        body.written.added,
        body.written.blended,
        body.written.consolidated,
        body.memory.stm.slots,
        body.memory.ltm.slots,
    ))?;
    report::line(&body.saved.said())?;
    if body.left_out > 0 {
        context.remark(&format!("{} that no longer held left out", body.left_out));
    }
    if body.silent > 0 {
        context.remark(&format!("{} that say nothing left out", body.silent));
    }
    let forgotten = body.texts - body.remembered;
    if forgotten > 0 {
        context.remark(&format!(
            "{forgotten} of {} texts are not remembered: long-term memory holds {} and takes what has gated energy \
             (σ(A) · energy) enough",
            body.texts, body.memory.ltm.capacity,
        ));
    }
    Ok(())
}
