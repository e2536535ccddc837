//! The manifest of a merged cartridge.

use std::collections::BTreeMap;

use cart_format::{BlobEntry, BlobId, Manifest, TensorEntry};

use crate::weights::plan::{How, Model, Plan, TokenizerPlan};

/// A blob that a merge made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its id.
    pub blob: BlobId,
    /// What a manifest says about it.
    pub entry: BlobEntry,
}

impl Plan {
    /// The manifest of the result.
    ///
    /// Its metadata is the frame's. It has no origin, as its tensors are in no imported file, and no
    /// session, whose state would be of other weights. What it remembers is up to the caller
    /// (see [`crate::memories`]).
    ///
    /// * `outputs`: the computed tensors, by their index in [`Plan::tensors`]
    /// * `tokenizer`: the new tokenizer's document, where there is one
    pub fn manifest(
        &self,
        models: &[Model<'_>],
        outputs: &BTreeMap<usize, Output>,
        tokenizer: Option<&Output>,
    ) -> Manifest {
        let frame = models[self.frame].manifest;
        let mut manifest = Manifest { memory: None, session: None, origin: None, ..frame.clone() };
        manifest.model.architecture.clone_from(&self.architecture);
        manifest.model.tensors.clear();
        let mut blobs: BTreeMap<BlobId, BlobEntry> = BTreeMap::new();
        for (index, tensor) in self.tensors.iter().enumerate() {
            let made = match &tensor.how {
                How::Take { model, tensor } => {
                    let from = models[*model].manifest;
                    let blob = from.model.tensors[tensor].blob;
                    Output { blob, entry: from.blobs[&blob].clone() }
                }
                How::Merge(_) | How::Conflict => outputs[&index].clone(),
            };
            let entry =
                TensorEntry { dtype: tensor.dtype, shape: tensor.shape.clone(), blob: made.blob };
            manifest.model.tensors.insert(tensor.name.clone(), entry);
            blobs.insert(made.blob, made.entry);
        }
        self.set_tokenizer(&mut manifest, models, tokenizer, &mut blobs);
        manifest.blobs = BTreeMap::new();
        for (_, blob) in manifest.uses() {
            let of_models = || models.iter().find_map(|model| model.manifest.blobs.get(&blob));
            if let Some(entry) = blobs.get(&blob).or_else(of_models) {
                manifest.blobs.insert(blob, entry.clone());
            }
        }
        manifest
    }

    fn set_tokenizer(
        &self,
        manifest: &mut Manifest,
        models: &[Model<'_>],
        document: Option<&Output>,
        blobs: &mut BTreeMap<BlobId, BlobEntry>,
    ) {
        let template = models[self.chat_template].manifest.tokenizer.as_ref();
        let template = template.and_then(|tokenizer| tokenizer.chat_template);
        if let TokenizerPlan::Of(owner) = self.tokenizer {
            manifest.tokenizer.clone_from(&models[owner].manifest.tokenizer);
        }
        let Some(tokenizer) = &mut manifest.tokenizer else { return };
        if let TokenizerPlan::New { vocab_size, .. } = self.tokenizer
            && let Some(made) = document
        {
            tokenizer.document = made.blob;
            tokenizer.vocab_size = vocab_size;
            blobs.insert(made.blob, made.entry.clone());
        }
        tokenizer.chat_template = template;
    }
}
