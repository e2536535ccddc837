//! A memory as a section of a manifest, and back.

use cart_format::json::{self, JsonError};
use cart_format::{
    ArchSpec, BlobId, BlockedTensor, DTypeError, Hasher, Manifest, ManifestId, MemorySection,
    NameError, PARTS_VERSION, SpaceId, TensorName,
};
use cart_memory::{MemorySnapshot, MemoryTensor, RestoreError, UnifiedMemory};
use cart_store::{
    BlobError, BlobLocation, Cartridge, IngestError, ObjectError, Silent, SourceRange, Store,
    Verified,
};
use rayon::prelude::*;
use thiserror::Error;

use crate::agent::{Agent, LoadError};
use crate::{section_blobs, space};

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
    let sources: Vec<SourceRange> =
        blobs_of(&snapshot)?.into_iter().map(SourceRange::bytes).collect();
    let ingested = store.ingest(&sources, &Silent)?;
    let made = section(&snapshot, ingested.iter().map(|one| one.blob))?;
    let new_bytes = ingested.iter().map(|one| one.new_bytes).sum();
    // A joined memory that nothing was written to is still what its parts are.
    if manifest.memory.as_ref().is_some_and(|memory| memory.alone() == made) {
        return Ok((manifest.clone(), new_bytes));
    }
    let mut manifest = without_memory(manifest);
    manifest.memory = Some(made);
    for one in &ingested {
        manifest.blobs.insert(one.blob, one.entry.clone());
    }
    Ok((manifest, new_bytes))
}

/// A memory that came out of a join, on its way into a manifest.
pub struct JoinedSection {
    snapshot: MemorySnapshot,
    /// The state, then the blocks of the tensors.
    blobs: Vec<Vec<u8>>,
}

impl JoinedSection {
    /// Lays a memory out.
    ///
    /// # Errors
    /// The state has a number without a canonical form.
    pub fn new(memory: &UnifiedMemory) -> Result<Self, SaveError> {
        let snapshot = memory.snapshot();
        let blobs = blobs_of(&snapshot)?;
        Ok(Self { snapshot, blobs })
    }

    /// What has to be in the store, in the order of [`JoinedSection::section`].
    pub fn blobs(&self) -> &[Vec<u8>] {
        &self.blobs
    }

    /// The section.
    ///
    /// * `blobs`: the ids of [`JoinedSection::blobs`]
    /// * `parts`: what it was joined from, by state; at least two
    ///
    /// # Errors
    /// A tensor's name is not acceptable.
    pub fn section(
        &self,
        blobs: impl Iterator<Item = BlobId>,
        parts: Vec<MemorySection>,
    ) -> Result<MemorySection, SaveError> {
        Ok(MemorySection { parts, ..section(&self.snapshot, blobs)? })
    }
}

/// The space of the memories that a cartridge of this manifest can have; none where it is no model.
///
/// # Errors
/// The architecture is not one that this crate knows.
pub fn memory_space(manifest: &Manifest) -> Result<Option<SpaceId>, LoadError> {
    let Some(architecture) = &manifest.model.architecture else { return Ok(None) };
    let spec = ArchSpec::from_value(architecture)?;
    Ok(Some(space::space(manifest, &spec)?))
}

/// The manifest without its memory and the blobs that nothing else uses.
pub fn without_memory(manifest: &Manifest) -> Manifest {
    let mut without = manifest.clone();
    let Some(memory) = without.memory.take() else { return without };
    for one in std::iter::once(&memory).chain(&memory.parts) {
        let blocks = one.tensors.values().flat_map(|tensor| &tensor.blocks);
        section_blobs::forget(&mut without, blocks.chain([&one.state]));
    }
    if without.cart == PARTS_VERSION {
        without.cart = without.lowest_version();
    }
    without
}

/// The state, then the blocks of each tensor, in the order of [`section`].
fn blobs_of(snapshot: &MemorySnapshot) -> Result<Vec<Vec<u8>>, SaveError> {
    let state = json::to_canonical(&snapshot.state)?;
    let blocks = snapshot.tensors.iter().flat_map(MemoryTensor::blocks);
    Ok(std::iter::once(state).chain(blocks.map(<[u8]>::to_vec)).collect())
}

/// * `blobs`: the ids of [`blobs_of`]
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
        parts: Vec::new(),
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
    let (snapshot, _bytes) = checked_snapshot(cartridge)?;
    Ok(snapshot.map(|snapshot| UnifiedMemory::restore(&snapshot)).transpose()?)
}

/// A memory by its section, which is one of the cartridge's manifest. Every blob that is read is checked
/// against its id.
///
/// # Errors
/// As [`read_memory`].
pub fn read_section(
    cartridge: &Cartridge,
    section: &MemorySection,
) -> Result<UnifiedMemory, MemorySectionError> {
    let (snapshot, _bytes) = checked_section(cartridge, section)?;
    Ok(UnifiedMemory::restore(&snapshot)?)
}

