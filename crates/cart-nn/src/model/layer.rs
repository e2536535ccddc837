//! A layer bound to its weights: a mixer and an MLP, either of which may be absent.

use std::ops::Range;
use std::slice::from_ref;

use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, Expert as WhichExpert, ExpertsSpec, MixerSpec,
    MlpSpec, NormPlacement, Part, QkvLayout, RopeSpec, SharedExpertSpec, TensorNaming,
};

use crate::attention::Attention;
use crate::experts::{Expert, Experts, Shared};
use crate::mamba::{Mamba, Mamba2};
use crate::matrix::{Linear, Matrix};
use crate::model::LoadError;
use crate::model::binding::Binder;
use crate::norm::Norm;
use crate::state::LayerShape;

/// A layer bound to its weights.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) mixer: Option<MixerLayer>,
    pub(crate) mlp: Option<MlpLayer>,
}

/// A mixer between its norms and projections.
#[derive(Debug)]
pub(crate) struct MixerLayer {
    pub(crate) norm: Norm,
    /// Everything that the mixer takes, side by side.
    pub(crate) input: Linear,
    pub(crate) mixer: Mixer,
    pub(crate) out: Linear,
    pub(crate) after_norm: Option<Norm>,
}

/// What mixes positions.
#[derive(Debug)]
pub(crate) enum Mixer {
    Attention(Attention),
    Mamba(Mamba),
    Mamba2(Mamba2),
}

/// An MLP between its norms.
#[derive(Debug)]
pub(crate) struct MlpLayer {
    pub(crate) norm: Norm,
    pub(crate) mlp: Mlp,
    pub(crate) after_norm: Option<Norm>,
    /// Whether it works on the mixer's input, not on its output.
    pub(crate) parallel: bool,
}

/// What works on each position.
#[derive(Debug)]
pub(crate) enum Mlp {
    Dense(DenseMlp),
    Experts(Experts),
}

/// An MLP between two projections.
#[derive(Debug)]
pub(crate) struct DenseMlp {
    /// Gate and up, or up alone.
    pub(crate) up: Linear,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
}

impl Layer {
    /// Bytes of the projections that a token reads.
    pub(crate) fn bytes(&self) -> u64 {
        let mixer = self.mixer.iter().map(|layer| {
            let inner = match &layer.mixer {
                Mixer::Mamba(mamba) => mamba.parameters.bytes() + mamba.time_step.bytes(),
                Mixer::Attention(_) | Mixer::Mamba2(_) => 0,
            };
            layer.input.bytes() + inner + layer.out.bytes()
        });
        let mlp = self.mlp.iter().map(|layer| match &layer.mlp {
            Mlp::Dense(dense) => dense.up.bytes() + dense.down.bytes(),
            Mlp::Experts(experts) => experts.token_bytes(),
        });
        mixer.chain(mlp).sum()
    }

    /// What it keeps of the positions that were read.
    pub(crate) fn shape(&self) -> LayerShape {
        match self.mixer.as_ref().map(|mixer| &mixer.mixer) {
            Some(Mixer::Attention(attention)) => {
                let &Attention { kv_heads, head_dim, .. } = attention;
                LayerShape::Attention { kv_heads, head_dim }
            }
            Some(Mixer::Mamba(mamba)) => LayerShape::Recurrent(mamba.shape()),
            Some(Mixer::Mamba2(mamba)) => LayerShape::Recurrent(mamba.shape()),
            None => LayerShape::Nothing,
        }
    }

    /// Its attention, if it has one.
    pub(crate) fn attention(&self) -> Option<&Attention> {
        match &self.mixer.as_ref()?.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Mamba(_) | Mixer::Mamba2(_) => None,
        }
    }
}

/// The distinct rotations of a model.
#[derive(Default)]
pub(crate) struct Ropes<'a> {
    pub(crate) specs: Vec<&'a RopeSpec>,
}

impl<'a> Ropes<'a> {
    /// The index of a rotation.
    fn index(&mut self, rope: &'a RopeSpec) -> usize {
        self.specs.iter().position(|known| *known == rope).unwrap_or_else(|| {
            self.specs.push(rope);
            self.specs.len() - 1
        })
    }
}

/// A matrix and its bias.
pub(super) type Projection = (Matrix, Option<Vec<f32>>);

/// Binds one layer.
pub(crate) struct LayerBinder<'a, 'b, 'c> {
    pub(crate) binder: &'b mut Binder<'c>,
    pub(crate) naming: TensorNaming,
    pub(crate) index: usize,
    pub(crate) block: &'a BlockSpec,
    pub(crate) hidden: usize,
}

