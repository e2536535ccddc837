//! Memory layers as a section of a manifest, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use cart_format::{
    ArchSpec, BasisId, BlobId, DType, LAYERS_VERSION, Manifest, MemoryLayersSection, NameError,
    TensorEntry, TensorName,
};
use cart_nn::graph::{Device, MemoryLayerError, MemoryLayers, Tensor, TensorError};
use cart_store::{BlobError, IngestError, Silent, SourceRange, Store};
use thiserror::Error;

use super::TrainedLayers;
use crate::{section_blobs, session_section};

/// Largest tensor of a memory layer, in bytes.
const TENSOR_BYTES: u64 = 4 << 30;

/// A tensor of a memory layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTensor {
    /// `LAYER.PART`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
}

/// Why a cartridge's memory layers can't be used, or kept.
#[derive(Debug, Error)]
pub enum MemoryLayersError {
    /// They were trained for other weights.
    #[error(
        "the memory layers belong to basis {found}, but this model's is {expected}: they were trained for other weights; train them again, or take them out (`cart train memory REF --remove`)"
    )]
    OtherBasis {
        /// Their basis.
        found: BasisId,
        /// The model's basis.
        expected: BasisId,
    },
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A blob is not what its id says.
    #[error(
        "blob {blob} of the memory layers has other bytes than its id says; `cart verify` names the damage"
    )]
    Damaged {
        /// The blob.
        blob: BlobId,
    },
    /// A type that memory layers are not stored in.
    #[error("the memory layers' tensor `{name}` is {found}; allowed: f32")]
    Dtype {
        /// The tensor.
        name: TensorName,
        /// Its type.
        found: DType,
    },
    /// A number that is infinite or none.
    #[error("the memory layers' tensor `{name}` has numbers that are not finite")]
    NotFinite {
        /// The tensor.
        name: TensorName,
    },
    /// They don't fit the model.
    #[error(transparent)]
    Bind(#[from] MemoryLayerError),
    /// The tensor library failed.
    #[error("the memory layers can't be made")]
    Tensor(#[from] TensorError),
    /// The manifest has a number without a canonical form.
    #[error("the manifest can't be written: {0}")]
    Document(#[from] cart_format::json::JsonError),
    /// A tensor's name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store did not take the blobs.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Reads the memory layers of a manifest; none where it has none, or where all their gates are shut.
///
/// * `bytes`: of a blob, whose digest is looked at here
pub(crate) fn read(
    manifest: &Manifest,
    spec: &ArchSpec,
    expected: BasisId,
    bytes: impl Fn(&BlobId, u64) -> Result<Vec<u8>, BlobError>,
) -> Result<Option<Arc<TrainedLayers>>, MemoryLayersError> {
    let Some(section) = &manifest.memory_layers else { return Ok(None) };
    let found = section.basis;
    if found != expected {
        return Err(MemoryLayersError::OtherBasis { found, expected });
    }
    let mut tensors = BTreeMap::new();
    for (name, entry) in &section.tensors {
        if entry.dtype != DType::F32 {
            return Err(MemoryLayersError::Dtype { name: name.clone(), found: entry.dtype });
        }
        let bytes = bytes(&entry.blob, TENSOR_BYTES)?;
        if BlobId::of(&bytes) != entry.blob {
            return Err(MemoryLayersError::Damaged { blob: entry.blob });
        }
        let values: Vec<f32> =
            bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(MemoryLayersError::NotFinite { name: name.clone() });
        }
        let shape: Vec<usize> = entry.shape.iter().map(|&dim| dim as usize).collect();
        tensors.insert(name.to_string(), Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    let layers: Vec<usize> = section.layers.iter().map(|&layer| layer as usize).collect();
    let bound = MemoryLayers::bind(spec, &layers, &tensors)?;
    let width = spec.hidden_size as usize;
    Ok(TrainedLayers::new(bound, width)?.map(Arc::new))
}

/// The manifest with these memory layers, whose blobs are in the store when this returns. Those that
/// were there before are replaced.
///
/// * `layers`: beside whose attention they stand, ascending
///
/// # Errors
/// The store can't be written.
pub fn with_memory_layers(
    manifest: &Manifest,
    layers: &[usize],
    tensors: &[LayerTensor],
    store: &Store,
) -> Result<Manifest, MemoryLayersError> {
    let bytes = |tensor: &LayerTensor| -> Vec<u8> {
        tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    let sources: Vec<SourceRange> =
        tensors.iter().map(|tensor| SourceRange::bytes(bytes(tensor))).collect();
    let ingested = store.ingest(&sources, &Silent)?;
    let mut manifest = without_memory_layers(manifest);
    let mut entries = BTreeMap::new();
    for (tensor, kept) in tensors.iter().zip(&ingested) {
        let shape = tensor.shape.iter().map(|&dim| dim as u64).collect();
        let entry = TensorEntry { dtype: DType::F32, shape, blob: kept.blob };
        entries.insert(TensorName::new(tensor.name.as_str())?, entry);
        manifest.blobs.insert(kept.blob, kept.entry.clone());
    }
    manifest.memory_layers = Some(MemoryLayersSection {
        basis: session_section::basis(&manifest)?,
        layers: layers.iter().map(|&layer| layer as u64).collect(),
        tensors: entries,
        extra: BTreeMap::new(),
    });
    manifest.cart = manifest.cart.max(LAYERS_VERSION);
    Ok(manifest)
}

/// The manifest without its memory layers and the blobs that nothing else uses: what it was before it had
/// any.
pub fn without_memory_layers(manifest: &Manifest) -> Manifest {
    let mut without = manifest.clone();
    let Some(layers) = without.memory_layers.take() else { return without };
    let blobs: Vec<BlobId> = layers.tensors.values().map(|tensor| tensor.blob).collect();
    section_blobs::forget(&mut without, blobs.iter());
    if without.cart == LAYERS_VERSION {
        without.cart = without.lowest_version();
    }
    without
}