/// The memory of a cartridge as it is stored, and the bytes of it that were checked: every blob that is
/// read, against its id.
pub(crate) fn checked_snapshot(
    cartridge: &Cartridge,
) -> Result<(Option<MemorySnapshot>, u64), MemorySectionError> {
    let Some(section) = &cartridge.manifest().memory else { return Ok((None, 0)) };
    let (snapshot, bytes) = checked_section(cartridge, section)?;
    Ok((Some(snapshot), bytes))
}

fn checked_section(
    cartridge: &Cartridge,
    section: &MemorySection,
) -> Result<(MemorySnapshot, u64), MemorySectionError> {
    let mut state = Vec::new();
    let mut tensors: Vec<Vec<u8>> = vec![Vec::new(); section.tensors.len()];
    let mut blocks = blocks_in(cartridge, &[section.state], &mut state)?;
    for (tensor, bytes) in section.tensors.values().zip(&mut tensors) {
        blocks.extend(blocks_in(cartridge, &tensor.blocks, bytes)?);
    }
    let checked = blocks.iter().map(|block| block.bytes.len() as u64).sum();
    // Neighbours are of about the same length, and two are hashed in about the time of one.
    blocks.par_chunks_mut(2).try_for_each(read_checked)?;
    drop(blocks);
    let snapshot = MemorySnapshot {
        space: section.space,
        dim: section.dim,
        state: json::from_canonical(&state, STATE_BYTES)?,
        tensors: section
            .tensors
            .iter()
            .zip(tensors)
            .map(|((name, tensor), bytes)| memory_tensor(name, tensor, bytes))
            .collect(),
    };
    Ok((snapshot, checked))
}

/// A block of a tensor that is to be read.
struct Block<'b> {
    blob: BlobId,
    location: BlobLocation,
    /// Its place in the tensor.
    bytes: &'b mut [u8],
}

/// Makes room for the blocks of a tensor.
fn blocks_in<'b>(
    cartridge: &Cartridge,
    blobs: &[BlobId],
    tensor: &'b mut Vec<u8>,
) -> Result<Vec<Block<'b>>, BlobError> {
    let locations: Vec<BlobLocation> =
        blobs.iter().map(|blob| cartridge.locate(blob)).collect::<Result<_, _>>()?;
    *tensor = vec![0; locations.iter().map(|location| location.len as usize).sum()];
    let mut rest = tensor.as_mut_slice();
    let blocks = blobs.iter().zip(locations).map(|(&blob, location)| {
        let (bytes, after) = std::mem::take(&mut rest).split_at_mut(location.len as usize);
        rest = after;
        Block { blob, location, bytes }
    });
    Ok(blocks.collect())
}

/// Reads one or two blocks, and checks each against its id.
fn read_checked(pair: &mut [Block<'_>]) -> Result<(), MemorySectionError> {
    for block in pair.iter_mut() {
        block.location.read_at(block.bytes, 0).map_err(BlobError::from)?;
    }
    let mut hashers = [Hasher::new(), Hasher::new()];
    let [first, second] = &mut hashers;
    match pair {
        [one] => first.update(one.bytes),
        [one, other] => first.update_pair(one.bytes, second, other.bytes),
        _ => unreachable!("blocks are read in ones and twos"),
    }
    for (block, hasher) in pair.iter().zip(hashers) {
        if BlobId::from_bytes(hasher.finish()) != block.blob {
            return Err(MemorySectionError::Damaged { blob: block.blob });
        }
    }
    Ok(())
}

fn memory_tensor(name: &TensorName, tensor: &BlockedTensor, bytes: Vec<u8>) -> MemoryTensor {
    MemoryTensor {
        name: name.to_string(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        rows_per_block: tensor.rows_per_block,
        bytes,
    }
}

/// A stored memory, if there is one. It must belong to `space`.
pub(crate) fn restored(
    snapshot: Option<&MemorySnapshot>,
    space: SpaceId,
) -> Result<Option<UnifiedMemory>, MemorySectionError> {
    Ok(snapshot.map(|snapshot| UnifiedMemory::restore_for(snapshot, space)).transpose()?)
}

/// The memory of a cartridge, if it has one. It must belong to `space`.
pub(crate) fn restore(
    verified: &Verified,
    space: SpaceId,
) -> Result<Option<UnifiedMemory>, MemorySectionError> {
    let snapshot = snapshot(verified.manifest(), |blob| Ok(verified.read(blob, u64::MAX)?))?;
    restored(snapshot.as_ref(), space)
}

fn snapshot(
    manifest: &Manifest,
    read: impl Fn(&BlobId) -> Result<Vec<u8>, MemorySectionError>,
) -> Result<Option<MemorySnapshot>, MemorySectionError> {
    let Some(section) = &manifest.memory else { return Ok(None) };
    let mut tensors = Vec::new();
    for (name, tensor) in &section.tensors {
        let bytes = section_blobs::joined(tensor, &read)?;
        tensors.push(memory_tensor(name, tensor, bytes));
    }
    Ok(Some(MemorySnapshot {
        space: section.space,
        dim: section.dim,
        state: json::from_canonical(&read(&section.state)?, STATE_BYTES)?,
        tensors,
    }))
}
