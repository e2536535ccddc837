//! A merge with all its inputs at hand.

use cart_format::{CommitId, Recipe};
use cart_merge::weights::{MergeConfig, Model, OnConflict, Plan, PlanOptions};
use cart_store::{Cartridge, VerifyOptions};
use serde_json::{Value, json};
use thiserror::Error;

use super::inputs::{Asked, BaseFrom, Input};
use super::memories::MemoryRules;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::Bar;

/// Conflicts that an error lists.
const LISTED: usize = 10;

/// A merge with all its inputs at hand.
pub(super) struct Job {
    pub(super) config: MergeConfig,
    pub(super) options: PlanOptions,
    pub(super) inputs: Vec<Input>,
    pub(super) base: BaseFrom,
    pub(super) memory: MemoryRules,
    pub(super) seed: u64,
}

/// Tensors that nobody decided about.
#[derive(Debug, Error)]
#[error(
    "{} changed on both sides: {}{}; say what becomes of them with --method METHOD or --on-conflict ours, theirs or base (--dry-run lists all)",
    crate::bytes::counted(*count as u64, "tensor"),
    first.join(", "),
    if *count > first.len() { ", …" } else { "" }
)]
pub(super) struct Undecided {
    count: usize,
    first: Vec<String>,
}

impl Job {
    /// Plans the merge and verifies its inputs, unless nothing will be computed.
    pub(super) fn new(
        context: &Context,
        asked: Asked,
        memory: MemoryRules,
        seed: u64,
        is_dry: bool,
    ) -> Result<Self, Failure> {
        let Asked { config, options, inputs, base } = asked;
        let job = Self { config, options, inputs, base, memory, seed };
        if is_dry {
            return Ok(job);
        }
        // What can be refused without reading weights is refused first.
        if let Some(error) = Self::undecided(&job.plan()?) {
            return Err(Failure::refused(error));
        }
        let bar = Bar::new(context, "verifying");
        for input in &job.inputs {
            verify(context, &input.cartridge, &bar)?;
        }
        Ok(job)
    }

    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        Plan::new(&self.config, &self.models(), self.options).map_err(Failure::refused)
    }

    pub(super) fn models(&self) -> Vec<Model<'_>> {
        self.inputs.iter().map(Input::model).collect()
    }

    /// Refuses a plan that leaves something open.
    pub(super) fn undecided(plan: &Plan) -> Option<Undecided> {
        let names: Vec<String> = plan.conflicts().map(|tensor| tensor.name.to_string()).collect();
        let count = names.len();
        (count > 0).then(|| Undecided { count, first: names.into_iter().take(LISTED).collect() })
    }

    /// What is merged: both sides, or all models. A base of two sides is theirs already.
    pub(super) fn merged(&self) -> &[Input] {
        let merged = if self.options.three_way.is_some() { 2 } else { self.inputs.len() };
        &self.inputs[..merged.min(self.inputs.len())]
    }

    /// The commits of what is merged: both sides, or all models. A base of two sides is theirs already.
    pub(super) fn parents(&self) -> Vec<CommitId> {
        let mut parents = Vec::new();
        for commit in self.merged().iter().filter_map(Input::commit) {
            if !parents.contains(&commit) {
                parents.push(commit);
            }
        }
        parents
    }

    /// Everything that the result depends on.
    pub(super) fn recipe(&self, memory: &MemoryRules) -> Recipe {
        let input = |input: &Input| json!({ "manifest": input.id().hex(), "commit": input.commit().map(|id| id.hex()) });
        let inputs: Vec<Value> = self.inputs.iter().map(input).collect();
        let config = serde_json::to_value(&self.config).expect("a configuration has a JSON form");
        let recipe = super::recipe()
            .with("method", self.config.merge_method.name())
            .with("config", config)
            .with("inputs", inputs)
            .with("keep_float", self.options.keep_float)
            .with("memory", json!(memory))
            .with("seed", self.seed);
        match self.options.three_way {
            None => recipe,
            Some(sides) => recipe
                .with("on_conflict", json!(sides.on_conflict))
                .with("base_from", json!(self.base)),
        }
    }
}

/// Hashes a cartridge and refuses weights that are no numbers.
fn verify(context: &Context, cartridge: &Cartridge, bar: &Bar) -> Result<(), Failure> {
    let options = VerifyOptions { threads: context.threads, ..VerifyOptions::default() };
    let verified = cartridge.clone().verify(&options, bar).map_err(Failure::refused)?;
    verified.check_finite().map_err(Failure::refused)
}

/// What a recipe says again.
///
/// # Errors
/// It is not one of a merge, or an input is not in the store.
pub(super) fn read_recipe(
    context: &Context,
    recipe: &Recipe,
) -> Result<(Asked, MemoryRules, u64), Failure> {
    let field = |name: &str| recipe.details.get(name).cloned().unwrap_or(Value::Null);
    let unreadable = |what: &str| {
        let message = format!("the recipe of the merge has no `{what}` that this cart can read");
        Failure::refused_with(message, "a newer cart may have made it")
    };
    let config: MergeConfig =
        serde_json::from_value(field("config")).map_err(|_| unreadable("config"))?;
    config.check().map_err(Failure::refused)?;
    let on_conflict = match field("on_conflict").as_str() {
        None => None,
        Some("ours") => Some(OnConflict::Ours),
        Some("theirs") => Some(OnConflict::Theirs),
        Some("base") => Some(OnConflict::Base),
        Some("refuse") => Some(OnConflict::Refuse),
        Some("merge") => Some(OnConflict::Merge),
        Some(_) => return Err(unreadable("on_conflict")),
    };
    let base = match field("base_from").as_str() {
        Some("history") => BaseFrom::History,
        Some("given") => BaseFrom::Given,
        _ => BaseFrom::None,
    };
    let mut inputs = Vec::new();
    for input in field("inputs").as_array().ok_or_else(|| unreadable("inputs"))? {
        let id = input["manifest"].as_str().ok_or_else(|| unreadable("inputs"))?;
        let cartridge = history::open(context, id)?;
        inputs.push(Input::of(format!("sha256:{}", &id[..12.min(id.len())]), cartridge)?);
    }
    // Before memories were joined, recipes said nothing about them.
    let memory = match field("memory") {
        Value::Null => MemoryRules::default(),
        said => serde_json::from_value(said).map_err(|_| unreadable("memory"))?,
    };
    let seed = field("seed").as_u64().ok_or_else(|| unreadable("seed"))?;
    let keep_float = field("keep_float").as_bool().unwrap_or(false);
    let three_way = on_conflict.map(|on_conflict| cart_merge::weights::ThreeWay { on_conflict });
    let options = PlanOptions { three_way, keep_float };
    Ok((Asked { config, options, inputs, base }, memory, seed))
}
