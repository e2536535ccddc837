//! An architecture bound to its weights.

pub(crate) mod binding;
mod layer;
mod mamba;

use cart_format::arch::Global;
use cart_format::{ArchSpec, DType};
use thiserror::Error;

use crate::ahead::PackedAhead;
use crate::bytes::WeightSource;
use crate::forward::Sample;
use crate::kernel::{Activations, KernelError, KernelLevel, Kernels};
use crate::kv::{KvFormat, KvFormatError};
use crate::matrix::{Linear, Matrix};
use crate::model::binding::Binder;
pub(crate) use crate::model::layer::{DenseMlp, Layer, Mixer, MixerLayer, Mlp, MlpLayer};
use crate::model::layer::{LayerBinder, Ropes};
use crate::norm::Norm;
use crate::rope::Rope;
use crate::state::{LayerShape, State};
use crate::threads::Threads;

/// Why weights can't be bound to an architecture.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A tensor that the architecture needs is absent.
    #[error("tensor `{name}` is missing; the architecture needs it")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another shape than the architecture says.
    #[error("tensor `{name}` is {found:?}, but the architecture says {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the architecture gives.
        expected: Vec<usize>,
    },
    /// A tensor of an element type that can't be computed with.
    #[error("tensor `{name}` is {found}; supported here: {supported}")]
    UnsupportedDType {
        /// The tensor's name.
        name: String,
        /// Its element type.
        found: DType,
        /// Names of the types that would do.
        supported: String,
    },
    /// A tensor whose bytes are not as many as its type and shape say.
    #[error("tensor `{name}` has {found} bytes, but its type and shape say {expected}")]
    Size {
        /// The tensor's name.
        name: String,
        /// Bytes found.
        found: usize,
        /// Bytes by type and shape.
        expected: u64,
    },
    /// A tensor whose type and shape do not give a size.
    #[error("tensor `{name}`: {source}")]
    Blocks {
        /// The tensor's name.
        name: String,
        /// What is wrong.
        source: cart_format::DTypeError,
    },
    /// A tensor of `RoPE` factors that can't be divided by.
    #[error("tensor `{name}` has {found} at index {index}; allowed: finite numbers over 0")]
    RopeFactor {
        /// The tensor's name.
        name: String,
        /// The index.
        index: usize,
        /// The factor there.
        found: f64,
    },
    /// The architecture contradicts itself.
    #[error(transparent)]
    Arch(#[from] cart_format::arch::ArchError),
}

/// Where a model's weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// Bytes used where the [`WeightSource`] has them.
    pub mapped: u64,
    /// Bytes copied or converted at load: norms, biases, and weights at an odd address.
    pub copied: u64,
    /// Bytes of quantized weights, packed at load into the tiles that products read. The source's
    /// own bytes of these are let go of.
    pub packed: u64,
}

/// A decoder: an architecture bound to its weights. Shared freely between threads.
#[derive(Debug)]
pub struct Model {
    pub(crate) spec: ArchSpec,
    pub(crate) kernels: Kernels,
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
    pub(crate) head: Linear,
    /// What of the vocabulary may stand for all of it.
    pub(crate) sample: Option<Sample>,
    /// The distinct rotations of the layers.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) threads: Threads,
    weight_bytes: WeightBytes,
}

impl Model {
    /// Binds the tensors that `spec` names, checking every shape and element type. The model
    /// computes on [`Threads::shared`].
    ///
    /// # Errors
    /// A tensor is missing, or has another shape, an unsupported type or too few bytes.
    pub fn load(spec: &ArchSpec, source: &dyn WeightSource) -> Result<Self, LoadError> {
        Self::load_on(Threads::shared(), spec, source)
    }

