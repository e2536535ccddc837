//! Weight matrices as they are stored, and linear layers made of them.

use std::ops::Range;

use cart_format::DType;
use half::{bf16, f16};

use crate::bytes::SharedBytes;
use crate::kernel::activations::Quantized;
use crate::kernel::format::{self, with_format};
use crate::kernel::memory::Arena;
use crate::kernel::packed::{OUTPUTS, Packed};
use crate::kernel::product::{self, Target};
use crate::kernel::tiles::Tiles;
use crate::kernel::{Kernels, float, floats, vector};
use crate::parallel::{Rows, split, written};

/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 32 << 10;

/// A weight matrix `[outputs, inputs]` of a supported type.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    dtype: DType,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    /// Floats where the source has them, aligned.
    Float(SharedBytes),
    /// Blocks in tiles.
    Packed(Packed),
}

impl Matrix {
    /// Whether matrices of this type can be multiplied.
    pub(crate) fn supports(dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || format::is_supported(dtype)
    }

    /// A matrix of a supported type, with as many bytes as that takes, aligned for the type. Blocks
    /// are packed, and their bytes let go of.
    pub(crate) fn new(
        arena: &mut Arena,
        dtype: DType,
        shape: [usize; 2],
        bytes: SharedBytes,
    ) -> Self {
        if format::is_supported(dtype) {
            return Self::packed(Tiles::new(arena, dtype, shape), &bytes);
        }
        let [outputs, inputs] = shape;
        Self { dtype, outputs, inputs, weights: Weights::Float(bytes) }
    }

    /// A matrix some of whose tiles are packed; the others are, and what is read of their bytes is let
    /// go of.
    pub(crate) fn packed(tiles: Tiles, bytes: &SharedBytes) -> Self {
        let (dtype, [outputs, inputs]) = tiles.kind();
        let mut released = 0;
        let mut release = |done| {
            bytes.release(released..done);
            released = done;
        };
        let weights = Weights::Packed(tiles.finish(bytes, &mut release));
        Self { dtype, outputs, inputs, weights }
    }

    /// Bytes that a product reads.
    fn len(&self) -> usize {
        match &self.weights {
            Weights::Float(bytes) => bytes.len(),
            Weights::Packed(packed) => packed.len(),
        }
    }

    /// Bytes of its tiles; none where it is used as it was.
    pub(crate) fn packed_bytes(&self) -> u64 {
        match &self.weights {
            Weights::Float(_) => 0,
            Weights::Packed(packed) => packed.len() as u64,
        }
    }

    fn is_packed(&self) -> bool {
        matches!(self.weights, Weights::Packed(_))
    }

    /// Writes row `row` as `f32`.
    pub(crate) fn read_row(&self, kernels: Kernels, row: usize, values: &mut [f32]) {
        let bytes = match &self.weights {
            Weights::Packed(packed) => {
                return with_format!(
                    self.dtype,
                    F => packed.read_row::<F>(row, values),
                    else unreachable!("only blocks are packed")
                );
            }
            Weights::Float(bytes) => bytes,
        };
        let row_bytes = bytes.len() / self.outputs;
        let bytes = &bytes[row * row_bytes..][..row_bytes];
        match self.dtype {
            DType::F32 => values.copy_from_slice(cast(bytes)),
            DType::F16 => float::widen::<f16>(kernels, cast(bytes), values),
            DType::BF16 => float::widen::<bf16>(kernels, cast(bytes), values),
            _ => unreachable!("loading refuses other types"),
        }
    }

    /// Tasks that a product can be cut into: tiles, or panels of float rows.
    fn tiles(&self) -> usize {
        self.outputs.div_ceil(OUTPUTS)
    }

    /// Writes the products of `tiles`.
    ///
    /// # Safety
    /// Nobody else has the tiles' columns of the target.
    unsafe fn product(
        &self,
        kernels: Kernels,
        tiles: Range<usize>,
        input: &[f32],
        codes: Option<&Quantized>,
        target: Target<'_>,
    ) {
        let bytes = match &self.weights {
            Weights::Packed(packed) => {
                let codes = codes.expect("a layer with packed parts quantizes its input");
                return with_format!(
                    self.dtype,
                    // SAFETY: passed on to the caller.
                    F => unsafe { product::product::<F>(kernels, packed, tiles, codes, target) },
                    else unreachable!("only blocks are packed")
                );
            }
            Weights::Float(bytes) => bytes,
        };
        let outputs = tiles.start * OUTPUTS..self.outputs.min(tiles.end * OUTPUTS);
        let width = self.inputs;
        // SAFETY: passed on to the caller.
        unsafe {
            match self.dtype {
                DType::F32 => {
                    float::product::<f32>(kernels, cast(bytes), width, outputs, input, target);
                }
                DType::F16 => {
                    float::product::<f16>(kernels, cast(bytes), width, outputs, input, target);
                }
                DType::BF16 => {
                    float::product::<bf16>(kernels, cast(bytes), width, outputs, input, target);
                }
                _ => unreachable!("loading refuses other types"),
            }
        }
    }
}

