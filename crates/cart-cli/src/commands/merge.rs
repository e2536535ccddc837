//! `cart merge`.

mod inputs;
mod job;
mod memories;
mod replay;
mod report;
mod sides;
mod work;

use std::path::PathBuf;
use std::time::Instant;

use cart_format::Recipe;
use cart_merge::weights::{FloatType, Method};
use cart_store::RefName;
use clap::{ArgGroup, Args, ValueHint};

use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, NewCommit};
use job::Job;
use memories::{Contradictions, MemoryChoice, MemoryRules, Remembering};
use report::MergeReport;

/// Merge cartridges into one.
///
/// Of two, OURS and THEIRS, with what both came from: a tensor that one side changed is taken from it as it is; of one that both
/// changed, --method or --on-conflict decides. The base is the nearest common commit of their histories, where there is one, or
/// --base. Of any number, by layers and with every parameter: --config reads mergekit's YAML, where models are names of the store
/// or .cart files.
///
/// What the inputs remember is joined where the result has their weights: the same whichever order agents are merged in, a common past
/// once. With --memory migrate the result reads the texts of what is of other weights. Texts of different agents that contradict each other are listed, and settled by --contradictions.
///
/// The result is a commit whose parents are the inputs, with all that is needed to make it again: --replay does that and compares.
/// The same inputs, parameters and seed give the same cartridge on every machine and at every number of threads.
#[derive(Args)]
#[command(group = ArgGroup::new("what").args(["ours", "config", "replay"]).required(true))]
#[command(
    after_help = "Methods: linear, slerp, nuslerp, multislerp, karcher, task_arithmetic, ties, dare_linear, dare_ties, della,
della_linear, breadcrumbs, breadcrumbs_ties, sce, ram, model_stock, nearswap, arcee_fusion, passthrough

Examples:
  cart merge mine theirs -t both                          refuses where both changed a tensor, and lists those
  cart merge mine theirs --method ties -p density=0.5 -t both
  cart merge mine theirs --method slerp -p t=[0,0.5,1] -p t@norm=0.5 -t both
  cart merge mine theirs --on-conflict ours -t both --dry-run
  cart merge mine theirs --contradictions newest -t both
  cart merge mine theirs --method linear --memory migrate -t both
  cart merge --config recipe.yaml -t merged --seed 7
  cart merge --replay merged"
)]
pub(crate) struct MergeArgs {
    /// Our cartridge
    #[arg(value_name = "OURS", requires = "theirs")]
    ours: Option<String>,
    /// The other
    #[arg(value_name = "THEIRS")]
    theirs: Option<String>,
    /// What both came from [default: their nearest common commit]
    #[arg(long, value_name = "B", requires = "ours")]
    base: Option<String>,
    /// Take a base that is in neither history
    #[arg(long, requires = "base")]
    unrelated_base: bool,
    /// Mergekit's YAML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Make a merge again and compare
    #[arg(long, value_name = "REF", conflicts_with_all = ["dry_run", "tag", "seed", "keep_float"])]
    replay: Option<String>,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<RefName>,
    /// How tensors that both changed are merged
    #[arg(long, value_name = "METHOD", requires = "ours")]
    method: Option<Method>,
    /// A parameter: `[ours.|theirs.]NAME[@FILTER]=VALUE`; a list is interpolated along the layers, a
    /// filter is a part of a tensor's name or a pattern with *
    #[arg(short, long = "parameter", value_name = "KEY=VALUE", requires = "ours")]
    parameters: Vec<sides::Setting>,
    /// What to do with tensors that both changed: ours, theirs, base, refuse, or a method
    /// [default: the --method, else refuse]
    #[arg(long, value_name = "CHOICE", requires = "ours")]
    on_conflict: Option<sides::Conflicts>,
    /// Of tokenizers that differ: base (ours) or union
    #[arg(long, value_name = "SOURCE", requires = "ours")]
    tokenizer: Option<sides::TokenizerSource>,
    /// The type of the result: f32, f16, bf16 [default: that of the inputs]
    #[arg(long, value_name = "TYPE", value_parser = sides::float_type, requires = "ours")]
    dtype: Option<FloatType>,
    /// Leave merged tensors of quantized models as floats
    #[arg(long)]
    keep_float: bool,
    /// What the result remembers
    #[arg(long, value_name = "CHOICE", default_value = "join")]
    memory: MemoryChoice,
    /// What becomes of texts of different memories that contradict each other
    #[arg(long, value_name = "CHOICE", default_value = "keep-both")]
    contradictions: Contradictions,
    /// What chance follows from, in methods that have it [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
    /// Why, in words
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Only say what would become of each tensor
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: &MergeArgs) -> Result<(), Failure> {
    if let Some(reference) = &args.replay {
        return replay::run(context, reference);
    }
    if args.tag.is_none() && !args.dry_run {
        return Err(Failure::arguments("the result needs a name: -t NAME, or --dry-run"));
    }
    let began = Instant::now();
    let mut asked = match &args.config {
        Some(file) => inputs::configured(context, file)?,
        None => sides::asked(context, args)?,
    };
    asked.options.keep_float = args.keep_float;
    let memory = MemoryRules {
        choice: args.memory,
        on_contradiction: args.contradictions.into(),
        outlived: None,
    };
    let job = Job::new(context, asked, memory, args.seed, args.dry_run)?;
    let plan = job.plan()?;
    if args.dry_run {
        let remembering = Remembering::new(context, &job, &plan)?;
        let mut report = MergeReport::of_plan(&job, &plan, &remembering);
        report.seconds = began.elapsed().as_secs_f64();
        return report.print(context);
    }
    if let Some(error) = Job::undecided(&plan) {
        return Err(Failure::refused(error));
    }
    let mut remembering = Remembering::new(context, &job, &plan)?;
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let made = work::carry_out(context, &store, &job, &plan, &mut remembering)?;
    let mut report = MergeReport::of_plan(&job, &plan, &remembering);
    let manifest = store.put_manifest(&made.manifest).map_err(Failure::refused)?;
    let new = NewCommit {
        manifest,
        parents: job.parents(),
        recipe: job.recipe(remembering.rules()),
        message: args.message.clone(),
        probes: Vec::new(),
    };
    let commit = history::commit(&store, new, args.tag.as_ref())?;
    drop(held);
    report.set_result(args.tag.as_ref(), manifest, commit, &made);
    report.seconds = began.elapsed().as_secs_f64();
    report.print(context)
}

/// The kind of recipe that a merge leaves.
const RECIPE: &str = "merge";

/// A recipe with what every recipe says.
fn recipe() -> Recipe {
    Recipe::new(RECIPE).with("tool", history::tool())
}
