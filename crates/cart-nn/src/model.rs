//! An architecture bound to its weights.

mod binding;

use cart_format::arch::{
    AttentionSpec, BlockSpec, DenseSpec, Global, MixerSpec, MlpSpec, NormPlacement, Part,
    TensorNaming,
};
use cart_format::{ArchSpec, DType};
use thiserror::Error;

use crate::attention::Attention;
use crate::bytes::WeightSource;
use crate::kernel::{KernelError, KernelLevel, Kernels};
use crate::matrix::{Linear, Matrix};
use crate::model::binding::Binder;
use crate::norm::Norm;
use crate::rope::Rope;
use crate::state::State;

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
    /// The distinct rotations of the layers.
    pub(crate) ropes: Vec<Rope>,
    weight_bytes: WeightBytes,
}

/// A layer bound to its weights.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    pub(crate) qkv: Linear,
    pub(crate) attention: Attention,
    pub(crate) out: Linear,
    pub(crate) after_attention_norm: Option<Norm>,
    pub(crate) mlp_norm: Norm,
    /// Gate and up, or up alone.
    pub(crate) mlp: Linear,
    pub(crate) mlp_spec: MlpSpec,
    pub(crate) down: Linear,
    pub(crate) after_mlp_norm: Option<Norm>,
}

impl Model {
    /// Binds the tensors that `spec` names, checking every shape and element type.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape, an unsupported type or too few bytes.
    pub fn load(spec: &ArchSpec, source: &dyn WeightSource) -> Result<Self, LoadError> {
        spec.check()?;
        let naming = spec.naming;
        let mut binder = Binder::new(source);
        let (vocab, hidden) = (spec.vocab_size as usize, spec.hidden_size as usize);
        let embedding = binder.matrix(naming.global(Global::Embedding), vocab, hidden)?;
        let head = if spec.tied_head {
            embedding.clone()
        } else {
            binder.matrix(naming.global(Global::Head), vocab, hidden)?
        };
        let final_norm = binder.norm(naming.global(Global::FinalNorm), &spec.final_norm, hidden)?;
        let mut rope_specs = Vec::new();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, block) in spec.layer_blocks().enumerate() {
            let MixerSpec::Attention(attention) = &block.mixer;
            let rope = attention.rope.as_ref().map(|rope| {
                rope_specs.iter().position(|known| *known == rope).unwrap_or_else(|| {
                    rope_specs.push(rope);
                    rope_specs.len() - 1
                })
            });
            let parts = LayerBinder { binder: &mut binder, naming, index, block, hidden };
            layers.push(parts.bind(attention, rope)?);
        }
        Ok(Self {
            spec: spec.clone(),
            kernels: Kernels::detect(),
            embedding,
            layers,
            final_norm,
            head: Linear::new(vec![(head, None)]),
            ropes: rope_specs.into_iter().map(Rope::new).collect(),
            weight_bytes: binder.bytes,
        })
    }

    /// The same model with the kernels of `level`, for comparisons; a model comes with the best.
    ///
    /// # Errors
    /// The processor lacks the instructions.
    pub fn with_kernel_level(mut self, level: KernelLevel) -> Result<Self, KernelError> {
        self.kernels = Kernels::new(level)?;
        Ok(self)
    }

    /// The kernels that are used.
    pub fn kernel_level(&self) -> KernelLevel {
        self.kernels.level()
    }

    /// An empty state.
    pub fn new_state(&self) -> State {
        State::new(self.key_widths())
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Bytes of the weights, mapped and copied.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weight_bytes
    }

    /// Bytes of weights that one token reads: every projection and the head once.
    pub fn token_bytes(&self) -> u64 {
        let layers = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.qkv, &layer.out, &layer.mlp, &layer.down].map(Linear::bytes));
        layers.sum::<u64>() + self.head.bytes()
    }

    pub(crate) fn key_widths(&self) -> impl ExactSizeIterator<Item = usize> {
        self.layers.iter().map(|layer| layer.attention.key_width())
    }
}

