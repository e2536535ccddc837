//! `cart memory recall`.

use std::fmt::Write as _;

use cart_engine::{Agent, PrefixOptions};
use cart_memory::{Recalled, UnifiedMemory};
use clap::Args;
use serde::Serialize;

use super::super::run::read_prompt;
use super::remembered::{one_line, say_nothing, store_name};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::table::Table;

/// Show what a text would recall, best first.
///
/// The text goes through the model as a prompt does, and the memory is asked as `cart run --memory` asks it: every
/// remembered token looks for its best match in the text, and the match is the mean cosine and 0.3 times the share of
/// the text's rare words that the slot has; the score adds a share of what the slot is worth. Slots under the least match are shown, but would not be read. Nothing changes.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory recall smol:told -p 'What is the code of the vault?'
  cart --json memory recall smol:told -p 'the vault' -k 20")]
pub(crate) struct RecallArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The text that asks; `-` reads stdin
    #[arg(short, long, value_name = "TEXT", alias = "query")]
    prompt: String,
    /// How many memories, at least 1
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
}

#[derive(Serialize)]
struct RecallReport {
    manifest: String,
    memory_id: Option<String>,
    /// Match from which a generation reads a slot.
    least_cosine: f32,
    recalled: Vec<HitRow>,
}

/// A memory that answers.
#[derive(Serialize)]
pub(super) struct HitRow {
    store: &'static str,
    slot: u64,
    /// Other slots that say the same.
    also: Vec<String>,
    score: f32,
    pub(super) cosine: f32,
    energy: f32,
    gated_energy: f32,
    decay: f32,
    /// Ticks since it was written.
    age: u64,
    tokens: usize,
    source: String,
    text: String,
}

pub(crate) fn run(context: &Context, args: &RecallArgs) -> Result<(), Failure> {
    let (agent, origin) = history::load(context, &args.reference)?;
    let memory = agent.memory();
    let recalled = match &memory {
        Some(memory) => recall(&agent, memory, &read_prompt(&args.prompt)?, args.top_k as usize)?,
        None => Vec::new(),
    };
    let body = RecallReport {
        manifest: origin.manifest.hex(),
        memory_id: memory.as_ref().map(|memory| memory.snapshot().id().hex()),
        least_cosine: PrefixOptions::default().min_score,
        recalled,
    };
    if context.json {
        return report::print("memory-recall", &body);
    }
    if memory.is_none() {
        return say_nothing();
    }
    report::stdout(shown(&body.recalled).as_bytes())
}

/// What a text would recall, for people.
pub(crate) fn recall_text(
    agent: &Agent,
    memory: &UnifiedMemory,
    text: &str,
    top_k: usize,
) -> Result<String, Failure> {
    Ok(shown(&recall(agent, memory, text, top_k)?))
}

fn shown(recalled: &[HitRow]) -> String {
    if recalled.is_empty() {
        return "nothing that holds is remembered\n".to_owned();
    }
    let mut text = table(recalled, "SCORE");
    let least = PrefixOptions::default().min_score;
    let under = recalled.iter().filter(|hit| hit.cosine < least).count();
    if under > 0 {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{under} under match {least} would not be read");
    }
    text
}

fn recall(
    agent: &Agent,
    memory: &UnifiedMemory,
    text: &str,
    top_k: usize,
) -> Result<Vec<HitRow>, Failure> {
    let query = agent.memory_query(text).map_err(Failure::refused)?;
    let hits = memory.peek_tokens(memory.now(), query.tokens(), top_k);
    Ok(hits.map_err(Failure::refused)?.into_iter().map(|hit| row(memory, hit)).collect())
}

/// A memory that answers, with what it is worth.
pub(super) fn row(memory: &UnifiedMemory, hit: Recalled) -> HitRow {
    let slot = memory.slot(hit.slot).expect("what was recalled from a memory is in it");
    HitRow {
        store: store_name(hit.slot.store),
        slot: hit.slot.id.number(),
        also: hit.also.iter().map(ToString::to_string).collect(),
        score: hit.score,
        cosine: hit.cosine,
        energy: slot.energy,
        gated_energy: slot.gated_energy(),
        decay: hit.decay,
        age: memory.now().saturating_sub(slot.refreshed),
        tokens: hit.token_ids.len(),
        source: hit.source,
        text: hit.text,
    }
}

/// Memories that answer, as a table.
pub(super) fn table(rows: &[HitRow], score: &str) -> String {
    let score = format!(">{score}");
    let mut table =
        Table::new(&["KIND", ">SLOT", &score, ">COSINE", ">ENERGY", ">AGE", "SOURCE", "TEXT"]);
    for row in rows {
        table.row([
            row.store.to_owned(),
            row.slot.to_string(),
            format!("{:.3}", row.score),
            format!("{:.3}", row.cosine),
            format!("{:.3}", row.energy),
            row.age.to_string(),
            row.source.clone(),
            one_line(&row.text),
        ]);
    }
    table.render()
}
