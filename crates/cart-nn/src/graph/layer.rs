//! Layers bound to tensors.

use candle_core::Tensor;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, DenseSpec, Expert as WhichExpert, ExpertsSpec,
    Mamba2Spec, MambaSpec, MixerSpec, MlpSpec, NormKind, NormPlacement, NormSpec, Part, QkvLayout,
    RopeSpec, TensorNaming,
};

use super::GraphLoadError;
use super::fused;
use super::operations::{NormWeights, linear};
use super::parameters::Parameters;
use crate::model::LoadError;
use crate::recurrent::RecurrentShape;
use crate::state::LayerShape;

/// A layer bound to its tensors.
pub(super) struct Layer {
    pub(super) mixer: Option<MixerLayer>,
    pub(super) mlp: Option<MlpLayer>,
}

/// A mixer between its norms and its output projection.
pub(super) struct MixerLayer {
    pub(super) norm: NormWeights,
    pub(super) mixer: Mixer,
    pub(super) out: Linear,
    pub(super) after_norm: Option<NormWeights>,
}

pub(super) enum Mixer {
    Attention(Attention),
    Mamba(Mamba),
    Mamba2(Mamba2),
}

/// A matrix `[outputs, inputs]` and its bias.
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear(x, &self.weight, self.bias.as_ref())
    }

    /// What it makes of `x`, added to `to`.
    pub(super) fn apply_added(&self, x: &Tensor, to: &Tensor) -> candle_core::Result<Tensor> {
        if self.bias.is_none() && fused::suits(x) && fused::suits(&self.weight) {
            return fused::product_added(x, &self.weight, to);
        }
        to + self.apply(x)?
    }
}

pub(super) struct Attention {
    pub(super) spec: AttentionSpec,
    /// Queries, keys and values: three matrices, or one that is laid out as the spec says.
    pub(super) inputs: Vec<Linear>,
    pub(super) query_norm: Option<NormWeights>,
    pub(super) key_norm: Option<NormWeights>,
    /// Which of the model's rotations.
    pub(super) rope: Option<usize>,
}

pub(super) struct Mamba {
    pub(super) spec: MambaSpec,
    pub(super) input: Linear,
    pub(super) conv: Linear,
    pub(super) parameters: Linear,
    pub(super) time_step: Linear,
    pub(super) decay: Decay,
    pub(super) skip: Tensor,
}

pub(super) struct Mamba2 {
    pub(super) spec: Mamba2Spec,
    pub(super) input: Linear,
    pub(super) conv: Linear,
    pub(super) time_step_bias: Tensor,
    pub(super) decay: Decay,
    pub(super) skip: Tensor,
    /// Over each group of channels, `[groups, channels / groups]`.
    pub(super) norm: NormWeights,
}

/// A, however it is stored.
pub(super) struct Decay {
    form: DecayForm,
    stored: Tensor,
}

impl Decay {
    pub(super) fn value(&self) -> candle_core::Result<Tensor> {
        match self.form {
            DecayForm::Log => self.stored.exp()?.neg(),
            DecayForm::Plain => Ok(self.stored.clone()),
        }
    }
}

impl Linear {
    /// The weight and bias themselves, of a convolution.
    pub(super) fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }
}

pub(super) struct MlpLayer {
    pub(super) norm: NormWeights,
    pub(super) mlp: Mlp,
    pub(super) after_norm: Option<NormWeights>,
    /// Whether it works on the mixer's input, not on its output.
    pub(super) parallel: bool,
}

pub(super) enum Mlp {
    Dense(DenseMlp),
    Experts(Experts),
}

pub(super) struct DenseMlp {
    /// Gate and up, one of both, or up alone.
    pub(super) inputs: Vec<Linear>,
    pub(super) gated: bool,
    pub(super) activation: Activation,
    pub(super) down: Linear,
}

pub(super) struct Experts {
    pub(super) spec: ExpertsSpec,
    pub(super) router: Linear,
    pub(super) each: Vec<DenseMlp>,
    pub(super) shared: Option<DenseMlp>,
    pub(super) shared_router: Option<Linear>,
}

/// What a layer of such a block keeps of the positions that were read.
pub(super) fn layer_shape(block: &BlockSpec) -> LayerShape {
    match &block.mixer {
        Some(MixerSpec::Attention(spec)) => LayerShape::Attention {
            kv_heads: spec.kv_heads as usize,
            head_dim: spec.head_dim as usize,
        },
        Some(MixerSpec::Mamba(spec)) => LayerShape::Recurrent(RecurrentShape {
            heads: 1,
            head_dim: spec.inner_size as usize,
            state_size: spec.state_size as usize,
            conv_width: spec.inner_size as usize,
            conv_past: spec.conv_kernel as usize - 1,
        }),
        Some(MixerSpec::Mamba2(spec)) => LayerShape::Recurrent(RecurrentShape {
            heads: spec.heads as usize,
            head_dim: spec.head_dim as usize,
            state_size: spec.state_size as usize,
            conv_width: spec.conv_width() as usize,
            conv_past: spec.conv_kernel as usize - 1,
        }),
        None => LayerShape::Nothing,
    }
}

