//! The cartridges that `cart serve` answers with.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use cart_engine::runtime::{Runtime, RuntimeOptions};
use cart_engine::swap::MemoryAccount;
use cart_format::ManifestId;
use cart_server::{ModelRules, Models};
use clap::Args;

use super::watching::seconds;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;

/// Which cartridges are loaded, and how much they may take.
#[derive(Args)]
#[command(next_help_heading = "Several cartridges")]
pub(crate) struct ModelArgs {
    /// Most MiB that the weights, tokenizers and memories of all loaded cartridges may take together [default: what the
    /// system has]; what needs more is refused
    #[arg(long, value_name = "MIB")]
    memory_budget: Option<NonZeroU32>,
    /// Load a cartridge of the store when a request names it as its `model`; where there is no room, the one that nobody
    /// has asked for longest is unloaded
    #[arg(long, conflicts_with = "ltm")]
    on_demand: bool,
    /// With --on-demand: unload a cartridge, the first one apart, that nobody has asked for so many seconds; what it
    /// remembers is kept
    #[arg(long, value_name = "SECONDS", requires = "on_demand")]
    idle_unload: Option<f64>,
}

/// What is served at the beginning.
pub(super) struct Served {
    /// What answers requests that name no model.
    pub(super) first: Runtime,
    pub(super) models: Models,
    /// Every name with its cartridge.
    pub(super) names: Vec<(String, ManifestId)>,
}

impl ModelArgs {
    /// What all cartridges may take.
    pub(super) fn account(&self) -> MemoryAccount {
        MemoryAccount::new(self.memory_budget.map(|mebibytes| u64::from(mebibytes.get()) << 20))
    }

    /// Loads the cartridges, one after the other.
    pub(super) fn start(
        &self,
        context: &Context,
        references: &[String],
        options: RuntimeOptions,
    ) -> Result<Served, Failure> {
        let idle_unload = self.idle_unload.map(idle_time).transpose()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = references.iter().find(|reference| !seen.insert(*reference)) {
            return Err(Failure::arguments(format!("{twice} is given twice; once is enough")));
        }
        if references.len() > 1 && options.long_term.is_some() {
            return Err(Failure::arguments(
                "--ltm is of one cartridge, and several are given; serve each by a server of its own",
            ));
        }
        let mut names = Vec::new();
        let mut start = |reference: &String| {
            let cartridge = history::open(context, reference)?;
            names.push((reference.clone(), cartridge.manifest_id()));
            Runtime::start(reference, cartridge, options.clone()).map_err(Failure::refused)
        };
        let (reference, others) = references
            .split_first()
            .ok_or_else(|| Failure::arguments("REF is needed: what is to be served"))?;
        let first = start(reference)?;
        let others = others
            .iter()
            .map(|reference| Ok((reference.clone(), start(reference)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        let models = if others.is_empty() && !self.on_demand {
            Models::one(first.handle())
        } else {
            let rules = ModelRules { on_demand: self.on_demand, idle_unload, options };
            Models::several((reference, first.handle()), others, rules)
        };
        Ok(Served { first, models, names })
    }
}

fn idle_time(given: f64) -> Result<Duration, Failure> {
    let idle = seconds("--idle-unload", given)?;
    if idle.is_zero() {
        return Err(Failure::arguments("--idle-unload is 0; allowed: more than 0 seconds"));
    }
    Ok(idle)
}
