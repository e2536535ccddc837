//! The tensors of a snapshot, taken one by one; what is left over is refused by name.

use std::collections::BTreeMap;

use cart_format::DType;

use crate::snapshot::{MemorySnapshot, MemoryTensor, RestoreError};

/// The tensors that were not asked for yet.
pub(super) struct Tensors<'s> {
    left: BTreeMap<&'s str, &'s MemoryTensor>,
}

impl<'s> Tensors<'s> {
    pub(super) fn new(snapshot: &'s MemorySnapshot) -> Result<Self, RestoreError> {
        let mut left = BTreeMap::new();
        for tensor in &snapshot.tensors {
            if left.insert(tensor.name.as_str(), tensor).is_some() {
                return Err(RestoreError::StrayTensor { name: tensor.name.clone() });
            }
        }
        Ok(Self { left })
    }

    /// The bytes of a tensor, after its type, shape and size were checked. Where the shape has no
    /// rows, the tensor must not be there.
    pub(super) fn take(
        &mut self,
        name: &'static str,
        dtype: DType,
        shape: Vec<u64>,
    ) -> Result<&'s [u8], RestoreError> {
        if shape[0] == 0 {
            return Ok(&[]);
        }
        let tensor = self.left.remove(name).ok_or(RestoreError::MissingTensor { name })?;
        if tensor.dtype != dtype || tensor.shape != shape {
            return Err(RestoreError::Layout {
                name: name.to_owned(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                expected_dtype: dtype,
                expected_shape: shape,
            });
        }
        let expected =
            shape.iter().fold(dtype.block_bytes(), |size, &axis| size.saturating_mul(axis));
        if tensor.bytes.len() as u64 != expected {
            let found = tensor.bytes.len();
            return Err(RestoreError::Bytes { name: name.to_owned(), found, expected });
        }
        Ok(&tensor.bytes)
    }

    pub(super) fn floats(
        &mut self,
        name: &'static str,
        dim: usize,
    ) -> Result<Vec<f32>, RestoreError> {
        self.take(name, DType::F32, vec![dim as u64]).map(floats)
    }

    pub(super) fn finish(self) -> Result<(), RestoreError> {
        match self.left.into_keys().next() {
            Some(name) => Err(RestoreError::StrayTensor { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

pub(super) fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value)).collect()
}
