//! `cart train gates`.

mod learning;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cart_engine::PrefixOptions;
use cart_format::Recipe;
use cart_nn::graph::Products;
use cart_store::RefName;
use cart_train::gates::GateRecipe;
use cart_train::{Schedule, TrainOptions};
use clap::{Args, ValueHint};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::stop_on_interrupt;
use crate::saved::{self, Kept};
use learning::Questions;
pub(crate) use learning::{Frozen, Learning, Question, SourceGates, exam};
use report::GateReport;

/// Train the gates of a memory: how much each slot counts, from questions and their answers.
///
/// Each question recalls slots, which stand before it as in `cart run --memory`; the loss of its answer goes back to their gates
/// through the bias of attention. Nothing else changes. A FILE has a question a line, {"ask": TEXT, "answer": TEXT}. All are asked
/// before and after. The same command goes on from the run folder's checkpoint.
#[derive(Args)]
#[command(after_help = "Examples:
  cart train gates smol:told --data questions.jsonl -t smol:gated
  cart train gates smol:told --data questions.jsonl --spans 4 --steps 60 -t smol:gated
  cart memory show smol:gated")]
pub(crate) struct GatesArgs {
    /// A cartridge with a memory
    #[arg(value_name = "REF")]
    reference: String,
    /// Questions
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    data: PathBuf,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: RefName,
    #[command(flatten)]
    pub(crate) how: GateOptions,
    /// Where the checkpoint and the log are [default: train-NAME-TAG]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
}

/// How gates learn.
#[derive(Args)]
pub(crate) struct GateOptions {
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 40)]
    steps: u64,
    /// Questions of a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// The largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.3)]
    lr: f64,
    /// Most slots that a question recalls
    #[arg(long, value_name = "N", default_value_t = 2)]
    spans: usize,
    /// What an open gate on a slot of energy 1 is worth, in nats: rewards attending to what mattered
    #[arg(long, value_name = "NATS", default_value_t = 0.02)]
    energy_reward: f64,
    /// What chance follows from
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
}

impl GateOptions {
    pub(crate) fn recipe(&self, products: Products) -> GateRecipe {
        let warmup = (self.steps / 10).min(5);
        let schedule = Schedule { peak: self.lr, warmup, steps: self.steps, floor: 0.1 };
        let options = TrainOptions {
            schedule,
            weight_decay: 0.0,
            clip: 1.0,
            accumulate: 1,
            seed: self.seed,
            products,
        };
        GateRecipe { batch: self.batch, energy_reward: self.energy_reward, options }
    }

    pub(crate) fn prefix(&self) -> PrefixOptions {
        PrefixOptions { top_k: self.spans, ..PrefixOptions::default() }
    }
}

pub(crate) fn run(context: &Context, args: &GatesArgs, products: Products) -> Result<(), Failure> {
    let began = Instant::now();
    let questions = Questions::read(&args.data)?;
    let (agent, origin) = history::load(context, &args.reference)?;
    if agent.memory().is_none_or(|memory| memory.is_empty()) {
        return Err(Failure::refused_with(
            format!("{} has no memory whose gates could be trained", args.reference),
            "tell it something: cart run REF -p TEXT -n 0 --memory --save NAME",
        ));
    }
    let (prefix, recipe) = (args.how.prefix(), args.how.recipe(products));
    let described = described(&origin.manifest.hex(), &questions, &args.how, &recipe);
    let graph = Frozen::of(context, &args.reference)?;
    let before = exam(&agent, &questions.all, &prefix)?;
    let mut learning = Learning::new(&agent, &graph, &questions.all, &prefix, recipe)?;
    let mut report = GateReport::new(args, &learning, questions.all.len(), before);
    learning.resume(context, &folder(args), &described)?;
    stop_on_interrupt();
    learning.run(context, args.save_every, &described, &mut report)?;
    if report.is_done() {
        learning.apply(&agent)?;
        report.after = Some(exam(&agent, &questions.all, &prefix)?);
        let recipe = Recipe::new("train").with("run", described);
        let memory = agent.memory();
        let kept = Kept { memory: memory.as_deref(), session: None };
        report.saved = Some(saved::save(context, &origin, kept, &args.tag, recipe)?);
        history::verified(context, &args.tag.to_string())?;
    }
    report.sources = learning.sources(&agent);
    report.print(context, began)
}

/// Everything that the result depends on.
fn described(base: &str, questions: &Questions, how: &GateOptions, recipe: &GateRecipe) -> Value {
    json!({
        "tool": history::tool(),
        "what": "gates",
        "base": base,
        "questions": questions.digest,
        "spans": how.spans,
        "batch": recipe.batch,
        "energy_reward": recipe.energy_reward,
        "options": recipe.options,
    })
}

fn folder(args: &GatesArgs) -> PathBuf {
    args.run.clone().unwrap_or_else(|| {
        Path::new(".").join(format!("train-{}", args.tag.to_string().replace([':', '/'], "-")))
    })
}
