//! A product by itself, to measure it.

use cart_format::DType;
use thiserror::Error;

use crate::bytes::SharedBytes;
use crate::kernel::memory::Arena;
use crate::kernel::{Activations, KernelError, KernelLevel, Kernels};
use crate::matrix::{Linear, Matrix};
use crate::threads::Threads;

/// A linear layer of made-up weights and the rows it is applied to.
#[derive(Debug)]
pub struct TrialProduct {
    kernels: Kernels,
    layer: Linear,
    input: Vec<f32>,
}

/// A product that can't be tried.
#[derive(Debug, Error)]
pub enum TrialError {
    /// The processor lacks the level.
    #[error(transparent)]
    Level(#[from] KernelError),
    /// No products are made with such weights.
    #[error("no product has weights of type {0}; take a float type or one of blocks")]
    Type(DType),
    /// A row of weights is no whole number of blocks.
    #[error("{inputs} inputs are no whole number of blocks of {block} values of type {dtype}")]
    Inputs {
        /// Type of the weights.
        dtype: DType,
        /// Inputs asked for.
        inputs: usize,
        /// Values of a block.
        block: u64,
    },
}

impl TrialProduct {
    /// Weights `[outputs, inputs]` of a type, and `rows` rows of inputs.
    ///
    /// # Errors
    /// A level that the processor lacks, a type without products, or inputs that are no whole
    /// number of the type's blocks.
    pub fn new(
        level: KernelLevel,
        activations: Activations,
        dtype: DType,
        [outputs, inputs]: [usize; 2],
        rows: usize,
    ) -> Result<Self, TrialError> {
        if !Matrix::supports(dtype) {
            return Err(TrialError::Type(dtype));
        }
        let block = dtype.block_elements();
        if inputs == 0 || !(inputs as u64).is_multiple_of(block) {
            return Err(TrialError::Inputs { dtype, inputs, block });
        }
        let kernels = Kernels::new(level)?.with_activations(activations);
        let len = outputs * (inputs as u64 / block * dtype.block_bytes()) as usize;
        // No exponent of these is the one of numbers that are none.
        let bytes: Vec<u8> = (0..len).map(|at| (at * at * 167 / 13) as u8 & 0x3b).collect();
        let matrix =
            Matrix::new(&mut Arena::default(), dtype, [outputs, inputs], SharedBytes::new(bytes));
        let input = (0..rows * inputs).map(|at| (at % 97) as f32 / 48.0 - 1.0).collect();
        Ok(Self { kernels, layer: Linear::new(vec![(matrix, None)]), input })
    }

    /// Applies the layer: quantizes the inputs where the weights are blocks, and multiplies.
    ///
    /// * returns `[rows, outputs]`
    pub fn run(&self, threads: &Threads) -> Vec<f32> {
        threads.run(|| self.layer.apply(self.kernels, &self.input))
    }

    /// Multiplications of a weight with an activation in a run.
    pub fn multiplications(&self) -> u64 {
        (self.input.len() * self.layer.outputs) as u64
    }

    /// Bytes of weights that a run reads.
    pub fn weight_bytes(&self) -> u64 {
        self.layer.bytes()
    }
}