/// Takes tensors by the names that the architecture gives them. No number is computed from one
/// here: a variable that changes must change everything that follows from it.
pub(super) struct LayerBinder<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) naming: TensorNaming,
    pub(super) index: usize,
    pub(super) block: &'a BlockSpec,
}

impl<'a> LayerBinder<'a> {
    pub(super) fn bind(&self, ropes: &mut Vec<&'a RopeSpec>) -> Result<Layer, GraphLoadError> {
        let mixer = self.block.mixer.as_ref().map(|mixer| self.mixer(mixer, ropes)).transpose()?;
        let mlp = self.block.mlp.as_ref().map(|mlp| self.mlp(mlp)).transpose()?;
        Ok(Layer { mixer, mlp })
    }

    fn mixer(
        &self,
        spec: &'a MixerSpec,
        ropes: &mut Vec<&'a RopeSpec>,
    ) -> Result<MixerLayer, GraphLoadError> {
        let (mixer, out) = match spec {
            MixerSpec::Attention(spec) => (
                Mixer::Attention(self.attention(spec, ropes)?),
                self.linear(Part::Out, spec.out_bias)?,
            ),
            MixerSpec::Mamba(spec) => {
                (Mixer::Mamba(self.mamba(spec)?), self.linear(Part::SsmOut, spec.proj_bias)?)
            }
            MixerSpec::Mamba2(spec) => {
                (Mixer::Mamba2(self.mamba2(spec)?), self.linear(Part::SsmOut, spec.proj_bias)?)
            }
        };
        let norm = self.norm(Part::MixerNorm, &self.block.norm)?;
        Ok(MixerLayer { norm, mixer, out, after_norm: self.after_norm(Part::AfterMixerNorm)? })
    }

    fn attention(
        &self,
        spec: &'a AttentionSpec,
        ropes: &mut Vec<&'a RopeSpec>,
    ) -> Result<Attention, GraphLoadError> {
        let parts: &[Part] = match spec.qkv {
            QkvLayout::Separate => &[Part::Query, Part::Key, Part::Value],
            QkvLayout::Fused | QkvLayout::Grouped => &[Part::Qkv],
        };
        let inputs = parts.iter().map(|&part| self.linear(part, spec.qkv_bias));
        let head_norm = |part| spec.qk_norm.as_ref().map(|norm| self.norm(part, norm)).transpose();
        let rope = spec.rope.as_ref().map(|rope| {
            ropes.iter().position(|known| *known == rope).unwrap_or_else(|| {
                ropes.push(rope);
                ropes.len() - 1
            })
        });
        Ok(Attention {
            spec: spec.clone(),
            inputs: inputs.collect::<Result<_, _>>()?,
            query_norm: head_norm(Part::QueryNorm)?,
            key_norm: head_norm(Part::KeyNorm)?,
            rope,
        })
    }

    fn mamba(&self, spec: &MambaSpec) -> Result<Mamba, GraphLoadError> {
        Ok(Mamba {
            spec: spec.clone(),
            input: self.linear(Part::SsmIn, spec.proj_bias)?,
            conv: self.linear(Part::SsmConv, spec.conv_bias)?,
            parameters: self.linear(Part::SsmParameters, false)?,
            time_step: self.linear(Part::TimeStep, true)?,
            decay: Decay { form: spec.decay, stored: self.whole(Part::Decay)? },
            skip: self.whole(Part::Skip)?,
        })
    }

    fn mamba2(&self, spec: &Mamba2Spec) -> Result<Mamba2, GraphLoadError> {
        let (groups, channels) = (spec.groups as usize, spec.inner_size() as usize);
        let norm = NormSpec { kind: NormKind::Rms, eps: spec.norm_eps, unit_offset: false };
        let mut norm = self.norm(Part::SsmNorm, &norm)?;
        // Other views of the same numbers.
        norm.weight = norm.weight.reshape((groups, channels / groups))?;
        let heads = |part| Ok::<_, GraphLoadError>(self.whole(part)?.flatten_all()?);
        Ok(Mamba2 {
            spec: spec.clone(),
            input: self.linear(Part::SsmIn, spec.proj_bias)?,
            conv: self.linear(Part::SsmConv, spec.conv_bias)?,
            time_step_bias: self.whole(Part::TimeStepBias)?,
            decay: Decay { form: spec.decay, stored: heads(Part::Decay)? },
            skip: heads(Part::Skip)?,
            norm,
        })
    }

    fn mlp(&self, spec: &MlpSpec) -> Result<MlpLayer, GraphLoadError> {
        let mlp = match spec {
            MlpSpec::Gated(dense) => Mlp::Dense(self.dense(dense, true)?),
            MlpSpec::Plain(dense) => Mlp::Dense(self.dense(dense, false)?),
            MlpSpec::Experts(experts) => Mlp::Experts(self.experts(experts)?),
        };
        let placement = self.block.placement;
        let shared = placement == NormPlacement::ParallelShared;
        let norm = if shared { Part::MixerNorm } else { Part::MlpNorm };
        Ok(MlpLayer {
            norm: self.norm(norm, &self.block.norm)?,
            mlp,
            after_norm: self.after_norm(Part::AfterMlpNorm)?,
            parallel: placement.is_parallel(),
        })
    }

