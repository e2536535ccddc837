//! `cart memory reflect`.

use cart_engine::Agent;
use cart_memory::UnifiedMemory;
use clap::Args;
use serde::Serialize;

use super::super::run::read_prompt;
use super::recall::{HitRow, row, table};
use super::remembered::say_nothing;
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Show what an agent knows that is like a text, and how new the text is to it.
///
/// Asks long-term memory only, with one vector for the whole text: novelty is 1 − the cosine of the nearest entry,
/// and the entries come by cosine, whatever they are worth. Nothing changes.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory reflect smol:told -p 'The vault has a new code.'
  cart --json memory reflect smol:told -p 'boats' -k 3")]
pub(crate) struct ReflectArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The text; `-` reads stdin
    #[arg(short, long, value_name = "TEXT", alias = "query")]
    prompt: String,
    /// How many entries, at least 1
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
}

#[derive(Serialize)]
struct ReflectReport {
    manifest: String,
    memory_id: Option<String>,
    /// Slots of long-term memory, which is what was asked.
    ltm_slots: usize,
    reflection: Option<Reflected>,
}

#[derive(Serialize)]
struct Reflected {
    novelty: f32,
    /// Whether it would become an entry of its own.
    novel: bool,
    /// Cosine under which that is so.
    novelty_threshold: f32,
    known: Vec<HitRow>,
}

pub(crate) fn run(context: &Context, args: &ReflectArgs) -> Result<(), Failure> {
    let (agent, origin) = history::load(context, &args.reference)?;
    let memory = agent.memory();
    let reflection = memory.as_ref().map(|memory| reflect(&agent, memory, args)).transpose()?;
    let body = ReflectReport {
        manifest: origin.manifest.hex(),
        memory_id: memory.as_ref().map(|memory| memory.snapshot().id().hex()),
        ltm_slots: memory.as_ref().map_or(0, |memory| memory.report().ltm.slots),
        reflection,
    };
    if context.json {
        return report::print("memory-reflect", &body);
    }
    let (Some(found), Some(memory)) = (&body.reflection, &memory) else { return say_nothing() };
    if body.ltm_slots == 0 {
        let short = counted(memory.report().stm.slots as u64, "short-term slot");
        return report::line(&format!("long-term memory is empty ({short}): all is new to it"));
    }
    let verdict = if found.novel { "would be an entry of its own" } else { "is known" };
    report::line(&format!("novelty {:.3}: it {verdict}", found.novelty))?;
    report::stdout(table(&found.known, "LIKENESS").as_bytes())
}

fn reflect(
    agent: &Agent,
    memory: &UnifiedMemory,
    args: &ReflectArgs,
) -> Result<Reflected, Failure> {
    let query = agent.memory_query(&read_prompt(&args.prompt)?).map_err(Failure::refused)?;
    let found = memory.reflect(&query.key, args.top_k as usize).map_err(Failure::refused)?;
    Ok(Reflected {
        novelty: found.novelty.novelty,
        novel: found.novelty.novel,
        novelty_threshold: memory.config().novelty_threshold,
        known: found.known.into_iter().map(|hit| row(memory, hit)).collect(),
    })
}