    /// As [`Model::load`], for a model that computes on `threads`.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_on(
        threads: &Threads,
        spec: &ArchSpec,
        source: &dyn WeightSource,
    ) -> Result<Self, LoadError> {
        Self::load_packed(threads, spec, source, PackedAhead::default())
    }

    /// As [`Model::load_on`], of which some is packed already. What of the source was shown to `ahead`
    /// is not read again.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_packed(
        threads: &Threads,
        spec: &ArchSpec,
        source: &dyn WeightSource,
        ahead: PackedAhead,
    ) -> Result<Self, LoadError> {
        threads.run(|| Self::bind(threads, spec, source, ahead))
    }

    fn bind(
        threads: &Threads,
        spec: &ArchSpec,
        source: &dyn WeightSource,
        ahead: PackedAhead,
    ) -> Result<Self, LoadError> {
        spec.check()?;
        let naming = spec.naming;
        let mut binder = Binder::new(source, ahead);
        let (vocab, hidden) = (spec.vocab_size as usize, spec.hidden_size as usize);
        let embedding = binder.matrix(naming.global(Global::Embedding), vocab, hidden)?;
        let head = if spec.tied_head {
            embedding.clone()
        } else {
            binder.matrix(naming.global(Global::Head), vocab, hidden)?
        };
        let final_norm = binder.norm(naming.global(Global::FinalNorm), &spec.final_norm, hidden)?;
        let mut ropes = Ropes::default();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, block) in spec.layer_blocks().enumerate() {
            let parts = LayerBinder { binder: &mut binder, naming, index, block, hidden };
            layers.push(parts.bind(&mut ropes)?);
        }
        let ropes: Result<Vec<Rope>, LoadError> = ropes
            .specs
            .into_iter()
            .map(|rope| {
                Rope::new(rope, spec.context_length, |name, pairs| binder.divisors(name, pairs))
            })
            .collect();
        let ropes = ropes?;
        Ok(Self {
            spec: spec.clone(),
            kernels: Kernels::detect(),
            embedding,
            layers,
            final_norm,
            head: Linear::new(vec![(head, None)]),
            sample: Sample::of(spec.vocab_size as usize),
            ropes,
            threads: threads.clone(),
            weight_bytes: binder.bytes,
        })
    }

    /// The same model with the kernels of `level`, for comparisons; a model comes with the best.
    ///
    /// # Errors
    /// The processor lacks the instructions.
    pub fn with_kernel_level(mut self, level: KernelLevel) -> Result<Self, KernelError> {
        let activations = self.kernels.activations();
        self.kernels = Kernels::new(level)?.with_activations(activations);
        Ok(self)
    }

    /// The same model with activations of other bits; a model comes with exact ones.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.kernels = self.kernels.with_activations(activations);
        self
    }

    /// The kernels that are used.
    pub fn kernel_level(&self) -> KernelLevel {
        self.kernels.level()
    }

    /// An empty state, with keys and values as they are computed.
    pub fn new_state(&self) -> State {
        State::new(self.layer_shapes(), KvFormat::F32)
    }

    /// An empty state, with keys and values in `format`.
    ///
    /// # Errors
    /// The format does not suit the heads of a layer.
    pub fn new_state_in(&self, format: KvFormat) -> Result<State, KvFormatError> {
        for (layer, shape) in self.layer_shapes().enumerate() {
            if let LayerShape::Attention { head_dim, .. } = shape
                && !head_dim.is_multiple_of(format.group())
            {
                return Err(KvFormatError { layer, head_dim });
            }
        }
        Ok(State::new(self.layer_shapes(), format))
    }

    /// The threads that compute.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Bytes of the weights, by where they are.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weight_bytes
    }

    /// Bytes of weights that one token reads: every projection and the head once.
    pub fn token_bytes(&self) -> u64 {
        self.layers.iter().map(Layer::bytes).sum::<u64>() + self.head.bytes()
    }

    /// What each layer keeps of the positions that were read.
    pub(crate) fn layer_shapes(&self) -> impl ExactSizeIterator<Item = LayerShape> {
        self.layers.iter().map(Layer::shape)
    }
}
