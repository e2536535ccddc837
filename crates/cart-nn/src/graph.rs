//! The decoder as operations on candle's tensors: for devices other than the CPU, and for
//! gradients.
//!
//! The same [`ArchSpec`] drives it that drives the CPU's decoder, [`Model`](crate::Model), so a
//! family that runs there runs here without a line of code. It reads float weights as they are and
//! blocks as what they stand for. Every operation carries a gradient, whatever stands in
//! [`Parameters`].
//!
//! Begin with [`Graph::load`] to run a model, or with [`load_parameters`] and [`Graph::new`] to put
//! variables in the place of some of its tensors; [`GraphRun`] has tokens for a [`GraphState`];
//! [`GraphTaps`] sees and changes hidden states; [`GraphSpan`] is a prefix of keys and values;
//! [`MemoryLayers`] attend to what memory says; [`Sequences`] reads whole sequences, as training does;
//! [`CrossEntropy`] is the loss over a large vocabulary, [`TeacherLoss`] the distance to another
//! model's predictions, [`Products`] says in what a step multiplies, and [`AdamW`] moves variables along their gradients.

mod adamw;
mod attention;
mod forward;
mod fused;
mod layer;
mod loss;
mod mamba;
mod memory_layers;
mod mlp;
pub mod operations;
mod parameters;
mod saved;
mod scan;
mod sequences;
mod span;
mod state;
mod taps;
mod teacher;

pub use candle_core::{D, DType, Device, Error as TensorError, Tensor, Var, backprop::GradStore};
use cart_format::ArchSpec;
use cart_format::arch::Global;
use thiserror::Error;

pub use adamw::{AdamW, AdamWOptions, AdamWState, StepError};
pub use attention::AttentionInput;
pub use forward::GraphRun;
pub use fused::Products;
pub use loss::{CrossEntropy, cross_entropy};
pub use memory_layers::{MemoryLayerError, MemoryLayers, MemoryRows, MemorySpan};
pub use parameters::{Parameters, load_parameters};
pub use scan::{DualInput, causal_conv, dual_scan, linear_scan};
pub use sequences::Sequences;
pub use span::GraphSpan;
pub use state::GraphState;
pub use taps::GraphTaps;
pub use teacher::{Divergence, RowGroups, TeacherLoss, TeacherTargets, TokenGroups};

use crate::bytes::WeightSource;
use crate::model::LoadError;
use crate::rope::Rope;
use crate::state::LayerShape;
use layer::{Layer, LayerBinder, bind, bind_norm, layer_shape};
use operations::{NormWeights, Turns, wide_dtype};

/// Why a graph can't be made.
#[derive(Debug, Error)]
pub enum GraphLoadError {
    /// The weights don't fit the architecture.
    #[error(transparent)]
    Weights(#[from] LoadError),
    /// The tensor library failed; often there is too little memory on the device.
    #[error("the weights can't be put on the device")]
    Tensor(#[from] candle_core::Error),
}

/// A decoder of tensor operations: an architecture bound to tensors.
pub struct Graph {
    spec: ArchSpec,
    dtype: DType,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: NormWeights,
    head: Tensor,
    /// The distinct rotations of the layers.
    ropes: Vec<Rope>,
    /// What each layer keeps of the positions that were read.
    shapes: Vec<LayerShape>,
    bytes: u64,
}

impl Graph {
    /// Reads the tensors that `spec` asks for onto `device`, its matrices as `dtype`.
    ///
    /// # Errors
    /// As [`load_parameters`].
    pub fn load(
        spec: &ArchSpec,
        source: &dyn WeightSource,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, GraphLoadError> {
        Self::new(spec, &load_parameters(spec, source, device, dtype)?)
    }

    /// Binds tensors to an architecture. Variables among them stay variables: when one is set, the
    /// graph computes with what was set.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn new(spec: &ArchSpec, parameters: &Parameters) -> Result<Self, GraphLoadError> {
        spec.check().map_err(LoadError::from)?;
        check_shapes(spec, parameters)?;
        let naming = spec.naming;
        let weight = |global| bind(parameters, &format!("{}.weight", naming.global(global)));
        let embedding = weight(Global::Embedding)?;
        let head = if spec.tied_head { embedding.clone() } else { weight(Global::Head)? };
        let mut ropes = Vec::new();
        let layers: Result<Vec<Layer>, GraphLoadError> = spec
            .layer_blocks()
            .enumerate()
            .map(|(index, block)| LayerBinder { parameters, naming, index, block }.bind(&mut ropes))
            .collect();
        let ropes: Result<Vec<Rope>, GraphLoadError> = ropes
            .into_iter()
            .map(|rope| {
                Rope::new(rope, spec.context_length, |name, _pairs| divisors(parameters, name))
            })
            .collect();
        let final_norm = naming.global(Global::FinalNorm);
        let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        Ok(Self {
            dtype: embedding.dtype(),
            embedding,
            layers: layers?,
            final_norm: bind_norm(parameters, final_norm, &spec.final_norm)?,
            head,
            ropes: ropes?,
            shapes: spec.layer_blocks().map(layer_shape).collect(),
            spec: spec.clone(),
            bytes: parameters.values().map(|tensor| size(tensor) as u64).sum(),
        })
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// The type of its matrices and hidden states.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The head's matrix, `[vocab, hidden_size]`, for [`CrossEntropy`].
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// An empty state of `batch` sequences that are read together; 1 or more.
    pub fn new_state(&self, batch: usize) -> GraphState {
        GraphState::new(&self.shapes, batch.max(1))
    }

    /// The turns of rows at `positions`.
    fn turns(&self, rope: &Rope, positions: &[usize]) -> candle_core::Result<Turns> {
        let table = rope.table(positions.iter().copied());
        let shape = (positions.len(), table.pairs());
        let dtype = wide_dtype(self.dtype);
        let tensor =
            |values: Vec<f32>| Tensor::from_vec(values, shape, self.device())?.to_dtype(dtype);
        let (cosines, sines) = table.cosines_and_sines();
        Ok(Turns { pairing: table.pairing(), cosines: tensor(cosines)?, sines: tensor(sines)? })
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Graph");
        shown.field("family", &self.spec.family).field("dtype", &self.dtype);
        shown.field("device", self.device()).finish_non_exhaustive()
    }
}

fn check_shapes(spec: &ArchSpec, parameters: &Parameters) -> Result<(), LoadError> {
    for asked in spec.tensors() {
        let found = parameters.get(&asked.name);
        let Some(found) = found else { return Err(LoadError::Missing { name: asked.name }) };
        let expected: Vec<usize> = asked.shape.iter().map(|&dim| dim as usize).collect();
        if found.dims() != expected {
            let (name, found) = (asked.name, found.dims().to_vec());
            return Err(LoadError::Shape { name, found, expected });
        }
    }
    Ok(())
}

/// Divisors of `RoPE`'s frequencies, each over 0.
fn divisors(parameters: &Parameters, name: &str) -> Result<Vec<f64>, GraphLoadError> {
    let divisors: Vec<f64> = bind(parameters, name)?.to_dtype(DType::F64)?.to_vec1()?;
    match divisors.iter().position(|divisor| !(divisor.is_finite() && *divisor > 0.0)) {
        None => Ok(divisors),
        Some(index) => {
            let found = divisors[index];
            Err(LoadError::RopeFactor { name: name.to_owned(), index, found }.into())
        }
    }
}
