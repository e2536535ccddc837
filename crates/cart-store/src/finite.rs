//! Reading the weights for values that are no numbers, on all cores.

use std::ops::Range;

use cart_format::{TensorEntry, TensorName, first_not_finite};
use rayon::prelude::*;
use serde::Serialize;
use thiserror::Error;

use crate::blob_source::BlobError;
use crate::cartridge::Cartridge;
use crate::file_error::FileError;
use crate::hashing::{BUFFER, with_buffer};

/// Bytes that one core looks through at a time, about.
const UNIT: u64 = 4 << 20;

/// Why weights can't be computed with.
#[derive(Debug, Error)]
pub enum FiniteError {
    /// A value is infinite or not a number.
    #[error(
        "tensor `{tensor}` ({dtype} {shape:?}) is not finite: the first value that is infinite or no number is {} {position:?}; pack the model again from a sound copy",
        if dtype.is_quantized() { "in the block at" } else { "at" }
    )]
    NotFinite {
        /// The first such tensor, in the order of names.
        tensor: TensorName,
        /// Its element type.
        dtype: cart_format::DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Where the first such value is, or its block begins: an index for each axis.
        position: Vec<u64>,
    },
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FiniteScan {
    /// Tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part of a tensor.
struct Unit<'a> {
    name: &'a TensorName,
    entry: &'a TensorEntry,
    range: Range<u64>,
}

impl Cartridge {
    /// Looks at every value of the model's float tensors, and at every scale of its quantized ones.
    ///
    /// # Errors
    /// One is infinite or not a number: the first, at every number of threads. Or a blob can't be
    /// read.
    pub fn check_finite(&self) -> Result<FiniteScan, FiniteError> {
        let tensors = &self.manifest().model.tensors;
        let mut units = Vec::new();
        let mut scan = FiniteScan::default();
        for (name, entry) in tensors {
            let len = self.manifest().blobs.get(&entry.blob).map_or(0, |blob| blob.size);
            let step = whole_blocks(entry, UNIT);
            let starts = (0..len).step_by(step as usize);
            units.extend(starts.map(|at| Unit { name, entry, range: at..len.min(at + step) }));
            scan.tensors += 1;
            scan.bytes += len;
        }
        let failed = units.par_iter().find_map_first(|unit| self.check_unit(unit).err());
        failed.map_or(Ok(scan), Err)
    }

    fn check_unit(&self, unit: &Unit<'_>) -> Result<(), FiniteError> {
        let location = self.locate(&unit.entry.blob)?;
        let dtype = unit.entry.dtype;
        with_buffer(|buffer| {
            let step = whole_blocks(unit.entry, BUFFER as u64);
            let mut at = unit.range.start;
            while at < unit.range.end {
                let part = &mut buffer[..step.min(unit.range.end - at) as usize];
                location.read_at(part, at)?;
                if let Some(index) = first_not_finite(dtype, part) {
                    let before = at / dtype.block_bytes() * dtype.block_elements();
                    return Err(FiniteError::NotFinite {
                        tensor: unit.name.clone(),
                        dtype,
                        shape: unit.entry.shape.clone(),
                        position: position(before + index, &unit.entry.shape),
                    });
                }
                at += part.len() as u64;
            }
            Ok(())
        })
    }
}

/// The most whole blocks that fit `bytes`, in bytes.
fn whole_blocks(entry: &TensorEntry, bytes: u64) -> u64 {
    let block = entry.dtype.block_bytes();
    bytes / block * block
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
}
