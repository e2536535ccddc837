//! Weights as the store has them: mapped. What the model copies is let go of again.

use std::collections::BTreeMap;

use cart_nn::{SharedBytes, WeightTensor};
use cart_store::{BlobError, MappedBlob, Verified};

/// Every tensor of a cartridge. Each map lives as long as the model that uses it.
///
/// # Errors
/// A blob can't be mapped.
pub fn weights(verified: &Verified) -> Result<BTreeMap<String, WeightTensor>, BlobError> {
    let mut weights = BTreeMap::new();
    for (name, entry) in &verified.manifest().model.tensors {
        let tensor = WeightTensor {
            dtype: entry.dtype,
            shape: entry.shape.iter().map(|&dim| dim as usize).collect(),
            bytes: SharedBytes::mapped(verified.map(&entry.blob)?, MappedBlob::release),
        };
        weights.insert(name.to_string(), tensor);
    }
    Ok(weights)
}
