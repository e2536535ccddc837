//! A session as a section of a manifest, and back.

use std::collections::BTreeMap;

use cart_format::json::{self, JsonError};
use cart_format::{
    BasisId, BlobId, BlockedTensor, DType, DTypeError, Manifest, NameError, SESSION_VERSION,
    SessionSection, TensorName,
};
use cart_nn::decoder::RestoreError;
use cart_nn::graph::TensorError;
use cart_nn::{KvFormat, SavedState, StateTensor};
use cart_store::{BlobError, IngestError, Silent, SourceRange, Store, Verified};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::section_blobs;

/// Version of the arithmetic that makes a state, and of the state document. It counts up when a
/// state means something else.
const PROCEDURE: u32 = 1;

/// Positions in a block of a saved tensor: going on rewrites the last block of each.
const BLOCK_ROWS: u64 = 4096;

/// The tensor with the logits of the last token.
const LOGITS: &str = "logits";

/// Largest state document, in bytes.
const DOCUMENT_BYTES: u64 = 256 << 20;

/// A session, saved to be continued: what it read, what it wrote, and what the layers kept of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSession {
    /// What the numbers depend on.
    pub(crate) basis: BasisId,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    /// How many of them were read: all, or all but the last.
    pub(crate) read: usize,
    pub(crate) state: SavedState,
    /// Of the last token, if all were read.
    pub(crate) logits: Option<Vec<f32>>,
}

/// Why a session can't be saved. Nothing names what was written already.
#[derive(Debug, Error)]
pub enum SaveSessionError {
    /// A part of the prompt has not been read.
    #[error("{read} of {total} tokens of the prompt were read; go on to its end, then save")]
    PromptUnread {
        /// Tokens read.
        read: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A number without a canonical form.
    #[error("the session can't be written: {0}")]
    Document(#[from] JsonError),
    /// A tensor's name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A tensor's size does not fit.
    #[error(transparent)]
    Size(#[from] DTypeError),
    /// The state can't be read from its device.
    #[error("the state can't be read from the device that computes")]
    Device(#[from] TensorError),
    /// The store did not take the blobs.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Why a saved session can't be continued.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// There is none.
    #[error(
        "the cartridge has no saved session; `cart run -p … --save NAME --with-session` saves one"
    )]
    NoSession,
    /// It was made by other weights, another architecture or another tokenizer.
    #[error(
        "the saved session belongs to basis {found}, but this model's is {expected}: its numbers mean nothing to these weights; read the text again with this model"
    )]
    OtherModel {
        /// The session's basis.
        found: BasisId,
        /// The model's basis.
        expected: BasisId,
    },
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The document is not canonical JSON.
    #[error("the saved session can't be read: {0}")]
    Document(#[from] JsonError),
    /// The document is not that of a session.
    #[error("the saved session's document is not one: {0}")]
    Schema(#[source] serde_json::Error),
    /// A version of the document that is not known.
    #[error(
        "the saved session's document has version {found}; this cart reads version {PROCEDURE}"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// An element type that keys and values can't have.
    #[error("the saved session's keys and values are {found}; allowed: f32, f16, q8_0")]
    Kv {
        /// The type found.
        found: DType,
    },
    /// The counts of tokens and positions contradict each other.
    #[error(
        "the saved session has {tokens} tokens, {read} of them read, after a prefix of {prefix}, but a state of {positions} positions; it was cut or mixed up"
    )]
    Counts {
        /// Tokens in the document.
        tokens: usize,
        /// Tokens that it says were read.
        read: usize,
        /// Positions before the tokens.
        prefix: usize,
        /// Positions of the state.
        positions: u64,
    },
    /// A token that the model does not have.
    #[error("token {token} of the saved session; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// The logits are not as many as the vocabulary has tokens.
    #[error("the saved session has {found} bytes of logits; this model's are {expected}")]
    Logits {
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Tensors don't fit the model.
    #[error(transparent)]
    State(#[from] RestoreError),
}

/// The document beside the tensors.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// Positions of remembered spans before the tokens.
    prefix: usize,
    read: usize,
    token_ids: Vec<u32>,
}

/// Names what a state's numbers depend on: the digest of a canonical document of architecture,
/// tensors and tokenizer.
pub(crate) fn basis(manifest: &Manifest) -> Result<BasisId, JsonError> {
    let document = json!({
        "procedure": PROCEDURE,
        "architecture": manifest.model.architecture,
        "tensors": manifest.model.tensors,
        "tokenizer": manifest.tokenizer.as_ref().map(|tokenizer| tokenizer.document),
    });
    Ok(BasisId::of(&json::to_canonical(&document)?))
}

impl SavedSession {
    /// Prompt and generated tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions of its state.
    pub fn positions(&self) -> usize {
        self.state.positions
    }