impl<'a> LayerBinder<'a, '_, '_> {
    pub(crate) fn bind(mut self, ropes: &mut Ropes<'a>) -> Result<Layer, LoadError> {
        let block = self.block;
        let mixer = match &block.mixer {
            Some(MixerSpec::Attention(spec)) => {
                let rope = spec.rope.as_ref().map(|rope| ropes.index(rope));
                Some(self.attention(spec, rope)?)
            }
            Some(MixerSpec::Mamba(spec)) => Some(self.mamba(spec)?),
            Some(MixerSpec::Mamba2(spec)) => Some(self.mamba2(spec)?),
            None => None,
        };
        let mlp = block.mlp.as_ref().map(|spec| self.mlp(spec)).transpose()?;
        Ok(Layer { mixer, mlp })
    }

    fn attention(
        &mut self,
        spec: &AttentionSpec,
        rope: Option<usize>,
    ) -> Result<MixerLayer, LoadError> {
        let hidden = self.hidden;
        let head_dim = spec.head_dim as usize;
        let (heads, kv_heads) = (spec.heads as usize, spec.kv_heads as usize);
        let query_width = heads * head_dim;
        let input = self.qkv(spec)?;
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
        Ok(MixerLayer {
            norm: self.norm(Part::MixerNorm)?,
            input: Linear::new(input),
            mixer: Mixer::Attention(attention),
            out: Linear::new(vec![out]),
            after_norm: self.after_norm(Part::AfterMixerNorm)?,
        })
    }

    /// The projections to queries, keys and values, in this order whatever the layout.
    fn qkv(&mut self, spec: &AttentionSpec) -> Result<Vec<Projection>, LoadError> {
        let (hidden, bias) = (self.hidden, spec.qkv_bias);
        let head_dim = spec.head_dim as usize;
        let (heads, kv_heads) = (spec.heads as usize, spec.kv_heads as usize);
        let (query_width, key_width) = (heads * head_dim, kv_heads * head_dim);
        let all = query_width + 2 * key_width;
        match spec.qkv {
            QkvLayout::Separate => Ok(vec![
                self.matrix(Part::Query, query_width, hidden, bias)?,
                self.matrix(Part::Key, key_width, hidden, bias)?,
                self.matrix(Part::Value, key_width, hidden, bias)?,
            ]),
            QkvLayout::Fused => Ok(vec![self.matrix(Part::Qkv, all, hidden, bias)?]),
            QkvLayout::Grouped => {
                let queries = heads / kv_heads * head_dim;
                let group = queries + 2 * head_dim;
                let rows = |from: usize, count: usize| {
                    (0..kv_heads).map(move |head| head * group + from..head * group + from + count)
                };
                let rows: Vec<Range<usize>> = rows(0, queries)
                    .chain(rows(queries, head_dim))
                    .chain(rows(queries + head_dim, head_dim))
                    .collect();
                self.cut(Part::Qkv, &[all, hidden], &rows, bias)
            }
        }
    }

    fn mlp(&mut self, spec: &MlpSpec) -> Result<MlpLayer, LoadError> {
        let mlp = match spec {
            MlpSpec::Gated(dense) => Mlp::Dense(self.dense(dense, true)?),
            MlpSpec::Plain(dense) => Mlp::Dense(self.dense(dense, false)?),
            MlpSpec::Experts(experts) => Mlp::Experts(self.experts(experts)?),
        };
        let placement = self.block.placement;
        let shared = placement == NormPlacement::ParallelShared;
        Ok(MlpLayer {
            norm: self.norm(if shared { Part::MixerNorm } else { Part::MlpNorm })?,
            mlp,
            after_norm: self.after_norm(Part::AfterMlpNorm)?,
            parallel: placement.is_parallel(),
        })
    }

    fn dense(&mut self, spec: &DenseSpec, gated: bool) -> Result<DenseMlp, LoadError> {
        let &DenseSpec { intermediate_size, bias, activation, fused } = spec;
        let (hidden, intermediate) = (self.hidden, intermediate_size as usize);
        let mut inputs = Vec::new();
        if fused {
            inputs.push(self.matrix(Part::GateUp, 2 * intermediate, hidden, bias)?);
        } else {
            if gated {
                inputs.push(self.matrix(Part::Gate, intermediate, hidden, bias)?);
            }
            inputs.push(self.matrix(Part::Up, intermediate, hidden, bias)?);
        }
        let down = self.matrix(Part::Down, hidden, intermediate, bias)?;
        let up = Linear::new(inputs);
        Ok(DenseMlp { up, gated, activation, down: Linear::new(vec![down]) })
    }

