//! What a merge did, or would do.

use std::collections::BTreeMap;

use cart_format::{CommitId, ManifestId};
use cart_merge::weights::{Cause, How, Plan, PlannedTensor, Step, TokenizerPlan};
use cart_store::RefName;
use serde::Serialize;

use super::inputs::{BaseFrom, Input};
use super::job::Job;
use super::memories::{MemoryReport, Remembering};
use super::work::Made;
use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// Tensors that people are shown of each kind.
const SHOWN: usize = 10;

/// What a merge did, or would do.
#[derive(Serialize)]
pub(super) struct MergeReport {
    method: String,
    seed: u64,
    random: bool,
    inputs: Vec<InputReport>,
    base: Option<String>,
    base_from: BaseFrom,
    counts: Counts,
    computed_bytes: u64,
    tensors: Vec<TensorReport>,
    tokenizer: TokenizerReport,
    memory: MemoryReport,
    result: Option<ResultReport>,
    pub(super) seconds: f64,
}

#[derive(Serialize)]
struct InputReport {
    label: String,
    manifest: String,
    commit: Option<String>,
}

/// Tensors by what becomes of them.
#[derive(Default, Serialize)]
struct Counts {
    /// The same everywhere.
    same: usize,
    /// Taken from ours, which changed it alone.
    ours: usize,
    /// Taken from theirs, which changed it alone.
    theirs: usize,
    /// Taken from one input because it was so chosen.
    chosen: usize,
    merged: usize,
    conflicts: usize,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    cause: Cause,
    becomes: Becomes,
    /// The input that it is taken from.
    from: Option<String>,
    /// How it is computed.
    step: Option<Step>,
    /// What quantizing lost.
    rmse: Option<f64>,
    /// That as a share of the root mean square.
    relative_error: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Becomes {
    Taken,
    Merged,
    Conflict,
}

#[derive(Serialize)]
struct TokenizerReport {
    from: String,
    added_tokens: usize,
}

#[derive(Serialize)]
struct ResultReport {
    name: Option<String>,
    manifest: String,
    commit: String,
    tensors: usize,
    bytes: u64,
    new_blobs: u64,
    new_bytes: u64,
}

impl MergeReport {
    pub(super) fn of_plan(job: &Job, plan: &Plan, remembering: &Remembering) -> Self {
        let input = |input: &Input| InputReport {
            label: input.label.clone(),
            manifest: input.id().hex(),
            commit: input.commit().map(|id| id.hex()),
        };
        let label = |index: usize| job.inputs[index].label.clone();
        let named = job.config.base_model.as_ref();
        let base = job.inputs.iter().find(|input| Some(&input.id().hex()) == named);
        let (owner, added_tokens) = match plan.tokenizer {
            TokenizerPlan::Of(owner) => (owner, 0),
            TokenizerPlan::New { added, .. } => (plan.frame, added),
        };
        Self {
            method: job.config.merge_method.to_string(),
            seed: job.seed,
            random: plan.is_random(),
            inputs: job.inputs.iter().map(input).collect(),
            base: base.map(|base| base.label.clone()),
            base_from: job.base,
            counts: Counts::of(plan),
            computed_bytes: plan.computed_bytes(),
            tensors: plan.tensors.iter().map(|tensor| TensorReport::of(tensor, job)).collect(),
            tokenizer: TokenizerReport { from: label(owner), added_tokens },
            memory: MemoryReport::new(job, remembering),
            result: None,
            seconds: 0.0,
        }
    }

    pub(super) fn set_result(
        &mut self,
        name: Option<&RefName>,
        manifest: ManifestId,
        commit: CommitId,
        made: &Made,
    ) {
        for (index, lost) in &made.lost {
            let tensor = &mut self.tensors[*index];
            tensor.rmse = Some(lost.rmse);
            tensor.relative_error = Some(if lost.rms > 0.0 { lost.rmse / lost.rms } else { 0.0 });
        }
        self.result = Some(ResultReport {
            name: name.map(ToString::to_string),
            manifest: manifest.hex(),
            commit: commit.hex(),
            tensors: made.manifest.model.tensors.len(),
            bytes: made.manifest.total_bytes(),
            new_blobs: made.new.0,
            new_bytes: made.new.1,
        });
    }

    pub(super) fn print(&self, context: &Context) -> Result<(), Failure> {
        if context.json {
            return report::print("merge", self);
        }
        report::stdout(self.render().as_bytes())
    }

