//! Adding a low-rank delta, or an adapter, to its base.

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::low_rank::{How, LowRank, Source};
use cart_format::{Manifest, ManifestId, Recipe, TensorEntry};
use cart_merge::low_rank::{Added, plan};
use cart_merge::weights::{Model, Plan, QuantizationError};
use cart_store::{Cartridge, Silent, SourceRange, Store};
use serde::Serialize;

use super::{ApplyOptions, ApplyReport, stored};
use crate::computed::Computed;
use crate::context::Context;
use crate::failure::Failure;
use crate::held::Held;
use crate::history::{self, NewCommit};

/// What adding a low-rank delta did.
#[derive(Serialize)]
pub(super) struct Addition {
    /// What it approximates; none of an adapter.
    target: Option<String>,
    /// SHA-256 of an adapter's weights.
    adapter: Option<String>,
    /// Whether the result is the target, bit for bit.
    exact: bool,
    /// ‖Δ − its approximation‖ / ‖Δ‖ over all weights, by the delta.
    relative_error: Option<f64>,
    /// Tensors to which products were added.
    added: u64,
    /// Tensors whose values were replaced.
    replaced: u64,
    /// Whether quantized tensors were left float.
    keep_float: bool,
    /// Tensors that were quantized again.
    quantized_again: u64,
    /// The greatest error of that, as a share of the values' root mean square.
    quantization_error: Option<f64>,
    /// Whether the base remembers something that is of its own weights alone.
    memory_left: bool,
}

/// Makes the cartridge and its commit.
pub(super) fn apply(
    context: &Context,
    options: &ApplyOptions<'_>,
    (delta, source): (&LowRank, &Path),
    base: Cartridge,
) -> Result<ApplyReport, Failure> {
    let found = base.manifest_id();
    let held = plan_for(&base, delta, options.keep_float)?;
    let parent = base.commit().map(|(id, _)| id);
    let store = context.store_or_new()?;
    let guard = store.hold().map_err(Failure::refused)?;
    let base = history::verify(context, stored(&store, base)?)?;
    base.check_finite().map_err(Failure::refused)?;
    let base = base.cartridge();
    let made = carry_out(context, &store, base, delta, &held)?;
    let manifest = store.put_manifest(&made.manifest).map_err(Failure::refused)?;
    let new = NewCommit {
        manifest,
        parents: parent.into_iter().collect(),
        recipe: recipe(found, delta, options.keep_float),
        message: options.message.to_owned(),
        probes: Vec::new(),
    };
    let commit = history::commit(&store, new, options.tag)?;
    drop(guard);
    let changed = delta.tensors.len() as u64;
    Ok(ApplyReport {
        base: found.hex(),
        manifest: manifest.hex(),
        commit: commit.hex(),
        name: options.tag.map(ToString::to_string),
        delta: source.display().to_string(),
        blobs: made.manifest.blobs.len() as u64,
        bytes: made.manifest.total_bytes(),
        unpacked_blobs: changed,
        unpacked_bytes: made.computed_bytes,
        new_blobs: made.new.0,
        new_bytes: made.new.1,
        low_rank: Some(Addition::new(delta, manifest, &made.lost, (base, options.keep_float))),
        output: None,
        output_bytes: None,
        seconds: 0.0,
    })
}

fn model(base: &Cartridge) -> Model<'_> {
    Model {
        name: base.manifest_id().hex(),
        label: "the base".to_owned(),
        id: base.manifest_id(),
        manifest: base.manifest(),
        tokenizer: None,
    }
}

fn plan_for(base: &Cartridge, delta: &LowRank, keep_float: bool) -> Result<Plan, Failure> {
    plan(&model(base), delta, keep_float).map_err(Failure::refused)
}

/// Everything that the result depends on.
fn recipe(base: ManifestId, delta: &LowRank, keep_float: bool) -> Recipe {
    let recipe = Recipe::new("apply").with("tool", history::tool()).with("base", base.hex());
    let recipe = recipe.with("keep_float", keep_float);
    match &delta.source {
        Source::Difference { target, rank, error } => recipe
            .with("approximates", target.hex())
            .with("rank", *rank)
            .with("relative_error", *error),
        Source::Adapter { weights } => recipe.with("adapter", weights.hex()),
    }
}

