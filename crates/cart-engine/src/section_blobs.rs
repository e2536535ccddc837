//! The blobs of a manifest's section: the blocks of its tensors, and what goes with the section.

use std::collections::BTreeSet;

use cart_format::{BlobId, BlockedTensor, DType, Manifest};

/// Takes blobs out of a manifest, apart from those that it still uses.
pub(crate) fn forget<'b>(manifest: &mut Manifest, blobs: impl Iterator<Item = &'b BlobId>) {
    let used: BTreeSet<BlobId> = manifest.uses().into_iter().map(|(_, blob)| blob).collect();
    for blob in blobs.filter(|blob| !used.contains(blob)) {
        manifest.blobs.remove(blob);
    }
}

/// A tensor whose blocks are the next `count` of `blobs`.
pub(crate) fn blocked(
    (dtype, shape): (DType, &[u64]),
    rows_per_block: u64,
    blobs: &mut impl Iterator<Item = BlobId>,
    count: usize,
) -> BlockedTensor {
    let blocks: Vec<BlobId> = blobs.take(count).collect();
    assert_eq!(blocks.len(), count, "there is a blob for each block");
    BlockedTensor { dtype, shape: shape.to_vec(), rows_per_block, blocks }
}

/// The bytes of a tensor: its blocks one after the other.
pub(crate) fn joined<E>(
    tensor: &BlockedTensor,
    read: impl Fn(&BlobId) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let mut bytes = Vec::new();
    for block in &tensor.blocks {
        bytes.extend_from_slice(&read(block)?);
    }
    Ok(bytes)
}