    fn dense(&self, spec: &DenseSpec, gated: bool) -> Result<DenseMlp, GraphLoadError> {
        let inputs: &[Part] = match (spec.fused, gated) {
            (true, _) => &[Part::GateUp],
            (false, true) => &[Part::Gate, Part::Up],
            (false, false) => &[Part::Up],
        };
        let inputs = inputs.iter().map(|&part| self.linear(part, spec.bias));
        Ok(DenseMlp {
            inputs: inputs.collect::<Result<_, _>>()?,
            gated,
            activation: spec.activation,
            down: self.linear(Part::Down, spec.bias)?,
        })
    }

    fn experts(&self, spec: &ExpertsSpec) -> Result<Experts, GraphLoadError> {
        let shared = spec.shared.as_ref();
        let parts = |[gate, up, down]: [Part; 3]| {
            let linear = |part| self.linear(part, false);
            Ok::<_, GraphLoadError>(DenseMlp {
                inputs: vec![linear(gate)?, linear(up)?],
                gated: true,
                activation: spec.activation,
                down: linear(down)?,
            })
        };
        let each = (0..spec.experts).map(|index| {
            if self.naming.stacks_experts() {
                return self.stacked_expert(spec, index as usize);
            }
            let which = WhichExpert::One(index);
            parts([Part::ExpertGate(which), Part::ExpertUp(which), Part::ExpertDown(which)])
        });
        let shared_parts = [Part::SharedGate, Part::SharedUp, Part::SharedDown];
        let shared_router = shared.is_some_and(|shared| shared.gated).then(|| {
            let mut router = self.linear(Part::SharedRouter, false)?;
            if router.weight.rank() == 1 {
                router.weight = router.weight.unsqueeze(0)?;
            }
            Ok::<_, GraphLoadError>(router)
        });
        Ok(Experts {
            spec: spec.clone(),
            router: self.linear(Part::Router, false)?,
            each: each.collect::<Result<_, _>>()?,
            shared: shared.map(|_| parts(shared_parts)).transpose()?,
            shared_router: shared_router.transpose()?,
        })
    }

    /// One of the experts that are in one tensor: views of its part.
    fn stacked_expert(&self, spec: &ExpertsSpec, index: usize) -> Result<DenseMlp, GraphLoadError> {
        let view = |part: fn(WhichExpert) -> Part| {
            let mut linear = self.linear(part(WhichExpert::All), false)?;
            linear.weight = linear.weight.narrow(0, index, 1)?.squeeze(0)?;
            Ok::<_, GraphLoadError>(linear)
        };
        Ok(DenseMlp {
            inputs: vec![view(Part::ExpertGate)?, view(Part::ExpertUp)?],
            gated: true,
            activation: spec.activation,
            down: view(Part::ExpertDown)?,
        })
    }

    fn linear(&self, part: Part, bias: bool) -> Result<Linear, GraphLoadError> {
        let name = self.name(part);
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"))).transpose()?;
        Ok(Linear { weight: self.tensor(&format!("{name}.weight"))?, bias })
    }

    fn after_norm(&self, part: Part) -> Result<Option<NormWeights>, GraphLoadError> {
        let sandwich = self.block.placement == NormPlacement::Sandwich;
        sandwich.then(|| self.norm(part, &self.block.norm)).transpose()
    }

    fn norm(&self, part: Part, spec: &NormSpec) -> Result<NormWeights, GraphLoadError> {
        bind_norm(self.parameters, &self.name(part), spec)
    }

    fn whole(&self, part: Part) -> Result<Tensor, GraphLoadError> {
        self.tensor(&self.name(part))
    }

    fn name(&self, part: Part) -> String {
        self.naming.part(self.index, part, self.block)
    }

    fn tensor(&self, name: &str) -> Result<Tensor, GraphLoadError> {
        bind(self.parameters, name)
    }
}

pub(super) fn bind(parameters: &Parameters, name: &str) -> Result<Tensor, GraphLoadError> {
    let missing = || LoadError::Missing { name: name.to_owned() };
    Ok(parameters.get(name).cloned().ok_or_else(missing)?)
}

/// A norm; `name` is without `.weight`.
pub(super) fn bind_norm(
    parameters: &Parameters,
    name: &str,
    spec: &NormSpec,
) -> Result<NormWeights, GraphLoadError> {
    let bias = (spec.kind == NormKind::Layer).then(|| bind(parameters, &format!("{name}.bias")));
    Ok(NormWeights {
        kind: spec.kind,
        eps: spec.eps,
        unit_offset: spec.unit_offset,
        weight: bind(parameters, &format!("{name}.weight"))?,
        bias: bias.transpose()?,
    })
}