struct Made {
    manifest: Manifest,
    lost: BTreeMap<usize, QuantizationError>,
    computed_bytes: u64,
    /// Blobs that the store did not have, and their bytes.
    new: (u64, u64),
}

fn carry_out(
    context: &Context,
    store: &Store,
    base: &Cartridge,
    delta: &LowRank,
    plan: &Plan,
) -> Result<Made, Failure> {
    let computed = Computed::of(plan);
    let drafts = store.drafts(computed.lens(plan)).map_err(Failure::refused)?;
    let held = Held(vec![base]);
    let added = Added::new(&held, delta);
    let lost = computed.run((context, "adding"), plan, 0, &added, &drafts)?;
    let made = drafts.publish().map_err(Failure::refused)?;
    let (replaced, of_replaced) = replaced(store, delta)?;
    let news: Vec<u64> = made.iter().map(|blob| blob.new_bytes).chain(of_replaced).collect();
    let values = Model { manifest: &replaced, ..model(base) };
    let manifest = plan.manifest(&[model(base), values], &computed.outputs(made), None);
    let new = (news.iter().filter(|bytes| **bytes > 0).count() as u64, news.iter().sum());
    Ok(Made { manifest, lost, computed_bytes: plan.computed_bytes(), new })
}

/// The values that replace others, as a model, and how many bytes of each are new.
fn replaced(store: &Store, delta: &LowRank) -> Result<(Manifest, Vec<u64>), Failure> {
    let mut manifest = Manifest::new();
    let mut new = Vec::new();
    for change in &delta.tensors {
        let How::Replace(values) = &change.how else { continue };
        let source = SourceRange::bytes(values.bytes.as_slice());
        let mut made = store.ingest(&[source], &Silent).map_err(Failure::refused)?;
        let made = made.pop().expect("one blob was taken in");
        let (dtype, shape) = (values.dtype, values.shape.clone());
        let entry = TensorEntry { dtype, shape, blob: made.blob };
        manifest.model.tensors.insert(change.name.clone(), entry);
        manifest.blobs.insert(made.blob, made.entry);
        new.push(made.new_bytes);
    }
    Ok((manifest, new))
}

impl Addition {
    fn new(
        delta: &LowRank,
        result: ManifestId,
        lost: &BTreeMap<usize, QuantizationError>,
        (base, keep_float): (&Cartridge, bool),
    ) -> Self {
        let (target, adapter, relative_error) = match &delta.source {
            Source::Difference { target, error, .. } => (Some(*target), None, Some(*error)),
            Source::Adapter { weights } => (None, Some(weights.hex()), None),
        };
        let replaced = delta.tensors.iter().filter(|one| one.rank().is_none()).count();
        let share = |lost: &QuantizationError| {
            if lost.rms > 0.0 { lost.rmse / lost.rms } else { 0.0 }
        };
        Self {
            exact: target == Some(result),
            target: target.map(|target| target.hex()),
            adapter,
            relative_error,
            added: (delta.tensors.len() - replaced) as u64,
            replaced: replaced as u64,
            keep_float,
            quantized_again: lost.len() as u64,
            quantization_error: lost.values().map(share).max_by(f64::total_cmp),
            memory_left: base.manifest().memory.is_some(),
        }
    }

    /// What people are told.
    pub(super) fn said(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.push(match (&self.target, self.relative_error) {
            (Some(target), _) if self.exact => format!("  it is sha256:{target}, bit for bit"),
            (Some(target), Some(error)) => format!(
                "  near sha256:{}: {:.2} % of the change is left out",
                &target[..12],
                error * 100.0
            ),
            _ => format!("  the adapter was added to {} tensors", self.added),
        });
        if let Some(error) = self.quantization_error {
            lines.push(format!(
                "  {} quantized again, error up to {:.2} % of the values; --keep-float avoids that",
                self.quantized_again,
                error * 100.0
            ));
        }
        if self.memory_left {
            lines.push(
                "  what the base remembers is of its weights; `cart memory migrate` brings it over"
                    .to_owned(),
            );
        }
        lines
    }
}