    fn render(&self) -> String {
        let mut lines = Vec::new();
        let names: Vec<&str> = self.inputs.iter().map(|input| input.label.as_str()).collect();
        match &self.result {
            Some(result) => lines.push(format!(
                "merged {}  sha256:{}",
                result.name.as_deref().unwrap_or("(no name)"),
                result.manifest
            )),
            None => lines.push(format!("would merge {}", names.join(", "))),
        }
        lines.push(format!("  of {}", self.origin(&names)));
        let Counts { same, ours, theirs, chosen, merged, conflicts } = self.counts;
        let counts = [
            (same, "the same"),
            (ours, "changed in ours alone"),
            (theirs, "changed in theirs alone"),
            (chosen, "taken from one input"),
            (merged, "merged"),
            (conflicts, "in conflict"),
        ];
        let said = counts.iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = said.map(|(count, what)| format!("{count} {what}")).collect();
        lines.push(format!(
            "  {}: {}",
            counted(self.tensors.len() as u64, "tensor"),
            said.join(", ")
        ));
        if self.result.is_none() {
            lines.extend(self.listed());
        }
        lines.extend(self.lost());
        if self.tokenizer.added_tokens > 0 {
            let added = counted(self.tokenizer.added_tokens as u64, "token");
            lines.push(format!("  tokenizer: {}'s and {added} more", self.tokenizer.from));
        }
        lines.extend(self.memory.said());
        if let Some(result) = &self.result {
            lines.push(format!(
                "  {}, new: {}, {}; {}",
                human(result.bytes),
                counted(result.new_blobs, "blob"),
                human(result.new_bytes),
                seconds(self.seconds),
            ));
        } else {
            lines.push(format!("  {} to compute; nothing was done", human(self.computed_bytes)));
        }
        lines.join("\n") + "\n"
    }

    fn origin(&self, names: &[&str]) -> String {
        let seed = if self.random { format!(", seed {}", self.seed) } else { String::new() };
        let base = match (&self.base, self.base_from) {
            (None, _) => String::new(),
            (Some(base), BaseFrom::History) => format!(", base {base} (from history)"),
            (Some(base), _) => format!(", base {base}"),
        };
        format!("{}{base}; {}{seed}", names.join(", "), self.method)
    }

    /// The tensors that are not the same everywhere, some of each kind.
    fn listed(&self) -> Vec<String> {
        let mut shown: BTreeMap<(u8, Cause), usize> = BTreeMap::new();
        let mut lines = Vec::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.cause != Cause::Same) {
            let count = shown.entry((tensor.becomes as u8, tensor.cause)).or_default();
            *count += 1;
            if *count <= SHOWN {
                let sign = match tensor.becomes {
                    Becomes::Taken => format!("< {}", tensor.from.as_deref().unwrap_or_default()),
                    Becomes::Merged => "~ merged".to_owned(),
                    Becomes::Conflict => "! conflict".to_owned(),
                };
                lines.push(format!(
                    "    {sign}  {} {} {:?}",
                    tensor.name, tensor.dtype, tensor.shape
                ));
            }
        }
        let more: usize = shown.values().map(|count| count.saturating_sub(SHOWN)).sum();
        if more > 0 {
            lines.push(format!("    … and {more} more (--json lists all)"));
        }
        lines
    }

    fn lost(&self) -> Option<String> {
        let errors: Vec<f64> = self.tensors.iter().filter_map(|one| one.relative_error).collect();
        let worst = self.tensors.iter().max_by(|a, b| {
            a.relative_error.unwrap_or(-1.0).total_cmp(&b.relative_error.unwrap_or(-1.0))
        })?;
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        (!errors.is_empty()).then(|| {
            format!(
                "  quantized again: {}, mean error {:.2} % of the values, most in {} ({:.2} %, RMSE {:.2e})",
                counted(errors.len() as u64, "tensor"),
                mean * 100.0,
                worst.name,
                worst.relative_error.unwrap_or(0.0) * 100.0,
                worst.rmse.unwrap_or(0.0),
            )
        })
    }
}

impl Counts {
    fn of(plan: &Plan) -> Self {
        let mut counts = Self::default();
        for tensor in &plan.tensors {
            let count = match (&tensor.how, tensor.cause) {
                (How::Conflict, _) => &mut counts.conflicts,
                (How::Merge(_), _) => &mut counts.merged,
                (How::Take { .. }, Cause::Same) => &mut counts.same,
                (How::Take { .. }, Cause::Ours) => &mut counts.ours,
                (How::Take { .. }, Cause::Theirs) => &mut counts.theirs,
                (How::Take { .. }, Cause::Both | Cause::Configured) => &mut counts.chosen,
            };
            *count += 1;
        }
        counts
    }
}

impl TensorReport {
    fn of(tensor: &PlannedTensor, job: &Job) -> Self {
        let (becomes, from, step) = match &tensor.how {
            How::Take { model, .. } => {
                (Becomes::Taken, Some(job.inputs[*model].label.clone()), None)
            }
            How::Merge(merging) => (Becomes::Merged, None, Some(merging.step.clone())),
            How::Conflict => (Becomes::Conflict, None, None),
        };
        Self {
            name: tensor.name.to_string(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            cause: tensor.cause,
            becomes,
            from,
            step,
            rmse: None,
            relative_error: None,
        }
    }
}
