//! Everything about a manifest that can be checked without its blobs.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    BlobEntry, BlockedTensor, FORMAT_VERSION, LAYERS_VERSION, Manifest, ManifestError,
    MemoryLayersSection, MemorySection, Origin, PARTS_VERSION, Piece, SESSION_VERSION,
    SessionSection, TensorEntry, Version,
};
use crate::digest::BlobId;
use crate::dtype::DType;
use crate::limits::{DIMENSIONS, FILES, MEMORY_PARTS, SEGMENT, TENSORS};
use crate::names::TensorName;

/// The critical features that this crate understands: none so far.
const KNOWN_CRITICAL: &[&str] = &[];

impl Manifest {
    /// Checks limits, sizes and references.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self) -> Result<(), ManifestError> {
        self.check_version()?;
        at_most("tensors", self.model.tensors.len() as u64, TENSORS)?;
        for (blob, entry) in &self.blobs {
            entry.check(*blob)?;
        }
        self.check_uses()?;
        for (name, tensor) in &self.model.tensors {
            self.check_tensor(name, tensor)?;
        }
        if let Some(memory) = &self.memory {
            self.check_memory(memory)?;
        }
        if let Some(layers) = &self.memory_layers {
            self.check_memory_layers(layers)?;
        }
        if let Some(session) = &self.session {
            self.check_session(session)?;
        }
        self.origin.as_ref().map_or(Ok(()), |origin| self.check_origin(origin))
    }

    fn check_memory(&self, memory: &MemorySection) -> Result<(), ManifestError> {
        if !memory.parts.is_empty() {
            self.at_least("memory.parts", PARTS_VERSION)?;
        }
        at_most("memory parts", memory.parts.len() as u64, MEMORY_PARTS)?;
        for (place, part) in memory.parts.iter().enumerate() {
            if !part.parts.is_empty() || (part.space, part.dim) != (memory.space, memory.dim) {
                return Err(ManifestError::MemoryPart { place });
            }
        }
        for one in std::iter::once(memory).chain(&memory.parts) {
            at_most("memory tensors", one.tensors.len() as u64, TENSORS)?;
            for (name, tensor) in &one.tensors {
                self.check_blocked(name, tensor)?;
            }
        }
        Ok(())
    }

    fn check_session(&self, session: &SessionSection) -> Result<(), ManifestError> {
        self.at_least("session", SESSION_VERSION)?;
        at_most("session tensors", session.tensors.len() as u64, TENSORS)?;
        let mut tensors = session.tensors.iter();
        tensors.try_for_each(|(name, tensor)| self.check_blocked(name, tensor))
    }

    fn check_memory_layers(&self, section: &MemoryLayersSection) -> Result<(), ManifestError> {
        self.at_least("memory_layers", LAYERS_VERSION)?;
        let MemoryLayersSection { layers, tensors, .. } = section;
        if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) {
            return Err(ManifestError::MemoryLayers { found: layers.clone() });
        }
        at_most("memory layers' tensors", tensors.len() as u64, TENSORS)?;
        tensors.iter().try_for_each(|(name, tensor)| self.check_tensor(name, tensor))
    }

    /// A section needs a version.
    fn at_least(&self, section: &'static str, needed: Version) -> Result<(), ManifestError> {
        if self.cart < needed {
            return Err(ManifestError::SectionVersion { section, found: self.cart, needed });
        }
        Ok(())
    }

    fn check_version(&self) -> Result<(), ManifestError> {
        if self.cart.major > FORMAT_VERSION.major {
            return Err(ManifestError::NewerMajor { found: self.cart });
        }
        match self.critical.iter().find(|feature| !KNOWN_CRITICAL.contains(&feature.as_str())) {
            Some(feature) => Err(ManifestError::UnknownCritical { feature: feature.clone() }),
            None => Ok(()),
        }
    }

    fn check_uses(&self) -> Result<(), ManifestError> {
        let uses = self.uses();
        let mut used = HashSet::with_capacity(uses.len());
        for (what, blob) in uses {
            if !self.blobs.contains_key(&blob) {
                return Err(ManifestError::UnlistedBlob { what, blob });
            }
            used.insert(blob);
        }
        // A later minor version may name blobs in sections that we only carry along.
        if used.len() == self.blobs.len() || self.cart > LAYERS_VERSION {
            return Ok(());
        }
        let unused = self.blobs.keys().find(|blob| !used.contains(blob));
        unused.map_or(Ok(()), |&blob| Err(ManifestError::UnusedBlob { blob }))
    }

    fn check_tensor(&self, name: &TensorName, tensor: &TensorEntry) -> Result<(), ManifestError> {
        at_most("dimensions", tensor.shape.len() as u64, DIMENSIONS as u64)?;
        let needed = size_of(name, tensor.dtype, &tensor.shape)?;
        self.check_size(name, tensor.dtype, &tensor.shape, tensor.blob, needed)
    }

    fn check_blocked(
        &self,
        name: &TensorName,
        tensor: &BlockedTensor,
    ) -> Result<(), ManifestError> {
        at_most("dimensions", tensor.shape.len() as u64, DIMENSIONS as u64)?;
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let per_block = tensor.rows_per_block;
        let found = tensor.blocks.len() as u64;
        if tensor.shape.is_empty() || per_block == 0 || rows.div_ceil(per_block) != found {
            return Err(ManifestError::Blocks {
                tensor: name.to_string(),
                rows,
                rows_per_block: per_block,
                found,
            });
        }
        for (index, &blob) in tensor.blocks.iter().enumerate() {
            let mut shape = tensor.shape.clone();
            shape[0] = per_block.min(rows - per_block * index as u64);
            let needed = size_of(name, tensor.dtype, &shape)?;
            self.check_size(name, tensor.dtype, &shape, blob, needed)?;
        }
        Ok(())
    }

    fn check_size(
        &self,
        name: &TensorName,
        dtype: DType,
        shape: &[u64],
        blob: BlobId,
        needed: u64,
    ) -> Result<(), ManifestError> {
        let found = self.blobs[&blob].size;
        if needed == found {
            return Ok(());
        }
        let (tensor, shape) = (name.to_string(), shape.to_vec());
        Err(ManifestError::Size { tensor, dtype, shape, needed, found })
    }

    fn check_origin(&self, origin: &Origin) -> Result<(), ManifestError> {
        at_most("files", origin.files.len() as u64, FILES as u64)?;
        let mut previous: Option<&str> = None;
        for file in &origin.files {
            if !is_plain_path(&file.path)
                || previous.is_some_and(|previous| previous >= file.path.as_str())
            {
                return Err(ManifestError::Path { path: file.path.clone() });
            }
            previous = Some(&file.path);
            let found = file.pieces.iter().try_fold(0_u64, |sum, piece| match piece {
                Piece::Blob(blob) => sum.checked_add(self.blobs[blob].size),
                Piece::Zeros(zeros) => sum.checked_add(*zeros),
            });
            if found != Some(file.size) {
                return Err(ManifestError::Pieces {
                    path: file.path.clone(),
                    size: file.size,
                    found: found.unwrap_or(u64::MAX),
                });
            }
        }
        Ok(())
    }
}

