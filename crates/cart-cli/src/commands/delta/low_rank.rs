//! `cart delta --rank` and `--adapter`: deltas of low rank.

use std::path::Path;
use std::time::Instant;

use cart_format::low_rank::{Change, How, LowRank, Source};
use cart_merge::low_rank::{Extraction, extract};
use cart_store::import::read_adapter;
use cart_store::{Cartridge, Progress as _, write_low_rank};
use serde::Serialize;

use super::DeltaArgs;
use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::held::{Held, Watching};
use crate::history;
use crate::progress::Bar;
use crate::report;

/// Tensors that people are shown.
const SHOWN: usize = 5;

#[derive(Serialize)]
struct LowRankReport {
    base: String,
    /// What is approximated; none of an adapter.
    target: Option<String>,
    /// SHA-256 of an adapter's weights.
    adapter: Option<String>,
    rank: u64,
    factored: u64,
    replaced: u64,
    /// ‖Δ − its approximation‖ / ‖Δ‖ over all weights.
    relative_error: Option<f64>,
    tensors: Vec<TensorRow>,
    /// Parts of the target that stay those of the base.
    left_out: Vec<&'static str>,
    output: String,
    file_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    shape: Vec<u64>,
    /// None where values are replaced.
    rank: Option<u64>,
    scale: Option<f64>,
    relative_error: Option<f64>,
}

/// `cart delta A B --rank R`.
pub(super) fn of_difference(
    context: &Context,
    args: &DeltaArgs,
    (target, rank): (&str, u64),
) -> Result<(), Failure> {
    let began = Instant::now();
    let [base, target] = [args.base.as_str(), target].map(|name| history::verified(context, name));
    let (base, target) = (base?, target?);
    let (a, b) = (base.cartridge(), target.cartridge());
    let bar = Bar::new(context, "extracting");
    bar.total(cart_merge::diff::DiffPlan::new(a.manifest(), b.manifest()).work());
    let sides = [a, b].map(|of| (of.manifest_id(), of.manifest()));
    let held = Held(vec![a, b]);
    let found = extract(sides, rank, &held, &Watching(&bar)).map_err(Failure::refused)?;
    drop(bar);
    let Extraction { delta, .. } = &found;
    let written = write_low_rank(delta, &args.output).map_err(Failure::refused)?;
    let mut body = LowRankReport::new(delta, &args.output, written);
    body.left_out = left_out(a, b);
    body.seconds = began.elapsed().as_secs_f64();
    body.print(context)
}

/// `cart delta A --adapter FOLDER`.
pub(super) fn of_adapter(
    context: &Context,
    args: &DeltaArgs,
    folder: &Path,
) -> Result<(), Failure> {
    let began = Instant::now();
    let base = history::open(context, &args.base)?;
    let delta = read_adapter(folder, (base.manifest_id(), base.manifest()));
    let delta = delta.map_err(Failure::refused)?;
    let written = write_low_rank(&delta, &args.output).map_err(Failure::refused)?;
    let mut body = LowRankReport::new(&delta, &args.output, written);
    body.seconds = began.elapsed().as_secs_f64();
    body.print(context)
}

/// What a delta of weights leaves as it is in A, though B has it otherwise.
fn left_out(a: &Cartridge, b: &Cartridge) -> Vec<&'static str> {
    let (a, b) = (a.manifest(), b.manifest());
    let parts = [
        ("memory", b.memory.is_none() || a.memory == b.memory),
        ("session", b.session.is_none() || a.session == b.session),
        ("metadata", a.metadata == b.metadata),
        ("tokenizer settings", a.tokenizer == b.tokenizer),
    ];
    parts.into_iter().filter(|(_, same)| !same).map(|(part, _)| part).collect()
}

impl LowRankReport {
    fn new(delta: &LowRank, output: &Path, file_bytes: u64) -> Self {
        let (target, adapter, relative_error) = match &delta.source {
            Source::Difference { target, error, .. } => (Some(target.hex()), None, Some(*error)),
            Source::Adapter { weights } => (None, Some(weights.hex()), None),
        };
        let replaced = delta.tensors.iter().filter(|one| one.rank().is_none()).count();
        Self {
            base: delta.base.hex(),
            target,
            adapter,
            rank: delta.tensors.iter().filter_map(Change::rank).max().unwrap_or(0),
            factored: (delta.tensors.len() - replaced) as u64,
            replaced: replaced as u64,
            relative_error,
            tensors: delta.tensors.iter().map(TensorRow::of).collect(),
            left_out: Vec::new(),
            output: output.display().to_string(),
            file_bytes,
            seconds: 0.0,
        }
    }

    fn print(&self, context: &Context) -> Result<(), Failure> {
        if context.json {
            return report::print("delta-low-rank", self);
        }
        report::line(&format!(
            "wrote {}  {}; {}",
            self.output,
            human(self.file_bytes),
            seconds(self.seconds)
        ))?;
        report::line(&format!(
            "  {} of rank {} or less, {} replaced",
            counted(self.factored, "tensor"),
            self.rank,
            self.replaced
        ))?;
        if let Some(error) = self.relative_error {
            let share = error * 100.0;
            report::line(&format!("  {share:.2} % of the change is left out (‖Δ − ΔR‖ / ‖Δ‖)"))?;
            let mut rows: Vec<_> = self.tensors.iter().collect();
            let of = |row: &TensorRow| row.relative_error.unwrap_or(0.0);
            rows.sort_by(|a, b| of(b).total_cmp(&of(a)).then(a.name.cmp(&b.name)));
            for row in rows.iter().filter(|row| of(row) > 0.0).take(SHOWN) {
                report::line(&format!("    {:>6.2} %  {}", of(row) * 100.0, row.name))?;
            }
            if rows.len() > SHOWN {
                report::line("    … (--json lists all)")?;
            }
        }
        if !self.left_out.is_empty() {
            let parts = self.left_out.join(", ");
            report::line(&format!("  weights alone: {parts} of B are not in it"))?;
        }
        Ok(())
    }
}

impl TensorRow {
    fn of(change: &Change) -> Self {
        let (scale, relative_error) = match &change.how {
            How::Add { scale, error, .. } => (Some(*scale), *error),
            How::Replace(_) => (None, None),
        };
        let (name, shape, rank) = (change.name.to_string(), change.shape(), change.rank());
        Self { name, shape, rank, scale, relative_error }
    }
}