    fn experts(&mut self, spec: &ExpertsSpec) -> Result<Experts, LoadError> {
        let (hidden, width) = (self.hidden, spec.intermediate_size as usize);
        let count = spec.experts as usize;
        let router = self.matrix(Part::Router, count, hidden, false)?;
        let gate = self.each_expert(Part::ExpertGate, [count, width, hidden])?;
        let up = self.each_expert(Part::ExpertUp, [count, width, hidden])?;
        let down = self.each_expert(Part::ExpertDown, [count, hidden, width])?;
        let experts = gate.into_iter().zip(up).zip(down).map(|((gate, up), down)| Expert {
            up: Linear::new(vec![gate, up]),
            down: Linear::new(vec![down]),
        });
        let each = experts.collect();
        Ok(Experts {
            router: Linear::new(vec![router]),
            active: spec.active as usize,
            normalized: spec.normalized,
            activation: spec.activation,
            each,
            shared: spec.shared.as_ref().map(|shared| self.shared_expert(shared)).transpose()?,
        })
    }

    /// One projection of each expert.
    fn each_expert(
        &mut self,
        part: fn(WhichExpert) -> Part,
        [count, outputs, inputs]: [usize; 3],
    ) -> Result<Vec<Projection>, LoadError> {
        if self.naming.stacks_experts() {
            let rows = |index: usize| index * outputs..(index + 1) * outputs;
            let rows: Vec<Range<usize>> = (0..count).map(rows).collect();
            return self.cut(part(WhichExpert::All), &[count, outputs, inputs], &rows, false);
        }
        (0..count as u64)
            .map(|index| self.matrix(part(WhichExpert::One(index)), outputs, inputs, false))
            .collect()
    }

    fn shared_expert(&mut self, spec: &SharedExpertSpec) -> Result<Shared, LoadError> {
        let (hidden, width) = (self.hidden, spec.intermediate_size as usize);
        let gate = self.matrix(Part::SharedGate, width, hidden, false)?;
        let up = self.matrix(Part::SharedUp, width, hidden, false)?;
        let down = self.matrix(Part::SharedDown, hidden, width, false)?;
        let router = spec.gated.then(|| {
            let shape: &[usize] =
                if self.naming == TensorNaming::Gguf { &[hidden] } else { &[1, hidden] };
            self.cut(Part::SharedRouter, shape, from_ref(&(0..1)), false).map(Linear::new)
        });
        let expert = Expert { up: Linear::new(vec![gate, up]), down: Linear::new(vec![down]) };
        Ok(Shared { expert, router: router.transpose()? })
    }

    pub(super) fn name(&self, part: Part) -> String {
        self.naming.part(self.index, part, self.block)
    }

    pub(super) fn matrix(
        &mut self,
        part: Part,
        outputs: usize,
        inputs: usize,
        bias: bool,
    ) -> Result<Projection, LoadError> {
        let name = self.name(part);
        let matrix = self.binder.matrix(&name, outputs, inputs)?;
        let bias =
            bias.then(|| self.binder.vector(&format!("{name}.bias"), outputs)).transpose()?;
        Ok((matrix, bias))
    }

    /// The norm before the mixer, projections and norm after it, around `mixer`.
    pub(super) fn around(
        &mut self,
        mixer: Mixer,
        input: Projection,
        out: Projection,
    ) -> Result<MixerLayer, LoadError> {
        Ok(MixerLayer {
            norm: self.norm(Part::MixerNorm)?,
            input: Linear::new(vec![input]),
            mixer,
            out: Linear::new(vec![out]),
            after_norm: self.after_norm(Part::AfterMixerNorm)?,
        })
    }

    /// Rows of one tensor, as projections.
    fn cut(
        &mut self,
        part: Part,
        shape: &[usize],
        rows: &[Range<usize>],
        bias: bool,
    ) -> Result<Vec<Projection>, LoadError> {
        let name = self.name(part);
        let matrices = self.binder.cut(&name, shape, rows)?;
        let bias =
            bias.then(|| self.binder.vector(&format!("{name}.bias"), shape[0])).transpose()?;
        let bias = |rows: &Range<usize>| bias.as_ref().map(|bias| bias[rows.clone()].to_vec());
        Ok(matrices.into_iter().zip(rows).map(|(matrix, rows)| (matrix, bias(rows))).collect())
    }

    /// The norm on a branch's output, where blocks have one.
    fn after_norm(&mut self, part: Part) -> Result<Option<Norm>, LoadError> {
        let sandwich = self.block.placement == NormPlacement::Sandwich;
        sandwich.then(|| self.norm(part)).transpose()
    }

    fn norm(&mut self, part: Part) -> Result<Norm, LoadError> {
        let name = self.name(part);
        self.binder.norm(&name, &self.block.norm, self.hidden)
    }
}