impl BlobEntry {
    /// How many segment digests a blob of this size carries: none up to 16 MiB.
    pub const fn segments_for(size: u64) -> u64 {
        if size > SEGMENT { size.div_ceil(SEGMENT) } else { 0 }
    }

    fn check(&self, blob: BlobId) -> Result<(), ManifestError> {
        let allowed = Self::segments_for(self.size);
        let found = self.segments.len() as u64;
        if found == allowed {
            return Ok(());
        }
        Err(ManifestError::Segments { blob, size: self.size, found, allowed })
    }
}

/// Version and critical features come before the schema, so that a manifest of the future is
/// refused by name and not as a broken one.
pub(super) fn check_version(value: &Value) -> Result<(), ManifestError> {
    let field = value.get("cart");
    let version: Version = field
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ManifestError::NotAManifest {
            found: field.map_or_else(|| "absent".to_owned(), ToString::to_string),
        })?;
    let critical = value.get("critical").and_then(Value::as_array).into_iter().flatten();
    let probe = Manifest {
        cart: version,
        critical: critical.filter_map(Value::as_str).map(str::to_owned).collect(),
        ..Manifest::new()
    };
    probe.check_version()
}

fn size_of(name: &TensorName, dtype: DType, shape: &[u64]) -> Result<u64, ManifestError> {
    dtype.size_of(shape).map_err(|source| ManifestError::Shape { tensor: name.to_string(), source })
}

fn at_most(what: &'static str, found: u64, allowed: u64) -> Result<(), ManifestError> {
    if found > allowed {
        return Err(ManifestError::TooMany { what, found, allowed });
    }
    Ok(())
}

fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
