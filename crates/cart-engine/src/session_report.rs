//! What a manifest says about its saved session, without reading it.

use cart_format::json::JsonError;
use cart_format::{BasisId, Manifest};
use serde::Serialize;

use crate::session_section;

/// A saved session in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SavedSessionReport {
    /// What its numbers depend on.
    pub basis: BasisId,
    /// Whether the weights beside it made it: only then it can be continued.
    pub fits: bool,
    /// Positions that were read.
    pub positions: u64,
    /// Element type of keys and values.
    pub kv: String,
    /// Tensors that it is kept in.
    pub tensors: usize,
    /// Bytes of its tensors.
    pub bytes: u64,
}

impl SavedSessionReport {
    /// The session of a manifest, if it has one.
    ///
    /// # Errors
    /// The manifest has a number without a canonical form.
    pub fn of(manifest: &Manifest) -> Result<Option<Self>, JsonError> {
        let Some(section) = &manifest.session else { return Ok(None) };
        let blocks = section.tensors.values().flat_map(|tensor| &tensor.blocks);
        let size = |blob| manifest.blobs.get(blob).map_or(0, |entry| entry.size);
        Ok(Some(Self {
            basis: section.basis,
            fits: session_section::basis(manifest)? == section.basis,
            positions: section.positions,
            kv: section.kv.to_string(),
            tensors: section.tensors.len(),
            bytes: blocks.map(size).sum(),
        }))
    }
}
