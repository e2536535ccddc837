//! Importers: a Hugging Face model folder, a lone `.safetensors` or a `.gguf` file into a store.
//!
//! An import is exact: every byte of every file ends in a blob or in a run of zeros, each tensor in
//! a blob of its own, and the origin's pieces put the files together again (decision 4). Nothing of
//! the path, the file's name, the time or the machine gets into the manifest.
//!
//! [`ImportPlan::new`] reads heads and documents; [`ImportPlan::apply`] writes; [`import`] does
//! both.

mod adapter;
mod config;
mod config_fields;
mod error;
mod folder;
mod folder_tokenizer;
mod gguf_config;
mod gguf_tokenizer;
mod hf_tokenizer;
mod model_card;
mod model_file;
mod plan;
mod pre_tokenizers;
mod python_json;
mod roles;
mod sentencepiece;
mod sentencepiece_file;
mod tensor_check;
mod tokenizer_document;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cart_format::{
    BlobEntry, BlobId, Manifest, ManifestId, Origin, OriginFile, Piece, TensorEntry,
    TokenizerSection,
};
use rayon::prelude::*;
use serde_json::Value;

pub use self::adapter::{AdapterError, is_adapter, read_adapter};
pub use self::error::ImportError;
use self::model_file::Part;
pub use self::plan::ImportPlan;
use self::plan::PlannedFile;
pub use self::sentencepiece_file::SentencePieceError;
use crate::ingest::{IngestError, Ingested};
use crate::progress::Progress;
use crate::source::{SourceRange, digest_source};
use crate::store::Store;

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// A `tokenizer.json` in place of the model's own.
    pub tokenizer: Option<PathBuf>,
    /// Facts for the manifest. They replace those of the same name found in the model.
    pub metadata: BTreeMap<String, Value>,
}

/// A model that is now in the store. No commit and no ref names it yet.
#[derive(Debug)]
pub struct Imported {
    /// The cartridge's id.
    pub manifest_id: ManifestId,
    /// The cartridge.
    pub manifest: Manifest,
    /// Tensors of the model.
    pub tensors: u64,
    /// Blobs that the store did not have.
    pub new_blobs: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Bytes of the cartridge that the store had.
    pub reused_bytes: u64,
    /// Notes on what was left out or can't be used.
    pub warnings: Vec<String>,
}

/// Imports a model. Hold [`Store::hold`] until a ref names it.
///
/// # Errors
/// The model is damaged, contradicts itself or changes meanwhile, or the store can't be written.
/// The store is then as before, but for whole blobs that nothing names.
pub fn import(
    store: &Store,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Imported, ImportError> {
    ImportPlan::new(path, options)?.apply(store, progress)
}

impl ImportPlan {
    /// Takes the model into a store.
    ///
    /// # Errors
    /// A file can't be read or changes meanwhile, the store can't be written, or `progress`
    /// cancelled.
    pub fn apply(self, store: &Store, progress: &dyn Progress) -> Result<Imported, ImportError> {
        let sources = self.sources();
        // The digest of a whole file can't be put together from those of its parts, so one core
        // computes it while the others take in the parts.
        let (ingested, digests) =
            rayon::join(|| store.ingest(&sources, progress), || self.file_digests(progress));
        let (ingested, digests) = (ingested?, digests?);
        self.files.iter().try_for_each(|file| file.file.check_unchanged())?;
        let new = || ingested.iter().filter(|blob| blob.new_bytes > 0);
        let (new_blobs, new_bytes) =
            (new().count() as u64, new().map(|blob| blob.new_bytes).sum::<u64>());
        let manifest = self.manifest(&ingested, &digests);
        let manifest_id = store.put_manifest(&manifest)?;
        Ok(Imported {
            manifest_id,
            tensors: manifest.model.tensors.len() as u64,
            new_blobs,
            new_bytes,
            reused_bytes: manifest.total_bytes().saturating_sub(new_bytes),
            manifest,
            warnings: self.warnings,
        })
    }

    /// Everything that becomes a blob: the files' parts in order, then the tokenizer's documents.
    fn sources(&self) -> Vec<SourceRange> {
        let mut sources = Vec::new();
        for file in &self.files {
            sources.extend(file.parts.iter().filter_map(|part| match part {
                Part::Tensor(tensor) => Some(file.file.range(&tensor.range)),
                Part::Bytes(range) => Some(file.file.range(range)),
                Part::Zeros(_) => None,
            }));
        }
        if let Some(tokenizer) = &self.tokenizer {
            sources.push(tokenizer.document.clone());
            sources.extend(tokenizer.chat_template.clone());
        }
        sources
    }

    /// The digest of each file that is more than one blob.
    fn file_digests(&self, progress: &dyn Progress) -> Result<Vec<Option<BlobId>>, IngestError> {
        let digest = |file: &PlannedFile| match file.parts.as_slice() {
            [Part::Bytes(_)] => Ok(None),
            _ => digest_source(&file.file.whole(), &Uncounted(progress)).map(Some),
        };
        self.files.par_iter().map(digest).collect()
    }

    /// The manifest of what was taken in, in the order of [`ImportPlan::sources`].
    fn manifest(&self, ingested: &[Ingested], digests: &[Option<BlobId>]) -> Manifest {
        let mut manifest = Manifest::new();
        let mut taken = Taken { ingested: ingested.iter(), blobs: &mut manifest.blobs };
        let mut files = Vec::with_capacity(self.files.len());
        for (file, digest) in self.files.iter().zip(digests) {
            let mut pieces = Vec::with_capacity(file.parts.len());
            for part in &file.parts {
                let piece = match part {
                    Part::Zeros(zeros) => Piece::Zeros(*zeros),
                    Part::Bytes(_) | Part::Tensor(_) => Piece::Blob(taken.next()),
                };
                if let (Part::Tensor(tensor), Piece::Blob(blob)) = (part, piece) {
                    let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
                    let entry = TensorEntry { dtype, shape, blob };
                    manifest.model.tensors.insert(tensor.name.clone(), entry);
                }
                pieces.push(piece);
            }
            let sha256 = match (digest, pieces.as_slice()) {
                (None, [Piece::Blob(whole)]) => *whole,
                (digest, _) => digest.expect("a file of other than one blob was digested"),
            };
            files.push(OriginFile {
                path: file.path.clone(),
                size: file.file.len(),
                sha256,
                pieces,
            });
        }
        manifest.tokenizer = self.tokenizer.as_ref().map(|tokenizer| TokenizerSection {
            document: taken.next(),
            vocab_size: tokenizer.vocab_size,
            chat_template: tokenizer.chat_template.as_ref().map(|_| taken.next()),
            special: tokenizer.special.clone(),
            extra: BTreeMap::new(),
        });
        manifest.model.architecture =
            self.architecture.as_ref().map(cart_format::ArchSpec::to_value);
        manifest.origin = Some(Origin { kind: self.kind, files });
        manifest.metadata.clone_from(&self.metadata);
        manifest
    }
}

/// Hands out what was taken in, in order, and lists it in the manifest.
struct Taken<'a> {
    ingested: std::slice::Iter<'a, Ingested>,
    blobs: &'a mut BTreeMap<BlobId, BlobEntry>,
}

impl Taken<'_> {
    fn next(&mut self) -> BlobId {
        let taken = self.ingested.next().expect("there is a blob for each source");
        self.blobs.entry(taken.blob).or_insert_with(|| taken.entry.clone());
        taken.blob
    }
}

/// Work on bytes that are counted elsewhere; it can still be cancelled.
struct Uncounted<'a>(&'a dyn Progress);

impl Progress for Uncounted<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
