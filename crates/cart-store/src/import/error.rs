//! Why a model was not imported.

use std::path::PathBuf;

use cart_format::arch::ArchError;
use cart_format::gguf::GgufError;
use cart_format::json::JsonError;
use cart_format::safetensors::SafetensorsError;
use thiserror::Error;

use crate::file_error::FileError;
use crate::import::pre_tokenizers::KNOWN;
use crate::import::sentencepiece_file::SentencePieceError;
use crate::ingest::IngestError;
use crate::objects::ObjectError;

/// Why a model was not imported. The store is as before, but for whole blobs that nothing names.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Neither a folder nor a file of a known kind.
    #[error(
        "{} is not a model that cart knows; allowed: a folder with config.json and *.safetensors, a .safetensors or a .gguf file",
        path.display()
    )]
    UnknownInput {
        /// What was given.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error(
        "{} has no *.safetensors file; cart reads no pickled weights (*.bin, *.pt): convert them to safetensors first",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// A damaged or foreign safetensors file.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: SafetensorsError,
    },
    /// A damaged or foreign GGUF file.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: GgufError,
    },
    /// A document of the model is not JSON.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: JsonError,
    },
    /// A document of the model is too large to be one.
    #[error("{} has {found} bytes; allowed for such a document: {allowed}", path.display())]
    DocumentTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Too many files.
    #[error("{} has more than {allowed} files; is it a model folder?", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The limit.
        allowed: usize,
    },
    /// A file that the index or the other shards' names ask for is not there.
    #[error(
        "the shard `{shard}` is missing from {}; download the rest of the model and pack it again",
        folder.display()
    )]
    MissingShard {
        /// The file's name.
        shard: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The index names a file that can't be one of the folder.
    #[error("the index puts tensors into the file {found:?}; allowed: a plain file name")]
    IndexPath {
        /// The name.
        found: String,
    },
    /// The index can't be read.
    #[error("{} has no `weight_map` from tensor names to file names", path.display())]
    IndexForm {
        /// The index.
        path: PathBuf,
    },
    /// The index puts a tensor where it is not.
    #[error(
        "the index says that tensor `{tensor}` is in `{shard}`; it is {}; the shards are not of one model",
        found_in.as_ref().map_or_else(|| "in none of the shards".to_owned(), |file| format!("in `{file}`"))
    )]
    IndexTensor {
        /// The tensor.
        tensor: String,
        /// Where the index says it is.
        shard: String,
        /// Where it is.
        found_in: Option<String>,
    },
    /// Two files have a tensor of one name.
    #[error(
        "tensor `{tensor}` is both in `{first}` and in `{second}`; remove the file that is not of this model"
    )]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// A file that has it.
        first: String,
        /// Another.
        second: String,
    },
    /// `config.json` lacks a field, or has one of the wrong kind.
    #[error("config.json: `{field}` is {found}; allowed: {allowed}")]
    ConfigField {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        allowed: &'static str,
    },
    /// GGUF metadata lack a key, or have one of the wrong kind.
    #[error("the GGUF metadata `{key}` is {found}; allowed: {allowed}")]
    GgufField {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        allowed: &'static str,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Architecture(#[from] ArchError),
    /// The configuration asks for a tensor that is not there.
    #[error(
        "the configuration asks for tensor `{tensor}` {expected:?}, which the model does not have"
    )]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<u64>,
    },
    /// The configuration asks for another shape.
    #[error("tensor `{tensor}` is {found:?}; the configuration asks for {expected:?}")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
        /// Its shape by the configuration.
        expected: Vec<u64>,
    },
    /// The document is not a tokenizer.
    #[error("{}: not a tokenizer.json of Hugging Face tokenizers: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// The tokenizer is of another model.
    #[error(
        "the tokenizer has token ids up to {largest}, but the embedding has {rows} rows; they do not belong together"
    )]
    TokenizerTooLarge {
        /// The largest id.
        largest: u64,
        /// Rows of the embedding.
        rows: u64,
    },
    /// A token with a role that does not exist.
    #[error("the {role} token is {found}, but token ids end before {allowed}")]
    SpecialToken {
        /// Its role.
        role: &'static str,
        /// Its id.
        found: u64,
        /// The bound.
        allowed: u64,
    },
    /// GGUF names a way of tokenizing that is not known.
    #[error(
        "the GGUF has a tokenizer of kind `{found}`, which cart can't rebuild; known: gpt2, llama, t5; pass the model's own tokenizer.json with --tokenizer"
    )]
    TokenizerModel {
        /// `tokenizer.ggml.model`.
        found: String,
    },
    /// GGUF names a way of cutting text into words that is not known.
    #[error(
        "the GGUF names the pre-tokenizer `{found}`, which cart can't rebuild; known: {}; pass the model's own tokenizer.json with --tokenizer",
        KNOWN.join(", ")
    )]
    PreTokenizer {
        /// `tokenizer.ggml.pre`.
        found: String,
    },
    /// `tokenizer.model` is damaged or of another kind.
    #[error("{}: {source}", path.display())]
    SentencePiece {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: SentencePieceError,
    },
    /// `vocab.json` is no vocabulary.
    #[error("{} is not an object of token ids by token", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
    },
    /// `merges.txt` is not text.
    #[error("{} is not UTF-8; allowed: two tokens a line, with a space between", path.display())]
    MergesEncoding {
        /// The file.
        path: PathBuf,
    },
    /// A merge rule that is not two tokens.
    #[error(
        "merge {index} of the tokenizer is {found:?}; allowed: two tokens with a space between"
    )]
    Merge {
        /// Its position.
        index: usize,
        /// The rule.
        found: String,
    },
    /// A file was written to while it was read.
    #[error("{} changed while it was being packed; pack it again when it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer can't be written down.
    #[error("the tokenizer of the GGUF has no canonical form: {0}")]
    Document(#[source] JsonError),
    /// Bytes were not taken in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The manifest was not stored.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ImportError {
    /// A name for the kind of error that does not change with its wording.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownInput { .. } => "unknown_input",
            Self::NoWeights { .. } => "no_weights",
            Self::Safetensors { .. } => "safetensors",
            Self::Gguf { .. } => "gguf",
            Self::Json { .. } => "json",
            Self::DocumentTooLarge { .. } => "document_too_large",
            Self::TooManyFiles { .. } => "too_many_files",
            Self::MissingShard { .. } => "missing_shard",
            Self::IndexPath { .. } => "index_path",
            Self::IndexForm { .. } => "index_form",
            Self::IndexTensor { .. } => "index_tensor",
            Self::DuplicateTensor { .. } => "duplicate_tensor",
            Self::ConfigField { .. } => "config_field",
            Self::GgufField { .. } => "gguf_field",
            Self::Architecture(_) => "architecture",
            Self::MissingTensor { .. } => "missing_tensor",
            Self::TensorShape { .. } => "tensor_shape",
            Self::Tokenizer { .. } => "tokenizer",
            Self::TokenizerTooLarge { .. } => "tokenizer_too_large",
            Self::SpecialToken { .. } => "special_token",
            Self::TokenizerModel { .. } => "tokenizer_model",
            Self::PreTokenizer { .. } => "pre_tokenizer",
            Self::SentencePiece { .. } => "sentence_piece",
            Self::Vocabulary { .. } => "vocabulary",
            Self::MergesEncoding { .. } => "merges_encoding",
            Self::Merge { .. } => "merge",
            Self::Changed { .. } => "changed",
            Self::Document(_) => "document",
            Self::Ingest(_) => "ingest",
            Self::Object(_) => "object",
            Self::File(_) => "file",
        }
    }
}
