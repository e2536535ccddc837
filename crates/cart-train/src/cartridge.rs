//! Trained tensors as a manifest in a store.

use std::collections::BTreeMap;

use cart_format::{
    ArchSpec, DType, Manifest, ManifestId, SpecialTokens, TensorEntry, TensorName, TokenizerSection,
};
use cart_nn::graph::AdamWState;
use cart_store::{Silent, SourceRange, Store};
use serde_json::Value;

use crate::checkpoint::little_endian;
use crate::error::TrainError;

/// A model to keep.
#[derive(Debug)]
pub struct NewModel<'a> {
    /// What it computes.
    pub architecture: &'a ArchSpec,
    /// Its tensors.
    pub tensors: &'a [AdamWState],
    /// A `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// Ids of the tokenizer.
    pub vocab_size: u64,
    /// Its tokens with a role.
    pub special: SpecialTokens,
    /// Facts for people.
    pub metadata: BTreeMap<String, Value>,
}

impl NewModel<'_> {
    /// Puts the blobs and the manifest into a store. They are durable when this returns, and
    /// nothing names them yet.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn put(self, store: &Store) -> Result<ManifestId, TrainError> {
        let _held = store.hold().map_err(cart_store::ObjectError::from)?;
        let blobs = self.tensors.iter().map(|tensor| little_endian(&tensor.values));
        let mut sources: Vec<SourceRange> = blobs.map(SourceRange::bytes).collect();
        sources.push(SourceRange::bytes(self.tokenizer));
        let mut kept = store.ingest(&sources, &Silent)?;
        let mut manifest = Manifest::new();
        for one in &kept {
            manifest.blobs.insert(one.blob, one.entry.clone());
        }
        let document = kept.pop().expect("the tokenizer was the last").blob;
        for (tensor, kept) in self.tensors.iter().zip(kept) {
            let name =
                TensorName::new(tensor.name.clone()).expect("the graph knows it by this name");
            let shape = tensor.shape.iter().map(|&dim| dim as u64).collect();
            let entry = TensorEntry { dtype: DType::F32, shape, blob: kept.blob };
            manifest.model.tensors.insert(name, entry);
        }
        manifest.model.architecture = Some(self.architecture.to_value());
        manifest.tokenizer = Some(TokenizerSection {
            document,
            vocab_size: self.vocab_size,
            chat_template: None,
            special: self.special,
            extra: BTreeMap::new(),
        });
        manifest.metadata = self.metadata;
        Ok(store.put_manifest(&manifest)?)
    }
}