    /// How its keys and values are stored.
    pub fn kv(&self) -> KvFormat {
        self.state.kv
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.state.tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// Reads the session of a cartridge. Whether it fits a model, [`Session::resume`] says.
    ///
    /// [`Session::resume`]: crate::Session::resume
    ///
    /// # Errors
    /// There is none, or its parts contradict each other.
    pub fn read(verified: &Verified) -> Result<Self, ResumeError> {
        let section = verified.manifest().session.as_ref().ok_or(ResumeError::NoSession)?;
        let document =
            json::from_canonical(&verified.read(&section.state, DOCUMENT_BYTES)?, DOCUMENT_BYTES)?;
        let version = document["version"].as_u64().unwrap_or(0);
        if version != u64::from(PROCEDURE) {
            return Err(ResumeError::Version { found: version as u32 });
        }
        let document: Document = serde_json::from_value(document).map_err(ResumeError::Schema)?;
        let known = KvFormat::ALL.into_iter().find(|format| format.dtype() == section.kv);
        let kv = known.ok_or(ResumeError::Kv { found: section.kv })?;
        let mut tensors = Vec::new();
        for (name, tensor) in &section.tensors {
            tensors.push(read_tensor(verified, name, tensor)?);
        }
        let logits = tensors.iter().position(|tensor| tensor.name == LOGITS);
        let logits = logits.map(|at| floats(&tensors.remove(at).bytes));
        let Document { prefix, read, token_ids: tokens, .. } = document;
        let left = usize::from(logits.is_none());
        let adds_up = prefix.checked_add(read).map(|sum| sum as u64) == Some(section.positions)
            && read.checked_add(left) == Some(tokens.len());
        if !adds_up {
            let positions = section.positions;
            return Err(ResumeError::Counts { tokens: tokens.len(), read, prefix, positions });
        }
        let state = SavedState { positions: prefix + read, kv, tensors };
        Ok(Self { basis: section.basis, tokens, read, state, logits })
    }
}

/// The manifest with this session, whose blobs are in the store when this returns, and how many of
/// their bytes are new. A session that was there before is replaced.
///
/// # Errors
/// The store can't be written.
pub fn with_session(
    manifest: &Manifest,
    session: &SavedSession,
    store: &Store,
) -> Result<(Manifest, u64), SaveSessionError> {
    let document = Document {
        version: PROCEDURE,
        prefix: session.state.positions - session.read,
        read: session.read,
        token_ids: session.tokens.clone(),
    };
    let logits = session.logits.as_ref().map(|logits| StateTensor {
        name: LOGITS.to_owned(),
        dtype: DType::F32,
        shape: vec![logits.len() as u64],
        bytes: logits.iter().flat_map(|logit| logit.to_le_bytes()).collect(),
    });
    let tensors: Vec<&StateTensor> = session.state.tensors.iter().chain(&logits).collect();
    let mut sources = vec![SourceRange::bytes(json::to_canonical(&document)?)];
    for tensor in &tensors {
        sources.extend(blocks(tensor)?.map(|block| SourceRange::bytes(block.to_vec())));
    }
    let ingested = store.ingest(&sources, &Silent)?;
    let mut blobs = ingested.iter().map(|one| one.blob);
    let mut manifest = without_session(manifest);
    manifest.cart = manifest.cart.max(SESSION_VERSION);
    manifest.session = Some(section(session, &tensors, &mut blobs)?);
    for one in &ingested {
        manifest.blobs.insert(one.blob, one.entry.clone());
    }
    Ok((manifest, ingested.iter().map(|one| one.new_bytes).sum()))
}

/// The manifest without its session and the blobs that nothing else uses.
pub fn without_session(manifest: &Manifest) -> Manifest {
    let mut without = manifest.clone();
    let Some(session) = without.session.take() else { return without };
    let blocks = session.tensors.values().flat_map(|tensor| &tensor.blocks);
    section_blobs::forget(&mut without, blocks.chain([&session.state]));
    without
}

/// * `blobs`: of the document, then of each tensor's blocks
fn section(
    session: &SavedSession,
    tensors: &[&StateTensor],
    blobs: &mut impl Iterator<Item = BlobId>,
) -> Result<SessionSection, SaveSessionError> {
    let state = blobs.next().expect("there is a blob for the document");
    let mut named = BTreeMap::new();
    for tensor in tensors {
        let (kind, rows) = ((tensor.dtype, &tensor.shape[..]), rows_per_block(tensor));
        let blocked = section_blobs::blocked(kind, rows, blobs, blocks(tensor)?.len());
        named.insert(TensorName::new(tensor.name.as_str())?, blocked);
    }
    Ok(SessionSection {
        basis: session.basis,
        positions: session.state.positions as u64,
        kv: session.state.kv.dtype(),
        state,
        tensors: named,
        extra: BTreeMap::new(),
    })
}

/// Tensors that grow with the positions are cut; others are one block.
fn rows_per_block(tensor: &StateTensor) -> u64 {
    if tensor.shape.len() > 1 { BLOCK_ROWS } else { tensor.shape[0].max(1) }
}

/// The bytes of a tensor's blocks.
fn blocks(tensor: &StateTensor) -> Result<std::slice::Chunks<'_, u8>, DTypeError> {
    let mut shape = tensor.shape.clone();
    shape[0] = rows_per_block(tensor);
    let size = tensor.dtype.size_of(&shape)?;
    Ok(tensor.bytes.chunks(usize::try_from(size).unwrap_or(usize::MAX).max(1)))
}

fn read_tensor(
    verified: &Verified,
    name: &TensorName,
    tensor: &BlockedTensor,
) -> Result<StateTensor, ResumeError> {
    let bytes = section_blobs::joined(tensor, |block| verified.read(block, u64::MAX))?;
    let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
    Ok(StateTensor { name: name.to_string(), dtype, shape, bytes })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
