//! A commit for each epoch.

use std::collections::BTreeMap;

use cart_format::Recipe;
use cart_train::agent::{Agent, Measured};
use serde_json::{Value, json};

use super::super::keep::{self, RECIPE};
use super::{AgentArgs, Kept, memory};
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, NewCommit};

/// When epochs end, and where they are kept.
pub(super) struct Epochs<'a> {
    context: &'a Context,
    args: &'a AgentArgs,
    /// Steps of one.
    steps: u64,
}

impl<'a> Epochs<'a> {
    pub(super) fn new(context: &'a Context, args: &'a AgentArgs, steps: u64) -> Self {
        Self { context, args, steps: steps.max(1) }
    }

    pub(super) fn ends_at(&self, step: u64) -> bool {
        step.is_multiple_of(self.steps)
    }

    /// Epochs that were begun, the last of which may be cut short.
    pub(super) fn number(&self, step: u64) -> u64 {
        step.div_ceil(self.steps)
    }

    /// Keeps the model as it is after `step`, verified. The commit of a run that was killed before
    /// it noted its step down is found again.
    pub(super) fn keep(
        &self,
        agent: &Agent,
        step: u64,
        measured: Measured,
        recipe: &Value,
    ) -> Result<Kept, Failure> {
        let store = self.context.store_or_new()?;
        let held = store.hold().map_err(Failure::refused)?;
        let bare = agent.put(&store, self.metadata()).map_err(Failure::refused)?;
        let (manifest, memory) = match agent.notebook() {
            Some(notebook) => {
                let (manifest, report) = memory::remembering(self.context, &store, bare, notebook)?;
                (manifest, Some(report))
            }
            None => (bare, None),
        };
        let before = keep::of_run(&store, &self.args.tag, recipe)?;
        let commit = match before {
            Some((commit, found)) if found == manifest => commit,
            before => {
                let new = NewCommit {
                    manifest,
                    parents: before.map(|(commit, _)| commit).into_iter().collect(),
                    recipe: said(recipe, step, measured),
                    message: format!("epoch {}", self.number(step)),
                    probes: Vec::new(),
                };
                history::commit(&store, new, Some(&self.args.tag))?
            }
        };
        drop(held);
        history::verified(self.context, &self.args.tag.to_string())?;
        Ok(Kept { manifest: manifest.hex(), commit, memory })
    }

    /// Facts about the content. What a cartridge is does not depend on its name.
    fn metadata(&self) -> BTreeMap<String, Value> {
        BTreeMap::from([("spec".to_owned(), Value::from(self.args.spec.to_string()))])
    }
}

/// What a commit says about how it came about.
fn said(recipe: &Value, step: u64, measured: Measured) -> Recipe {
    Recipe::new(RECIPE)
        .with("tool", history::tool())
        .with("run", recipe.clone())
        .with("step", step)
        .with("held_out_bits_per_byte", json!(measured.bits_per_byte))
}