/// Bytes as little-endian numbers; loading aligned them.
fn cast<T: floats::Element>(bytes: &[u8]) -> &[T] {
    const { assert!(cfg!(target_endian = "little"), "weights are little-endian and not copied") };
    // SAFETY: `Float` types are plain numbers, for which every bit pattern is valid.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "loading aligns weights");
    values
}

/// One or several matrices on the same input, their outputs side by side.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    parts: Vec<Part>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

#[derive(Clone, Debug)]
struct Part {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// A layer of matrices of equal inputs, each with an optional bias.
    pub(crate) fn new(parts: Vec<(Matrix, Option<Vec<f32>>)>) -> Self {
        let parts: Vec<_> = parts.into_iter().map(|(matrix, bias)| Part { matrix, bias }).collect();
        let inputs = parts[0].matrix.inputs;
        assert!(parts.iter().all(|part| part.matrix.inputs == inputs));
        let outputs = parts.iter().map(|part| part.matrix.outputs).sum();
        Self { parts, inputs, outputs }
    }

    /// `[rows, outputs]` from `[rows, inputs]`.
    pub(crate) fn apply(&self, kernels: Kernels, input: &[f32]) -> Vec<f32> {
        let rows = input.len() / self.inputs;
        let any_packed = self.parts.iter().any(|part| part.matrix.is_packed());
        let codes = any_packed.then(|| Quantized::new(kernels, input, self.inputs));
        let out = self.products(kernels, input, codes.as_ref(), rows);
        self.with_bias(kernels, out)
    }

    /// `[rows, outputs]`, without biases. The tiles of all parts are shared out together.
    fn products(
        &self,
        kernels: Kernels,
        input: &[f32],
        codes: Option<&Quantized>,
        rows: usize,
    ) -> Vec<f32> {
        let len = rows * self.outputs;
        if self.parts.iter().all(|part| part.matrix.is_packed()) {
            // SAFETY: packed products write every output of every row.
            return unsafe {
                written(len, self.outputs, |target| self.fill(kernels, input, codes, rows, target))
            };
        }
        let mut out = vec![0.0; len];
        self.fill(kernels, input, codes, rows, Rows::new(&mut out, self.outputs));
        out
    }

    fn fill(
        &self,
        kernels: Kernels,
        input: &[f32],
        codes: Option<&Quantized>,
        rows: usize,
        target: Rows<'_, f32>,
    ) {
        let tiles = self.parts.iter().map(|part| part.matrix.tiles()).sum::<usize>();
        let grain = TASK_BYTES * tiles / (self.bytes() as usize * rows).max(1);
        split(tiles, grain, &|range| {
            let (mut tile, mut column) = (0, 0);
            for Part { matrix, .. } in &self.parts {
                let end = tile + matrix.tiles();
                let own = range.start.max(tile)..range.end.min(end);
                if !own.is_empty() {
                    let own = own.start - tile..own.end - tile;
                    let target = Target { rows: target, column: column + own.start * OUTPUTS };
                    // SAFETY: each tile is in one range of the split.
                    unsafe { matrix.product(kernels, own, input, codes, target) };
                }
                (tile, column) = (end, column + matrix.outputs);
            }
        });
    }

    /// Sixteen outputs for each of `tiles`, side by side: `[rows, tiles · 16]`; fewer where the layer ends. For a layer
    /// of one matrix without a bias.
    ///
    /// * `input`: `[rows, inputs]`
    /// * `tiles`: from the first to the last, each once
    pub(crate) fn tiles(&self, kernels: Kernels, input: &[f32], tiles: &[usize]) -> Vec<f32> {
        let [Part { matrix, bias: None }] = &self.parts[..] else {
            unreachable!("an output matrix is one, and has no bias")
        };
        let rows = input.len() / self.inputs;
        let codes = matrix.is_packed().then(|| Quantized::new(kernels, input, self.inputs));
        let last = tiles.last().map_or(0, |tile| self.outputs - tile * OUTPUTS);
        let width = tiles.len().saturating_sub(1) * OUTPUTS + last.min(OUTPUTS);
        let mut out = vec![0.0; rows * width];
        let target = Rows::new(&mut out, width);
        split(tiles.len(), 1, &|part| {
            let mut at = part.start;
            for run in tiles[part].chunk_by(|tile, next| tile + 1 == *next) {
                let target = Target { rows: target, column: at * OUTPUTS };
                let range = run[0]..run[0] + run.len();
                // SAFETY: each place among the tiles is in one part of the split.
                unsafe { matrix.product(kernels, range, input, codes.as_ref(), target) };
                at += run.len();
            }
        });
        out
    }

    fn with_bias(&self, kernels: Kernels, mut out: Vec<f32>) -> Vec<f32> {
        let mut column = 0;
        for part in &self.parts {
            let end = column + part.matrix.outputs;
            if let Some(bias) = &part.bias {
                for row in out.chunks_exact_mut(self.outputs) {
                    vector::add(kernels, &mut row[column..end], bias);
                }
            }
            column = end;
        }
        out
    }

    /// Bytes of the matrices.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.matrix.len() as u64).sum()
    }
}
