//! Carrying a plan out on a store.

use std::collections::BTreeMap;

use cart_format::Manifest;
use cart_merge::weights::{Output, Plan, QuantizationError, TokenizerPlan};
use cart_store::{Cartridge, Ingested, Silent, SourceRange, Store};

use super::job::Job;
use super::memories::Remembering;
use crate::computed::Computed;
use crate::context::Context;
use crate::failure::Failure;
use crate::held::Held;
use crate::history;

/// What was made.
pub(super) struct Made {
    pub(super) manifest: Manifest,
    /// What quantizing lost, by the index of the tensor.
    pub(super) lost: BTreeMap<usize, QuantizationError>,
    /// Blobs that the store did not have, and their bytes.
    pub(super) new: (u64, u64),
}

/// Computes and keeps.
pub(super) fn carry_out(
    context: &Context,
    store: &Store,
    job: &Job,
    plan: &Plan,
    remembering: &mut Remembering,
) -> Result<Made, Failure> {
    // What is taken as it is has to be in the store.
    for input in &job.inputs {
        if input.cartridge.place() != store.root() {
            store.import_cart(input.cartridge.place(), &Silent).map_err(Failure::refused)?;
        }
    }
    let computed = Computed::of(plan);
    let drafts = store.drafts(computed.lens(plan)).map_err(Failure::refused)?;
    let lost = computed.run((context, "merging"), plan, job.seed, &held(job), &drafts)?;
    let made = drafts.publish().map_err(Failure::refused)?;
    let document = document(store, plan)?;
    let mut made = finish(job, plan, &computed, made, document, lost);
    if remembering.waits_for_model() {
        let model = cart_engine::without_memory(&made.manifest);
        let model = store.put_manifest(&model).map_err(Failure::refused)?;
        remembering.migrate(job, &history::load(context, &model.hex())?.0)?;
    }
    for blob in remembering.keep(store, job, &mut made.manifest)? {
        made.new.0 += u64::from(blob.new_bytes > 0);
        made.new.1 += blob.new_bytes;
    }
    Ok(made)
}

/// Computes, to see what comes of it, and keeps nothing.
///
/// * `before`: what came of it the first time
pub(super) fn rehearse(
    context: &Context,
    store: &Store,
    job: &Job,
    plan: &Plan,
    remembering: &mut Remembering,
    before: &Cartridge,
) -> Result<Made, Failure> {
    let computed = Computed::of(plan);
    let drafts = store.passing_drafts(computed.lens(plan)).map_err(Failure::refused)?;
    let lost = computed.run((context, "merging"), plan, job.seed, &held(job), &drafts)?;
    let made = drafts.identify();
    let document = match &plan.tokenizer {
        TokenizerPlan::Of(_) => None,
        TokenizerPlan::New { document, .. } => {
            let draft = store.passing_drafts([document.len() as u64]).map_err(Failure::refused)?;
            draft.keep(&[(0, document.as_slice())]).map_err(Failure::refused)?;
            draft.identify().pop()
        }
    };
    let mut made = finish(job, plan, &computed, made, document, lost);
    // The model is at hand where it is what it was; else the memory differs with it.
    let is_as_before = cart_engine::without_memory(&made.manifest)
        == cart_engine::without_memory(before.manifest());
    if remembering.waits_for_model() && is_as_before {
        remembering.migrate(job, &history::load(context, &before.manifest_id().hex())?.0)?;
    }
    remembering.rehearse(store, job, &mut made.manifest)?;
    Ok(made)
}

fn held(job: &Job) -> Held<'_> {
    Held(job.inputs.iter().map(|input| &input.cartridge).collect())
}

/// Keeps a new tokenizer's document, if there is one.
fn document(store: &Store, plan: &Plan) -> Result<Option<Ingested>, Failure> {
    let TokenizerPlan::New { document, .. } = &plan.tokenizer else { return Ok(None) };
    let source = SourceRange::bytes(document.as_slice());
    let mut made = store.ingest(&[source], &Silent).map_err(Failure::refused)?;
    Ok(made.pop())
}

fn finish(
    job: &Job,
    plan: &Plan,
    computed: &Computed,
    made: Vec<Ingested>,
    document: Option<Ingested>,
    lost: BTreeMap<usize, QuantizationError>,
) -> Made {
    let of_document = document.iter().map(|blob| blob.new_bytes);
    let new: Vec<u64> = made.iter().map(|blob| blob.new_bytes).chain(of_document).collect();
    let new = (new.iter().filter(|bytes| **bytes > 0).count() as u64, new.iter().sum());
    let outputs = computed.outputs(made);
    let document = document.map(|made| Output { blob: made.blob, entry: made.entry });
    Made { manifest: plan.manifest(&job.models(), &outputs, document.as_ref()), lost, new }
}
