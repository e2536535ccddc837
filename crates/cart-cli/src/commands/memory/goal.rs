//! `cart memory goal`.

use cart_memory::{Recalled, UnifiedMemory};
use clap::Args;
use serde::Serialize;

use super::remembered::{Remembered, one_line, say_nothing, store_name};
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::report;
use crate::table::Table;

/// Show where an agent's goal points.
///
/// The goal is a running average of what long-term memory took in. What it points to is shown as the slots that are
/// nearest to it by cosine, whatever they are worth. No model is loaded.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory goal smol:told
  cart --json memory goal smol:told -k 10")]
pub(crate) struct GoalArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// How many slots, at least 1
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
}

#[derive(Serialize)]
struct GoalReport {
    manifest: String,
    memory_id: Option<String>,
    goal: Option<GoalView>,
}

#[derive(Serialize)]
struct GoalView {
    norm: f32,
    cap: f32,
    steps: u64,
    /// How far the next entry moves it, before the self-diagnostic.
    next_rate: f32,
    /// Whether a prompt has its share in it.
    prompt: bool,
    prompt_blend: f32,
    nearest: Vec<NearRow>,
}

#[derive(Serialize)]
struct NearRow {
    store: &'static str,
    slot: u64,
    cosine: f32,
    text: String,
}

pub(crate) fn run(context: &Context, args: &GoalArgs) -> Result<(), Failure> {
    let found = Remembered::open(context, &args.reference)?;
    let body = GoalReport {
        manifest: found.manifest.hex(),
        memory_id: found.id(),
        goal: found.memory.as_ref().map(|memory| view(memory, args.top_k as usize)),
    };
    if context.json {
        return report::print("memory-goal", &body);
    }
    match &body.goal {
        Some(goal) => report::stdout(render(goal).as_bytes()),
        None => say_nothing(),
    }
}

/// Where a memory's goal points, for people.
pub(crate) fn goal_text(memory: &UnifiedMemory, top_k: usize) -> String {
    render(&view(memory, top_k))
}

fn view(memory: &UnifiedMemory, top_k: usize) -> GoalView {
    let (goal, config) = (memory.goal(), memory.config());
    let row = |hit: Recalled| NearRow {
        store: store_name(hit.slot.store),
        slot: hit.slot.id.number(),
        cosine: hit.cosine,
        text: hit.text,
    };
    GoalView {
        norm: goal.norm(),
        cap: config.goal_cap,
        steps: goal.steps(),
        next_rate: goal.next_rate(config),
        prompt: goal.prompt().is_some(),
        prompt_blend: config.goal_prompt_blend,
        nearest: memory.wanted(top_k).into_iter().map(row).collect(),
    }
}

fn render(goal: &GoalView) -> String {
    if goal.norm == 0.0 {
        return "no goal yet: long-term memory has taken in nothing\n".to_owned();
    }
    let prompt = if goal.prompt { "; a prompt has its share" } else { "" };
    let mut text = format!(
        "goal {:.3} long (at most {}) after {}; the next entry moves it by {:.4}{prompt}\n",
        goal.norm,
        goal.cap,
        counted(goal.steps, "step"),
        goal.next_rate,
    );
    let mut table = Table::new(&["KIND", ">SLOT", ">COSINE", "TEXT"]);
    for row in &goal.nearest {
        table.row([
            row.store.to_owned(),
            row.slot.to_string(),
            format!("{:.3}", row.cosine),
            one_line(&row.text),
        ]);
    }
    text += &table.render();
    text
}
