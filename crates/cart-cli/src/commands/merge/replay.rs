//! `cart merge --replay`: making a merge again.

use std::time::Instant;

use cart_format::Manifest;
use serde::Serialize;

use super::RECIPE;
use super::job::{Job, read_recipe};
use super::memories::Remembering;
use super::work;
use crate::bytes::{counted, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// What came of making a merge again.
#[derive(Serialize)]
struct ReplayReport {
    commit: String,
    /// What the merge gave.
    manifest: String,
    /// What it gives now.
    again: String,
    equal: bool,
    /// Tensors that differ.
    tensors: Vec<String>,
    /// Other parts that differ: architecture, tokenizer, memory, metadata.
    parts: Vec<&'static str>,
    /// Tensors that were computed.
    computed: usize,
    seconds: f64,
}

pub(super) fn run(context: &Context, reference: &str) -> Result<(), Failure> {
    let began = Instant::now();
    let merged = history::open(context, reference)?;
    let found = merged.commit().filter(|(_, commit)| commit.recipe.kind == RECIPE);
    let Some((commit, recipe)) = found.map(|(id, commit)| (id, commit.recipe.clone())) else {
        let message =
            format!("{reference} was not made by `cart merge`, so there is nothing to replay");
        return Err(Failure::refused_with(message, "`cart log` shows what made each commit"));
    };
    let (asked, memory, seed) = read_recipe(context, &recipe)?;
    let job = Job::new(context, asked, memory, seed, false)?;
    let plan = job.plan()?;
    let mut remembering = Remembering::new(context, &job, &plan)?;
    let store = context.store()?;
    let made = work::rehearse(context, &store, &job, &plan, &mut remembering, &merged)?;
    let again = made.manifest.id().map_err(Failure::bug)?;
    let body = ReplayReport {
        commit: commit.hex(),
        manifest: merged.manifest_id().hex(),
        again: again.hex(),
        equal: again == merged.manifest_id(),
        tensors: differing_tensors(merged.manifest(), &made.manifest),
        parts: differing_parts(merged.manifest(), &made.manifest),
        computed: plan
            .tensors
            .iter()
            .filter(|one| matches!(one.how, cart_merge::weights::How::Merge(_)))
            .count(),
        seconds: began.elapsed().as_secs_f64(),
    };
    if context.json {
        report::print("merge-replay", &body)?;
    } else {
        report::stdout(render(&body).as_bytes())?;
    }
    if body.equal { Ok(()) } else { Err(Failure::Found) }
}

fn differing_tensors(a: &Manifest, b: &Manifest) -> Vec<String> {
    let (a, b) = (&a.model.tensors, &b.model.tensors);
    let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
    let differing = names.filter(|name| a.get(*name) != b.get(*name));
    differing.map(ToString::to_string).collect()
}

fn differing_parts(a: &Manifest, b: &Manifest) -> Vec<&'static str> {
    let parts = [
        ("architecture", a.model.architecture == b.model.architecture),
        ("tokenizer", a.tokenizer == b.tokenizer),
        ("memory", a.memory == b.memory),
        ("metadata", a.metadata == b.metadata),
    ];
    parts.into_iter().filter(|(_, same)| !same).map(|(part, _)| part).collect()
}

fn render(body: &ReplayReport) -> String {
    let computed = counted(body.computed as u64, "tensor");
    if body.equal {
        return format!(
            "the same again  sha256:{}\n  {computed} computed, {}\n",
            body.manifest,
            seconds(body.seconds)
        );
    }
    let first =
        format!("not the same: it was sha256:{}, now it is sha256:{}\n", body.manifest, body.again);
    let parts = body.parts.iter().map(|part| (*part).to_owned());
    let differing = body.tensors.iter().cloned().chain(parts);
    std::iter::once(first).chain(differing.map(|what| format!("  ~ {what}\n"))).collect()
}
