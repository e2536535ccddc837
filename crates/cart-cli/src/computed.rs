//! The tensors that a plan computes, on their way into a store.

use std::collections::BTreeMap;

use cart_merge::weights::{
    How, MergeError, Output, Plan, QuantizationError, Sink, Tensors, Trouble,
};
use cart_store::{Drafts, Ingested, Progress as _};

use crate::context::Context;
use crate::failure::Failure;
use crate::held::Watching;
use crate::progress::Bar;

/// The tensors that are computed, which are the drafts.
pub(crate) struct Computed {
    tensors: Vec<usize>,
    /// The draft of each tensor of the plan.
    drafts: BTreeMap<usize, usize>,
}

impl Computed {
    pub(crate) fn of(plan: &Plan) -> Self {
        let is_computed = |index: &usize| matches!(plan.tensors[*index].how, How::Merge(_));
        let tensors: Vec<usize> = (0..plan.tensors.len()).filter(is_computed).collect();
        let drafts = tensors.iter().enumerate().map(|(draft, tensor)| (*tensor, draft)).collect();
        Self { tensors, drafts }
    }

    /// Their lengths.
    pub(crate) fn lens<'p>(&'p self, plan: &'p Plan) -> impl Iterator<Item = u64> + 'p {
        self.tensors.iter().map(|&index| plan.tensors[index].bytes())
    }

    /// Computes them into their drafts; gives what quantizing lost, by the index of the tensor.
    ///
    /// * `said`: what a bar calls the work
    pub(crate) fn run(
        &self,
        (context, said): (&Context, &'static str),
        plan: &Plan,
        seed: u64,
        tensors: &dyn Tensors,
        drafts: &Drafts,
    ) -> Result<BTreeMap<usize, QuantizationError>, Failure> {
        let bar = Bar::new(context, said);
        bar.total(plan.work());
        let sink = Kept { computed: self, drafts };
        let made = plan.run(seed, tensors, &sink, &Watching(&bar));
        made.map_err(|error| match error {
            MergeError::Sink { source, .. } => Failure::refused(source),
            error => Failure::refused(error),
        })
    }

    /// What was made, by the index of the tensor.
    pub(crate) fn outputs(&self, made: Vec<Ingested>) -> BTreeMap<usize, Output> {
        let output = |made: Ingested| Output { blob: made.blob, entry: made.entry };
        self.tensors.iter().copied().zip(made.into_iter().map(output)).collect()
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
