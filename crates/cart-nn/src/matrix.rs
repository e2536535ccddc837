//! Weight matrices as they are stored, and linear layers made of them.

use cart_format::DType;
use half::{bf16, f16};

use crate::bytes::SharedBytes;
use crate::kernel::activations::Quantized;
use crate::kernel::format::{self, with_format};
use crate::kernel::{Kernels, float, quantized, vector};
use crate::parallel::Rows;

/// A weight matrix `[outputs, inputs]` of a supported type, with as many bytes as that takes,
/// aligned for the type. Loading checks that.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) bytes: SharedBytes,
}

impl Matrix {
    /// Whether matrices of this type can be multiplied.
    pub(crate) fn supports(dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || format::is_supported(dtype)
    }

    /// Writes row `row` as `f32`.
    pub(crate) fn read_row(&self, kernels: Kernels, row: usize, values: &mut [f32]) {
        let row_bytes = self.bytes.len() / self.outputs;
        let bytes = &self.bytes[row * row_bytes..][..row_bytes];
        match self.dtype {
            DType::F32 => values.copy_from_slice(cast(bytes)),
            DType::F16 => float::widen::<f16>(kernels, cast(bytes), values),
            DType::BF16 => float::widen::<bf16>(kernels, cast(bytes), values),
            dtype => with_format!(
                dtype,
                F => format::dequantize::<F>(bytes, values),
                else unreachable!("loading refuses other types")
            ),
        }
    }

    fn product(
        &self,
        kernels: Kernels,
        input: &[f32],
        codes: Option<&Quantized>,
        out: Rows<'_, f32>,
        column: usize,
    ) {
        let width = self.inputs;
        match self.dtype {
            DType::F32 => {
                float::product::<f32>(kernels, cast(&self.bytes), width, input, out, column);
            }
            DType::F16 => {
                float::product::<f16>(kernels, cast(&self.bytes), width, input, out, column);
            }
            DType::BF16 => {
                float::product::<bf16>(kernels, cast(&self.bytes), width, input, out, column);
            }
            dtype => {
                let codes = codes.expect("a layer with quantized parts quantizes its input");
                let weights = quantized::Weights {
                    dtype,
                    bytes: &self.bytes,
                    outputs: self.outputs,
                    inputs: width,
                };
                quantized::product(kernels, weights, codes, out, column);
            }
        }
    }
}

/// Bytes as little-endian numbers; loading aligned them.
fn cast<T: float::Float>(bytes: &[u8]) -> &[T] {
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
        let any_quantized = self.parts.iter().any(|part| part.matrix.dtype.is_quantized());
        let codes = any_quantized.then(|| Quantized::new(kernels, input, self.inputs));
        let out = self.products(kernels, input, codes.as_ref(), rows);
        self.with_bias(kernels, out)
    }

    /// `[rows, outputs]`, without biases.
    fn products(
        &self,
        kernels: Kernels,
        input: &[f32],
        codes: Option<&Quantized>,
        rows: usize,
    ) -> Vec<f32> {
        let mut out = vec![0.0; rows * self.outputs];
        let mut column = 0;
        for part in &self.parts {
            let target = Rows::new(&mut out, self.outputs);
            part.matrix.product(kernels, input, codes, target, column);
            column += part.matrix.outputs;
        }
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
        self.parts.iter().map(|part| part.matrix.bytes.len() as u64).sum()
    }
}
