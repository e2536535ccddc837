//! Mamba mixers bound to their weights.

use cart_format::arch::{DecayForm, Mamba2Spec, MambaSpec, NormKind, Part};

use crate::conv::Conv;
use crate::mamba::{Mamba, Mamba2};
use crate::matrix::Linear;
use crate::model::LoadError;
use crate::model::layer::{LayerBinder, Mixer, MixerLayer};
use crate::norm::Norm;
use crate::recurrent::LANES;

impl LayerBinder<'_, '_, '_> {
    pub(super) fn mamba(&mut self, spec: &MambaSpec) -> Result<MixerLayer, LoadError> {
        let hidden = self.hidden;
        let (inner, size) = (spec.inner_size as usize, spec.state_size as usize);
        let rank = spec.time_step_rank as usize;
        let input = self.matrix(Part::SsmIn, 2 * inner, hidden, spec.proj_bias)?;
        let conv = self.conv(inner, spec.conv_kernel as usize, spec.conv_bias)?;
        let parameters = self.matrix(Part::SsmParameters, rank + 2 * size, inner, false)?;
        let time_step = self.matrix(Part::TimeStep, inner, rank, true)?;
        let decay = self.decay(spec.decay, &[inner, size])?;
        let skip = self.binder.floats(&self.name(Part::Skip), &[inner])?;
        let out = self.matrix(Part::SsmOut, hidden, inner, spec.proj_bias)?;
        let mixer = Mamba {
            state_size: size,
            time_step_rank: rank,
            conv,
            parameters: Linear::new(vec![parameters]),
            time_step: Linear::new(vec![time_step]),
            decay: by_block(&decay, size),
            skip: by_block(&skip, 1),
        };
        self.around(Mixer::Mamba(mixer), input, out)
    }

    pub(super) fn mamba2(&mut self, spec: &Mamba2Spec) -> Result<MixerLayer, LoadError> {
        let (hidden, inner) = (self.hidden, spec.inner_size() as usize);
        let input =
            self.matrix(Part::SsmIn, spec.input_width() as usize, hidden, spec.proj_bias)?;
        let conv =
            self.conv(spec.conv_width() as usize, spec.conv_kernel as usize, spec.conv_bias)?;
        let heads = sizes(&self.naming.head_shape(spec.heads));
        let groups = sizes(&self.naming.group_norm_shape(spec.groups, spec.inner_size()));
        let name = self.name(Part::TimeStepBias);
        let time_step_bias = self.binder.floats(&name, &[spec.heads as usize])?;
        let decay = self.decay(spec.decay, &heads)?;
        let skip = self.binder.floats(&self.name(Part::Skip), &heads)?;
        let name = format!("{}.weight", self.name(Part::SsmNorm));
        let weight = self.binder.floats(&name, &groups)?;
        let out = self.matrix(Part::SsmOut, hidden, inner, spec.proj_bias)?;
        let norm = |weight: &[f32]| Norm {
            kind: NormKind::Rms,
            eps: spec.norm_eps as f32,
            weight: weight.to_vec(),
            bias: None,
        };
        let limit = |limit: Option<f64>, default| limit.map_or(default, |limit| limit as f32);
        let mixer = Mamba2 {
            heads: spec.heads as usize,
            head_dim: spec.head_dim as usize,
            state_size: spec.state_size as usize,
            conv,
            time_step_bias,
            time_step_limits: (
                limit(spec.time_step_min, 0.0),
                limit(spec.time_step_max, f32::INFINITY),
            ),
            decay,
            skip,
            norms: weight.chunks_exact(inner / spec.groups as usize).map(norm).collect(),
        };
        self.around(Mixer::Mamba2(mixer), input, out)
    }

    fn conv(&mut self, channels: usize, kernel: usize, bias: bool) -> Result<Conv, LoadError> {
        let name = self.name(Part::SsmConv);
        let shape = sizes(&self.naming.conv_shape(channels as u64, kernel as u64));
        let weight = self.binder.floats(&format!("{name}.weight"), &shape)?;
        let bias =
            bias.then(|| self.binder.vector(&format!("{name}.bias"), channels)).transpose()?;
        Ok(Conv::new(channels, &weight, bias))
    }

    /// A itself, however it is stored.
    fn decay(&mut self, form: DecayForm, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let mut decay = self.binder.floats(&self.name(Part::Decay), shape)?;
        if form == DecayForm::Log {
            decay.iter_mut().for_each(|decay| *decay = -decay.exp());
        }
        Ok(decay)
    }
}

fn sizes(shape: &[u64]) -> Vec<usize> {
    shape.iter().map(|&size| size as usize).collect()
}

/// `[channels, size]` as `[blocks, size, LANES]`, the last block filled up with zeros.
fn by_block(values: &[f32], size: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len().next_multiple_of(size * LANES));
    for block in values.chunks(size * LANES) {
        for index in 0..size {
            out.extend(
                (0..LANES).map(|lane| block.get(lane * size + index).copied().unwrap_or(0.0)),
            );
        }
    }
    out
}