/// Binds one layer.
struct LayerBinder<'a, 'b> {
    binder: &'a mut Binder<'b>,
    naming: TensorNaming,
    index: usize,
    block: &'a BlockSpec,
    hidden: usize,
}

impl LayerBinder<'_, '_> {
    fn bind(mut self, spec: &AttentionSpec, rope: Option<usize>) -> Result<Layer, LoadError> {
        let block = self.block;
        let hidden = self.hidden;
        let head_dim = spec.head_dim as usize;
        let (heads, kv_heads) = (spec.heads as usize, spec.kv_heads as usize);
        let (query_width, key_width) = (heads * head_dim, kv_heads * head_dim);
        let query = self.matrix(Part::Query, query_width, hidden, spec.qkv_bias)?;
        let key = self.matrix(Part::Key, key_width, hidden, spec.qkv_bias)?;
        let value = self.matrix(Part::Value, key_width, hidden, spec.qkv_bias)?;
        let out = self.matrix(Part::Out, hidden, query_width, spec.out_bias)?;
        let mut head_norm = |part| {
            let norm = spec.qk_norm.as_ref();
            norm.map(|norm| self.binder.norm(&self.name(part), norm, head_dim)).transpose()
        };
        let (query_norm, key_norm) = (head_norm(Part::QueryNorm)?, head_norm(Part::KeyNorm)?);
        let scale = spec.scale.unwrap_or_else(|| (spec.head_dim as f64).powf(-0.5));
        let attention = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: scale as f32,
            window: spec.window.map(|window| window as usize),
            score_softcap: spec.score_softcap.map(|cap| cap as f32),
            query_norm,
            key_norm,
            rope,
        };
        let (mlp, down) = self.mlp()?;
        let sandwich = block.placement == NormPlacement::Sandwich;
        let mut after = |part| sandwich.then(|| self.norm(part)).transpose();
        Ok(Layer {
            after_attention_norm: after(Part::AfterMixerNorm)?,
            after_mlp_norm: after(Part::AfterMlpNorm)?,
            attention_norm: self.norm(Part::MixerNorm)?,
            mlp_norm: self.norm(Part::MlpNorm)?,
            qkv: Linear::new(vec![query, key, value]),
            attention,
            out: Linear::new(vec![out]),
            mlp,
            mlp_spec: block.mlp.clone(),
            down,
        })
    }

    fn mlp(&mut self) -> Result<(Linear, Linear), LoadError> {
        let (MlpSpec::Gated(dense) | MlpSpec::Plain(dense)) = &self.block.mlp;
        let &DenseSpec { intermediate_size, bias, .. } = dense;
        let (hidden, intermediate) = (self.hidden, intermediate_size as usize);
        let mut inputs = Vec::new();
        if matches!(self.block.mlp, MlpSpec::Gated(_)) {
            inputs.push(self.matrix(Part::Gate, intermediate, hidden, bias)?);
        }
        inputs.push(self.matrix(Part::Up, intermediate, hidden, bias)?);
        let down = self.matrix(Part::Down, hidden, intermediate, bias)?;
        let up = Linear::new(inputs);
        Ok((up, Linear::new(vec![down])))
    }

    fn name(&self, part: Part) -> String {
        self.naming.part(self.index, part, self.block.placement)
    }

    fn matrix(
        &mut self,
        part: Part,
        outputs: usize,
        inputs: usize,
        bias: bool,
    ) -> Result<(Matrix, Option<Vec<f32>>), LoadError> {
        let name = self.name(part);
        let matrix = self.binder.matrix(&name, outputs, inputs)?;
        let bias =
            bias.then(|| self.binder.vector(&format!("{name}.bias"), outputs)).transpose()?;
        Ok((matrix, bias))
    }

    fn norm(&mut self, part: Part) -> Result<Norm, LoadError> {
        let name = self.name(part);
        self.binder.norm(&name, &self.block.norm, self.hidden)
    }
}
