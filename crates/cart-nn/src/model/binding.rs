//! Tensors of a source, checked against what the architecture says.

use std::ops::Range;

use cart_format::DType;
use cart_format::arch::{NormKind, NormSpec};
use half::{bf16, f16};

use crate::ahead::PackedAhead;
use crate::bytes::{SharedBytes, WeightSource, WeightTensor};
use crate::kernel::memory::Arena;
use crate::matrix::Matrix;
use crate::model::{LoadError, WeightBytes};
use crate::norm::Norm;

/// Takes tensors from a source and counts their bytes.
pub(crate) struct Binder<'a> {
    source: &'a dyn WeightSource,
    ahead: PackedAhead,
    arena: Arena,
    pub(crate) bytes: WeightBytes,
}

impl<'a> Binder<'a> {
    /// * `ahead`: what of the source is packed already
    pub(crate) fn new(source: &'a dyn WeightSource, ahead: PackedAhead) -> Self {
        Self { source, ahead, arena: Arena::default(), bytes: WeightBytes::default() }
    }

    /// A weight matrix: blocks are packed, floats used where they are unless their address does not
    /// suit their type. `name` is without `.weight`.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Matrix, LoadError> {
        let (dtype, bytes) = self.weight(name, &[outputs, inputs])?;
        let shape = [outputs, inputs];
        match self.ahead.take(&format!("{name}.weight"), dtype, shape) {
            Some(tiles) => Ok(self.counted(Matrix::packed(tiles, &bytes))),
            None => Ok(self.matrix_of(dtype, shape, bytes)),
        }
    }

    /// Rows of a tensor `[…, inputs]`, as matrices; `name` is without `.weight`.
    pub(crate) fn cut(
        &mut self,
        name: &str,
        shape: &[usize],
        rows: &[Range<usize>],
    ) -> Result<Vec<Matrix>, LoadError> {
        let (dtype, bytes) = self.weight(name, shape)?;
        let (&inputs, outer) = shape.split_last().expect("a weight has dimensions");
        let row_bytes = bytes.len() / outer.iter().product::<usize>().max(1);
        let matrix = |rows: &Range<usize>| {
            let part = bytes.slice(rows.start * row_bytes..rows.end * row_bytes);
            let part = part.expect("the rows are inside the tensor");
            self.matrix_of(dtype, [rows.len(), inputs], part)
        };
        Ok(rows.iter().map(matrix).collect())
    }

    fn matrix_of(&mut self, dtype: DType, shape: [usize; 2], bytes: SharedBytes) -> Matrix {
        let matrix = Matrix::new(&mut self.arena, dtype, shape, bytes);
        self.counted(matrix)
    }

    fn counted(&mut self, matrix: Matrix) -> Matrix {
        self.bytes.packed += matrix.packed_bytes();
        matrix
    }

    /// Type and bytes of a weight, aligned unless it will be packed; `name` is without `.weight`.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<(DType, SharedBytes), LoadError> {
        let name = &format!("{name}.weight");
        let tensor = self.tensor(name, shape)?;
        if !Matrix::supports(tensor.dtype) {
            return Err(unsupported(name, tensor.dtype, Matrix::supports));
        }
        if tensor.dtype.is_quantized() {
            return Ok((tensor.dtype, tensor.bytes));
        }
        let align = tensor.dtype.block_bytes() as usize;
        let bytes = if tensor.bytes.as_ptr().addr().is_multiple_of(align) {
            self.bytes.mapped += tensor.bytes.len() as u64;
            tensor.bytes
        } else {
            self.bytes.copied += tensor.bytes.len() as u64;
            aligned(&tensor.bytes)
        };
        Ok((tensor.dtype, bytes))
    }

    /// A vector, as `f32`.
    pub(crate) fn vector(&mut self, name: &str, width: usize) -> Result<Vec<f32>, LoadError> {
        self.floats(name, &[width])
    }

    /// A small tensor, as `f32` in C order.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, shape)?;
        let bytes = &*tensor.bytes;
        let values: Vec<f32> = match tensor.dtype {
            DType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::F16 => {
                bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
            }
            DType::BF16 => {
                bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            found => return Err(unsupported(name, found, is_plain)),
        };
        self.bytes.copied += size_of_val(values.as_slice()) as u64;
        Ok(values)
    }

    /// Divisors of `RoPE`'s frequencies, each over 0.
    pub(crate) fn divisors(&mut self, name: &str, pairs: usize) -> Result<Vec<f64>, LoadError> {
        let divisors: Vec<f64> = self.vector(name, pairs)?.into_iter().map(f64::from).collect();
        match divisors.iter().position(|divisor| !(divisor.is_finite() && *divisor > 0.0)) {
            None => Ok(divisors),
            Some(index) => {
                let found = divisors[index];
                Err(LoadError::RopeFactor { name: name.to_owned(), index, found })
            }
        }
    }

    /// A norm; `name` is without `.weight`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        spec: &NormSpec,
        width: usize,
    ) -> Result<Norm, LoadError> {
        let mut weight = self.vector(&format!("{name}.weight"), width)?;
        if spec.unit_offset {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        let bias = match spec.kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.vector(&format!("{name}.bias"), width)?),
        };
        Ok(Norm { kind: spec.kind, eps: spec.eps as f32, weight, bias })
    }

    /// A tensor of this shape, with as many bytes as that takes.
    pub(crate) fn tensor(&self, name: &str, expected: &[usize]) -> Result<WeightTensor, LoadError> {
        let missing = || LoadError::Missing { name: name.to_owned() };
        let tensor = self.source.tensor(name).ok_or_else(missing)?;
        if tensor.shape != expected {
            return Err(LoadError::Shape {
                name: name.to_owned(),
                found: tensor.shape,
                expected: expected.to_vec(),
            });
        }
        let shape: Vec<u64> = expected.iter().map(|&dim| dim as u64).collect();
        let size = tensor
            .dtype
            .size_of(&shape)
            .map_err(|source| LoadError::Blocks { name: name.to_owned(), source })?;
        if tensor.bytes.len() as u64 != size {
            return Err(LoadError::Size {
                name: name.to_owned(),
                found: tensor.bytes.len(),
                expected: size,
            });
        }
        Ok(tensor)
    }
}

/// Refuses a weight of a type that has no meaning here.
pub(crate) fn unsupported_weight(name: &str, found: DType) -> LoadError {
    unsupported(name, found, Matrix::supports)
}

fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

fn unsupported(name: &str, found: DType, supports: fn(DType) -> bool) -> LoadError {
    let supported = DType::ALL.iter().filter(|dtype| supports(**dtype));
    let supported: Vec<_> = supported.map(|dtype| dtype.name()).collect();
    LoadError::UnsupportedDType { name: name.to_owned(), found, supported: supported.join(", ") }
}

/// A copy at an address that suits every number.
fn aligned(bytes: &[u8]) -> SharedBytes {
    struct Aligned(Vec<u64>);
    impl AsRef<[u8]> for Aligned {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: any bytes of the words are valid bytes.
            unsafe { self.0.align_to::<u8>().1 }
        }
    }
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // The word is laid down again as these very bytes.
        u64::from_le_bytes(word).to_le()
    });
    SharedBytes::new(Aligned(words.collect()))
        .slice(0..bytes.len())
        .expect("the words hold all bytes")
}
