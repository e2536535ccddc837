//! A memory as a section of a manifest, and back.

use cart_format::json::{self, JsonError};
use cart_format::{
    BlobId, DTypeError, Manifest, ManifestId, MemorySection, NameError, SpaceId, TensorName,
};
use cart_memory::{MemorySnapshot, MemoryTensor, RestoreError, UnifiedMemory};
use cart_store::{
    BlobError, Cartridge, IngestError, ObjectError, Silent, SourceRange, Store, Verified,
};
use thiserror::Error;

use crate::agent::Agent;
use crate::section_blobs;

/// Largest state document of a memory, in bytes.
const STATE_BYTES: u64 = 256 << 20;

/// Why a cartridge's memory can't be restored.
#[derive(Debug, Error)]
pub enum MemorySectionError {
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A blob's bytes are not those of its id.
    #[error("the memory's blob {blob} is damaged; `cart verify` shows all damage")]
    Damaged {
        /// The blob.
        blob: BlobId,
    },
    /// The state is not canonical JSON.
    #[error("the memory's state can't be read: {0}")]
    State(#[from] JsonError),
    /// The parts don't make a memory, or one of another model.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Why a memory was not saved. Nothing names what was written already.
#[derive(Debug, Error)]
pub enum SaveError {
    /// There is nothing to save.
    #[error("the agent has no memory to save; nothing was ever written to it")]
    NoMemory,
    /// The state has a number without a canonical form.
    #[error("the memory's state can't be written: {0}")]
    State(#[from] JsonError),
    /// A tensor's name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A tensor's size does not fit.
    #[error(transparent)]
    Size(#[from] DTypeError),
    /// The store did not take the blobs.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The store did not take the manifest.
    #[error(transparent)]
    Manifest(#[from] ObjectError),
}

/// A cartridge that was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Its id.
    pub id: ManifestId,
    /// What it is.
    pub manifest: Manifest,
    /// Slots in its memory.
    pub slots: usize,
    /// Bytes of blobs that the store did not have.
    pub new_bytes: u64,
}

impl Agent {
    /// Writes the cartridge with its memory as it is now: new blobs for what has changed, and a new
    /// manifest, which the caller puts under a commit. Everything but the memory stays as it was
    /// loaded. The store must have, or be, where the cartridge came from.
    ///
    /// # Errors
    /// There is no memory, or the store can't be written.
    pub fn save_memory(&self, store: &Store) -> Result<Saved, SaveError> {
        let memory = self.memory().ok_or(SaveError::NoMemory)?;
        let (manifest, new_bytes) = with_memory(self.manifest(), &memory, store)?;
        let id = store.put_manifest(&manifest)?;
        Ok(Saved { id, manifest, slots: memory.slots().count(), new_bytes })
    }
}

/// The manifest with this memory, whose blobs are in the store when this returns, and how many of
/// their bytes are new.
///
/// # Errors
/// The store can't be written.
pub fn with_memory(
    manifest: &Manifest,
    memory: &UnifiedMemory,
    store: &Store,
) -> Result<(Manifest, u64), SaveError> {
    let snapshot = memory.snapshot();
    let sources = sources(&snapshot)?;
    let ingested = store.ingest(&sources, &Silent)?;
    let mut manifest = without_memory(manifest);
    manifest.memory = Some(section(&snapshot, ingested.iter().map(|one| one.blob))?);
    for one in &ingested {
        manifest.blobs.insert(one.blob, one.entry.clone());
    }
    Ok((manifest, ingested.iter().map(|one| one.new_bytes).sum()))
}

/// The manifest without its memory and the blobs that nothing else uses.
pub fn without_memory(manifest: &Manifest) -> Manifest {
    let mut without = manifest.clone();
    let Some(memory) = without.memory.take() else { return without };
    let blocks = memory.tensors.values().flat_map(|tensor| &tensor.blocks);
    section_blobs::forget(&mut without, blocks.chain([&memory.state]));
    without
}

/// The state, then the blocks of each tensor, in the order of [`section`].
fn sources(snapshot: &MemorySnapshot) -> Result<Vec<SourceRange>, SaveError> {
    let state = json::to_canonical(&snapshot.state)?;
    let blocks = snapshot.tensors.iter().flat_map(MemoryTensor::blocks);
    Ok(std::iter::once(SourceRange::bytes(state)).chain(blocks.map(SourceRange::bytes)).collect())
}

/// * `blobs`: the ids of [`sources`]
fn section(
    snapshot: &MemorySnapshot,
    mut blobs: impl Iterator<Item = BlobId>,
) -> Result<MemorySection, SaveError> {
    let state = blobs.next().expect("there is a blob for the state");
    let mut section = MemorySection {
        space: snapshot.space,
        dim: snapshot.dim,
        state,
        tensors: std::collections::BTreeMap::new(),
        extra: std::collections::BTreeMap::new(),
    };
    for tensor in &snapshot.tensors {
        let (kind, count) = ((tensor.dtype, &tensor.shape[..]), tensor.blocks().count());
        let blocked = section_blobs::blocked(kind, tensor.rows_per_block, &mut blobs, count);
        section.tensors.insert(TensorName::new(tensor.name.as_str())?, blocked);
    }
    Ok(section)
}

/// The memory of a cartridge that was not verified as a whole, to be looked at. Every blob that is
/// read is checked against its id.
///
/// # Errors
/// A blob is missing or damaged, or the parts don't make a memory.
pub fn read_memory(cartridge: &Cartridge) -> Result<Option<UnifiedMemory>, MemorySectionError> {
    let read = |blob: &BlobId| {
        let bytes = cartridge.read(blob, u64::MAX)?;
        if BlobId::of(&bytes) == *blob {
            return Ok(bytes);
        }
        Err(MemorySectionError::Damaged { blob: *blob })
    };
    let snapshot = snapshot(cartridge.manifest(), read)?;
    Ok(snapshot.map(|snapshot| UnifiedMemory::restore(&snapshot)).transpose()?)
}

/// The memory of a cartridge, if it has one. It must belong to `space`.
pub(crate) fn restore(
    verified: &Verified,
    space: SpaceId,
) -> Result<Option<UnifiedMemory>, MemorySectionError> {
    let snapshot = snapshot(verified.manifest(), |blob| Ok(verified.read(blob, u64::MAX)?))?;
    Ok(snapshot.map(|snapshot| UnifiedMemory::restore_for(&snapshot, space)).transpose()?)
}

fn snapshot(
    manifest: &Manifest,
    read: impl Fn(&BlobId) -> Result<Vec<u8>, MemorySectionError>,
) -> Result<Option<MemorySnapshot>, MemorySectionError> {
    let Some(section) = &manifest.memory else { return Ok(None) };
    let mut tensors = Vec::new();
    for (name, tensor) in &section.tensors {
        let bytes = section_blobs::joined(tensor, &read)?;
        tensors.push(MemoryTensor {
            name: name.to_string(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            rows_per_block: tensor.rows_per_block,
            bytes,
        });
    }
    Ok(Some(MemorySnapshot {
        space: section.space,
        dim: section.dim,
        state: json::from_canonical(&read(&section.state)?, STATE_BYTES)?,
        tensors,
    }))
}
