//! Looking for values that are no numbers in weights, while they are hashed.

use std::collections::BTreeSet;

use cart_format::{BlobId, DType, Manifest, TensorName, first_not_finite};
use serde::Serialize;
use thiserror::Error;

/// The first value of the weights that is infinite or not a number.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[error(
    "tensor `{tensor}` ({dtype} {shape:?}) is not finite: the first value that is infinite or no number is {} {position:?}; pack the model again from a sound copy",
    if dtype.is_quantized() { "in the block at" } else { "at" }
)]
pub struct NotFinite {
    /// The first such tensor, in the order of names.
    pub tensor: TensorName,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where the first such value is, or its block begins: an index for each axis.
    pub position: Vec<u64>,
}

/// What was looked at: every value of the model's float tensors, and every scale of its quantized
/// ones. A tensor whose blob is damaged or missing is not among them: its bytes are not those of
/// the cartridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FiniteScan {
    /// Tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The first value that is infinite or not a number; the same at every number of threads.
    pub first: Option<Box<NotFinite>>,
}

/// A value that is no number: the blob, the type that it was read as, and the element's index.
pub(crate) type Place = (BlobId, DType, u64);

/// Looks through a range of a blob that is shown to it in order. A block belongs to the range that
/// it begins in.
#[derive(Debug)]
pub(crate) struct Scan {
    dtype: DType,
    block: usize,
    /// Bytes of a block that began before the range.
    skip: usize,
    /// Where the next block begins in the blob.
    at: u64,
    /// The bytes so far of a block that was not shown whole.
    partial: Vec<u8>,
    first: Option<u64>,
}

impl Scan {
    /// * `start`: where the range begins in the blob
    pub(crate) fn new(dtype: DType, start: u64) -> Self {
        let block = dtype.block_bytes();
        let at = start.next_multiple_of(block);
        let (block, skip) = (block as usize, (at - start) as usize);
        Self { dtype, block, skip, at, partial: Vec::new(), first: None }
    }

    /// Takes the next bytes.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let mut bytes = &bytes[skipped..];
        if !self.partial.is_empty() {
            let (head, rest) = bytes.split_at(self.missing().min(bytes.len()));
            self.partial.extend_from_slice(head);
            if self.missing() > 0 {
                return;
            }
            let mut block = std::mem::take(&mut self.partial);
            self.look(&block);
            block.clear();
            (self.partial, bytes) = (block, rest);
        }
        let (blocks, rest) = bytes.split_at(bytes.len() / self.block * self.block);
        self.look(blocks);
        self.partial.extend_from_slice(rest);
    }

    /// Bytes that the last block still lacks.
    pub(crate) fn missing(&self) -> usize {
        if self.partial.is_empty() { 0 } else { self.block - self.partial.len() }
    }

    /// The index of the first element that is no number.
    pub(crate) fn first(&self) -> Option<u64> {
        self.first
    }

    fn look(&mut self, blocks: &[u8]) {
        if self.first.is_none() {
            let before = self.at / self.block as u64 * self.dtype.block_elements();
            self.first = first_not_finite(self.dtype, blocks).map(|index| before + index);
        }
        self.at += blocks.len() as u64;
    }
}

/// What was looked at in the tensors of a manifest, and the first of the places by tensor and
/// position.
///
/// * `damaged`: blobs whose bytes are not those of the manifest
pub(crate) fn scanned(
    manifest: &Manifest,
    places: &[Place],
    damaged: &BTreeSet<BlobId>,
) -> FiniteScan {
    let mut scan = FiniteScan::default();
    for (name, entry) in &manifest.model.tensors {
        if damaged.contains(&entry.blob) {
            continue;
        }
        scan.tensors += 1;
        scan.bytes += manifest.blobs.get(&entry.blob).map_or(0, |blob| blob.size);
        let of_tensor =
            places.iter().filter(|(blob, dtype, _)| (*blob, *dtype) == (entry.blob, entry.dtype));
        if scan.first.is_none()
            && let Some(first) = of_tensor.map(|place| place.2).min()
        {
            scan.first = Some(Box::new(NotFinite {
                tensor: name.clone(),
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                position: position(first, &entry.shape),
            }));
        }
    }
    scan
}

/// The index on each axis of an element, from its index in C order.
fn position(mut element: u64, shape: &[u64]) -> Vec<u64> {
    let mut position = vec![0; shape.len()];
    for (index, &dim) in position.iter_mut().zip(shape).rev() {
        *index = element % dim;
        element /= dim;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_the_last_axis_first() {
        assert_eq!(position(0, &[2, 3, 4]), [0, 0, 0]);
        assert_eq!(position(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(position(7, &[2, 3, 4]), [0, 1, 3]);
        assert!(position(0, &[]).is_empty());
    }

    /// Blocks of 34 bytes, cut into two ranges at every place, each shown in pieces of every size.
    #[test]
    fn a_block_is_looked_at_once_wherever_it_is_cut() {
        let mut bytes = [0; 5 * 34];
        bytes[2 * 34..2 * 34 + 2].copy_from_slice(&[0xff; 2]);
        for cut in 0..bytes.len() {
            for piece in [1, 2, 33, 34, 35, 1000] {
                let found: Vec<u64> = [0..cut, cut..bytes.len()]
                    .into_iter()
                    .filter_map(|range| {
                        let mut scan = Scan::new(DType::Q8_0, range.start as u64);
                        bytes[range.clone()].chunks(piece).for_each(|part| scan.see(part));
                        let missing = scan.missing();
                        scan.see(&bytes[range.end..range.end + missing]);
                        scan.first()
                    })
                    .collect();
                assert_eq!(found, [64], "cut at {cut}, pieces of {piece}");
            }
        }
    }
}
