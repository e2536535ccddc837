//! `cart experiment gates`.

use std::time::Instant;

use cart_engine::{Agent, Telling};
use cart_memory::Input;
use cart_nn::graph::Products;
use clap::Args;
use serde::Serialize;

use crate::bytes::seconds;
use crate::commands::train::gates::{Frozen, GateOptions, Learning, Question, SourceGates, exam};
use crate::context::Context;
use crate::facts::{self, Fact};
use crate::failure::Failure;
use crate::history;
use crate::progress::stop_on_interrupt;
use crate::report;

/// Gates against misleading memories: half of what a memory says is wrong, and the gates learn which half.
///
/// Made-up facts are told, each once right and once with another end, with the same energy. The gates are trained on one way of asking,
/// and the memory is asked in another before and after. Nothing is saved.
#[derive(Args)]
#[command(after_help = "Examples:
  cart experiment gates smol
  cart --json experiment gates smol --facts 50 --steps 80")]
pub(crate) struct GatesArgs {
    /// A cartridge; its own memory takes no part
    #[arg(value_name = "REF")]
    reference: String,
    /// Facts, each told twice
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=200))]
    facts: u16,
    #[command(flatten)]
    how: GateOptions,
}

/// What came of it.
#[derive(Serialize)]
struct GatesReport {
    manifest: String,
    facts: usize,
    slots: usize,
    steps: u64,
    /// Answered as they were asked in training, before and after.
    trained_way: [usize; 2],
    /// Answered as they were asked in another way.
    other_way: [usize; 2],
    /// The gates by what the slots say: `right` or `misleading`.
    sources: Vec<SourceGates>,
    seconds: f64,
}

pub(super) fn run(context: &Context, args: &GatesArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let (agent, origin) = history::load(context, &args.reference)?;
    agent.set_memory(None).map_err(Failure::bug)?;
    let facts =
        facts::corrected(usize::from(args.facts), args.how.recipe(Products::F32).options.seed);
    for (place, (wrong, right)) in facts.iter().enumerate() {
        // Neither half is told first throughout.
        let mut told = [(wrong, "misleading"), (right, "right")];
        told.rotate_left(place % 2);
        told.iter().try_for_each(|(fact, source)| tell(&agent, fact, source))?;
    }
    let asked = |way: fn(&Fact) -> String| -> Vec<Question> {
        let question = |(_, right): &(Fact, Fact)| Question {
            ask: way(right),
            answer: right.answer.clone(),
            key: right.answer.clone(),
        };
        facts.iter().map(question).collect()
    };
    let (trained, other) =
        (asked(|fact| fact.question.clone()), asked(|fact| format!("Tell me: {}", fact.question)));
    let prefix = args.how.prefix();
    let frozen = Frozen::of(context, &args.reference)?;
    let before = [exam(&agent, &trained, &prefix)?, exam(&agent, &other, &prefix)?];
    let mut learning =
        Learning::new(&agent, &frozen, &trained, &prefix, args.how.recipe(Products::F32))?;
    stop_on_interrupt();
    let steps = learning.steps(context)?;
    learning.apply(&agent)?;
    let after = [exam(&agent, &trained, &prefix)?, exam(&agent, &other, &prefix)?];
    let body = GatesReport {
        manifest: origin.manifest.hex(),
        facts: facts.len(),
        slots: learning.slots(),
        steps,
        trained_way: [before[0], after[0]],
        other_way: [before[1], after[1]],
        sources: learning.sources(&agent),
        seconds: began.elapsed().as_secs_f64(),
    };
    if context.json {
        return report::print("experiment-gates", &body);
    }
    report::line(&format!(
        "{} facts, each right and misleading; {} gates, {} steps, {}",
        body.facts,
        body.slots,
        body.steps,
        seconds(body.seconds)
    ))?;
    for (way, [before, after]) in
        [("as trained", body.trained_way), ("in another way", body.other_way)]
    {
        report::line(&format!("asked {way}: {before} answered before, {after} after"))?;
    }
    body.sources.iter().try_for_each(|source| report::line(&source.said()))
}

fn tell(agent: &Agent, fact: &Fact, source: &str) -> Result<(), Failure> {
    let telling = Telling { text: &fact.told, whole: true, energy: 0.5, source };
    for group in agent.observations(telling).map_err(Failure::refused)? {
        for seen in group.map_err(Failure::refused)? {
            let observe =
                |memory: &cart_memory::UnifiedMemory| Input::Observe { at: memory.now() + 1, seen };
            agent.tell_memory(observe).map_err(Failure::refused)?;
        }
    }
    Ok(())
}
