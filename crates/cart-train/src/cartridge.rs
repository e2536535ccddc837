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
    pub tensors: Vec<NewTensor>,
    /// How text becomes tokens.
    pub tokenizer: NewTokenizer,
    /// Facts for people.
    pub metadata: BTreeMap<String, Value>,
}

/// A tensor to keep, as `F32`.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
}

/// A tokenizer to keep.
#[derive(Clone, Debug)]
pub struct NewTokenizer {
    /// A `tokenizer.json`.
    pub document: Vec<u8>,
    /// A Jinja template.
    pub chat_template: Option<Vec<u8>>,
    /// Ids that it can produce are below this.
    pub vocab_size: u64,
    /// Tokens with a role.
    pub special: SpecialTokens,
}

impl From<AdamWState> for NewTensor {
    fn from(state: AdamWState) -> Self {
        Self { name: state.name, shape: state.shape, values: state.values }
    }
}

impl NewModel<'_> {
    /// Puts the blobs and the manifest into a store. They are durable when this returns, and
    /// nothing names them yet.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn put(self, store: &Store) -> Result<ManifestId, TrainError> {
        let _held = store.hold().map_err(cart_store::ObjectError::from)?;
        let NewTokenizer { document, chat_template, vocab_size, special } = self.tokenizer;
        let blobs = self.tensors.iter().map(|tensor| little_endian(&tensor.values));
        let mut sources: Vec<SourceRange> = blobs.map(SourceRange::bytes).collect();
        sources.push(SourceRange::bytes(document));
        sources.extend(chat_template.map(SourceRange::bytes));
        let kept = store.ingest(&sources, &Silent)?;
        let mut manifest = Manifest::new();
        for one in &kept {
            manifest.blobs.insert(one.blob, one.entry.clone());
        }
        let mut blobs = kept.into_iter().map(|one| one.blob);
        for tensor in self.tensors {
            let name = TensorName::new(tensor.name).expect("the graph knows it by this name");
            let shape = tensor.shape.iter().map(|&dim| dim as u64).collect();
            let blob = blobs.next().expect("each tensor was put");
            manifest.model.tensors.insert(name, TensorEntry { dtype: DType::F32, shape, blob });
        }
        manifest.model.architecture = Some(self.architecture.to_value());
        manifest.tokenizer = Some(TokenizerSection {
            document: blobs.next().expect("the tokenizer comes after the tensors"),
            vocab_size,
            chat_template: blobs.next(),
            special,
            extra: BTreeMap::new(),
        });
        manifest.metadata = self.metadata;
        Ok(store.put_manifest(&manifest)?)
    }
}
