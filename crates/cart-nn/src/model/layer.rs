//! A layer bound to its weights: a mixer and an MLP, either of which may be absent.

use cart_format::arch::{
    AttentionSpec, BlockSpec, DenseSpec, MixerSpec, MlpSpec, NormPlacement, Part, RopeSpec,
    TensorNaming,
};

use crate::attention::Attention;
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
    /// Gate and up, or up alone.
    pub(crate) up: Linear,
    pub(crate) spec: MlpSpec,
    pub(crate) down: Linear,
    pub(crate) after_norm: Option<Norm>,
}

impl Layer {
    /// Bytes of the projections.
    pub(crate) fn bytes(&self) -> u64 {
        let mixer = self.mixer.iter().map(|layer| {
            let inner = match &layer.mixer {
                Mixer::Mamba(mamba) => mamba.parameters.bytes() + mamba.time_step.bytes(),
                Mixer::Attention(_) | Mixer::Mamba2(_) => 0,
            };
            layer.input.bytes() + inner + layer.out.bytes()
        });
        let mlp = self.mlp.iter().map(|mlp| mlp.up.bytes() + mlp.down.bytes());
        mixer.chain(mlp).sum()
    }

    /// What it keeps of the positions that were read.
    pub(crate) fn shape(&self) -> LayerShape {
        match self.mixer.as_ref().map(|mixer| &mixer.mixer) {
            Some(Mixer::Attention(attention)) => {
                LayerShape::Attention { key_width: attention.key_width() }
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
        Ok(MixerLayer {
            norm: self.norm(Part::MixerNorm)?,
            input: Linear::new(vec![query, key, value]),
            mixer: Mixer::Attention(attention),
            out: Linear::new(vec![out]),
            after_norm: self.after_norm(Part::AfterMixerNorm)?,
        })
    }

    fn mlp(&mut self, spec: &MlpSpec) -> Result<MlpLayer, LoadError> {
        let (MlpSpec::Gated(dense) | MlpSpec::Plain(dense)) = spec;
        let &DenseSpec { intermediate_size, bias, .. } = dense;
        let (hidden, intermediate) = (self.hidden, intermediate_size as usize);
        let mut inputs = Vec::new();
        if matches!(spec, MlpSpec::Gated(_)) {
            inputs.push(self.matrix(Part::Gate, intermediate, hidden, bias)?);
        }
        inputs.push(self.matrix(Part::Up, intermediate, hidden, bias)?);
        let down = self.matrix(Part::Down, hidden, intermediate, bias)?;
        Ok(MlpLayer {
            norm: self.norm(Part::MlpNorm)?,
            up: Linear::new(inputs),
            spec: spec.clone(),
            down: Linear::new(vec![down]),
            after_norm: self.after_norm(Part::AfterMlpNorm)?,
        })
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
