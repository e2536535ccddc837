//! Carrying a plan out on a store.

use std::collections::BTreeMap;

use cart_format::Manifest;
use cart_merge::weights::{
    How, MergeError, Output, Plan, QuantizationError, Sink, TokenizerPlan, Trouble,
};
use cart_store::{Cartridge, Drafts, Ingested, Progress as _, Silent, SourceRange, Store};

use super::job::Job;
use super::memories::Remembering;
use crate::context::Context;
use crate::failure::Failure;
use crate::held::{Held, Watching};
use crate::history;
use crate::progress::Bar;

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
    let lost = computed.run(context, job, plan, &drafts)?;
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
    let lost = computed.run(context, job, plan, &drafts)?;
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
    let output = |made: Ingested| Output { blob: made.blob, entry: made.entry };
    let outputs = computed.tensors.iter().copied().zip(made.into_iter().map(output)).collect();
    let document = document.map(output);
    Made { manifest: plan.manifest(&job.models(), &outputs, document.as_ref()), lost, new }
}

/// The tensors that are computed, which are the drafts.
struct Computed {
    tensors: Vec<usize>,
    /// The draft of each tensor of the plan.
    drafts: BTreeMap<usize, usize>,
}

impl Computed {
    fn of(plan: &Plan) -> Self {
        let is_computed = |index: &usize| matches!(plan.tensors[*index].how, How::Merge(_));
        let tensors: Vec<usize> = (0..plan.tensors.len()).filter(is_computed).collect();
        let drafts = tensors.iter().enumerate().map(|(draft, tensor)| (*tensor, draft)).collect();
        Self { tensors, drafts }
    }

    fn lens<'p>(&'p self, plan: &'p Plan) -> impl Iterator<Item = u64> + 'p {
        self.tensors.iter().map(|&index| plan.tensors[index].bytes())
    }

    fn run(
        &self,
        context: &Context,
        job: &Job,
        plan: &Plan,
        drafts: &Drafts,
    ) -> Result<BTreeMap<usize, QuantizationError>, Failure> {
        let bar = Bar::new(context, "merging");
        bar.total(plan.work());
        let sink = Kept { computed: self, drafts };
        let held = Held(job.inputs.iter().map(|input| &input.cartridge).collect());
        let made = plan.run(job.seed, &held, &sink, &Watching(&bar));
        made.map_err(|error| match error {
            MergeError::Sink { source, .. } => Failure::refused(source),
            error => Failure::refused(error),
        })
    }
}

struct Kept<'a> {
    computed: &'a Computed,
    drafts: &'a Drafts,
}

impl Sink for Kept<'_> {
    fn write(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.drafts.write(self.computed.drafts[&tensor], at, bytes)?)
    }

    fn seal(&self, tensor: usize) -> Result<(), Trouble> {
        Ok(self.drafts.seal(self.computed.drafts[&tensor])?)
    }

    fn keep(&self, tensors: &[(usize, Vec<u8>)]) -> Result<(), Trouble> {
        let drafts: Vec<(usize, &[u8])> = tensors
            .iter()
            .map(|(tensor, bytes)| (self.computed.drafts[tensor], bytes.as_slice()))
            .collect();
        Ok(self.drafts.keep(&drafts)?)
    }
}
