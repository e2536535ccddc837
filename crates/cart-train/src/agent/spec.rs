//! A small model in a few words: `layers=4,hidden=256`.

use std::fmt;
use std::str::FromStr;

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, DenseSpec, MambaSpec, MixerSpec, MlpSpec,
    NormKind, NormPlacement, NormSpec, QkvLayout, RopePairing, RopeSpec, TensorNaming,
};
use serde::Serialize;
use thiserror::Error;

/// What mixes positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Attention and gated MLPs (Llama).
    #[default]
    Llama,
    /// Selective state spaces (Mamba).
    Mamba,
}

/// A small model in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AgentSpec {
    /// Llama or Mamba.
    pub shape: Shape,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Attention heads; of Llama.
    pub heads: u64,
    /// Key and value heads; of Llama.
    pub kv_heads: u64,
    /// Width of the MLPs; of Llama.
    pub intermediate: u64,
    /// Numbers of a channel's state; of Mamba.
    pub state: u64,
    /// Positions of a sequence.
    pub context: u64,
}

/// A specification that can't be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// No `NAME=VALUE`.
    #[error("`{found}` is no NAME=VALUE")]
    Form {
        /// What was found.
        found: String,
    },
    /// No such field.
    #[error("there is no `{found}` in a specification; known: {known}")]
    Field {
        /// What was found.
        found: String,
        /// What there is.
        known: &'static str,
    },
    /// A value of the wrong kind or size.
    #[error("{field} is `{found}`; allowed: {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: String,
    },
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self {
            shape: Shape::Llama,
            layers: 4,
            hidden: 256,
            heads: 4,
            kv_heads: 4,
            intermediate: 704,
            state: 16,
            context: 256,
        }
    }
}

const KNOWN: &str = "shape, layers, hidden, heads, kv_heads, intermediate, state, context";

/// Largest value of a field.
const MOST: u64 = 65_536;

impl FromStr for AgentSpec {
    type Err = SpecError;

    /// Of `layers=4,hidden=256,…`. What is not said follows from the width: a head has 64
    /// dimensions, or all; an MLP is 8/3 as wide, in steps of 32.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        let (mut heads, mut kv_heads, mut intermediate) = (None, None, None);
        for field in fields(text) {
            let (name, value) = field?;
            match name {
                "shape" => spec.shape = shape(value)?,
                "layers" => spec.layers = number("layers", value)?,
                "hidden" => spec.hidden = number("hidden", value)?,
                "heads" => heads = Some(number("heads", value)?),
                "kv_heads" => kv_heads = Some(number("kv_heads", value)?),
                "intermediate" => intermediate = Some(number("intermediate", value)?),
                "state" => spec.state = number("state", value)?,
                "context" => spec.context = number("context", value)?,
                _ => return Err(SpecError::Field { found: name.to_owned(), known: KNOWN }),
            }
        }
        spec.heads = heads.unwrap_or((spec.hidden / 64).max(1));
        spec.kv_heads = kv_heads.unwrap_or(spec.heads);
        spec.intermediate =
            intermediate.unwrap_or((spec.hidden * 8).div_ceil(3).next_multiple_of(32));
        spec.check()?;
        Ok(spec)
    }
}

fn shape(value: &str) -> Result<Shape, SpecError> {
    match value {
        "llama" => Ok(Shape::Llama),
        "mamba" => Ok(Shape::Mamba),
        _ => Err(refused("shape", value, "llama or mamba")),
    }
}

/// The fields of `NAME=VALUE,…`.
pub(crate) fn fields(text: &str) -> impl Iterator<Item = Result<(&str, &str), SpecError>> {
    let fields = text.split(',').filter(|field| !field.trim().is_empty());
    fields.map(|field| {
        let form = || SpecError::Form { found: field.to_owned() };
        let (name, value) = field.split_once('=').ok_or_else(form)?;
        Ok((name.trim(), value.trim()))
    })
}

pub(crate) fn number(field: &'static str, value: &str) -> Result<u64, SpecError> {
    let number = value.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| refused(field, value, &format!("1 to {MOST}")))
}

fn refused(field: &'static str, found: &str, allowed: &str) -> SpecError {
    SpecError::Value { field, found: found.to_owned(), allowed: allowed.to_owned() }
}

impl AgentSpec {
    fn check(&self) -> Result<(), SpecError> {
        if self.shape == Shape::Mamba {
            return Ok(());
        }
        let Self { hidden, heads, kv_heads, .. } = *self;
        if !hidden.is_multiple_of(2 * heads) {
            let allowed = format!("a number of heads of even width in hidden = {hidden}");
            return Err(refused("heads", &heads.to_string(), &allowed));
        }
        if !heads.is_multiple_of(kv_heads) {
            let allowed = format!("a divisor of heads = {heads}");
            return Err(refused("kv_heads", &kv_heads.to_string(), &allowed));
        }
        Ok(())
    }

    /// The architecture, for a vocabulary of this size.
    pub fn architecture(&self, vocab_size: u64) -> ArchSpec {
        let norm = NormSpec { kind: NormKind::Rms, eps: 1e-5, unit_offset: false };
        let (naming, family, mixer, mlp) = match self.shape {
            Shape::Llama => (TensorNaming::Hf, "llama", self.attention(), Some(self.mlp())),
            Shape::Mamba => (TensorNaming::HfBackbone, "mamba", self.mamba(), None),
        };
        let block = BlockSpec {
            norm: norm.clone(),
            placement: NormPlacement::Pre,
            mixer: Some(mixer),
            mlp,
        };
        ArchSpec {
            family: family.to_owned(),
            naming,
            vocab_size,
            hidden_size: self.hidden,
            context_length: self.context,
            embedding_scale: None,
            tied_head: true,
            final_norm: norm,
            logit_softcap: None,
            blocks: vec![block],
            layers: vec![0; self.layers as usize],
        }
    }

    fn attention(&self) -> MixerSpec {
        let head_dim = self.hidden / self.heads;
        let pairing = RopePairing::Halves;
        MixerSpec::Attention(AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim,
            scale: None,
            rope: Some(RopeSpec { theta: 10_000.0, dims: head_dim, pairing, scaling: None }),
            window: None,
            score_softcap: None,
            qkv: QkvLayout::Separate,
            qkv_bias: false,
            out_bias: false,
            qk_norm: None,
        })
    }

    fn mlp(&self) -> MlpSpec {
        let (intermediate_size, activation) = (self.intermediate, Activation::Silu);
        MlpSpec::Gated(DenseSpec { intermediate_size, activation, bias: false, fused: false })
    }

    fn mamba(&self) -> MixerSpec {
        MixerSpec::Mamba(MambaSpec {
            inner_size: 2 * self.hidden,
            state_size: self.state,
            conv_kernel: 4,
            time_step_rank: self.hidden.div_ceil(16),
            decay: DecayForm::Log,
            conv_bias: true,
            proj_bias: false,
        })
    }
}

impl fmt::Display for AgentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, hidden, heads, kv_heads, intermediate, state, context, .. } = self;
        match self.shape {
            Shape::Llama => write!(
                f,
                "shape=llama,layers={layers},hidden={hidden},heads={heads},kv_heads={kv_heads},intermediate={intermediate},context={context}"
            ),
            Shape::Mamba => {
                write!(
                    f,
                    "shape=mamba,layers={layers},hidden={hidden},state={state},context={context}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_follows_from_the_width() {
        let spec: AgentSpec = "layers=2, hidden=128,context=64".parse().unwrap();
        assert_eq!((spec.heads, spec.kv_heads, spec.intermediate), (2, 2, 352));
        assert_eq!(spec.to_string().parse(), Ok(spec));
        let mamba: AgentSpec = "shape=mamba,layers=3,hidden=96,state=8".parse().unwrap();
        assert_eq!(mamba.to_string().parse::<AgentSpec>().unwrap().to_string(), mamba.to_string());
        for spec in [spec, mamba] {
            spec.architecture(257).check().unwrap();
        }
        assert_eq!("".parse(), Ok(AgentSpec::default()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, said) in [
            ("layers", "`layers` is no NAME=VALUE"),
            ("width=3", "there is no `width`"),
            ("layers=0", "layers is `0`; allowed: 1 to 65536"),
            ("hidden=many", "hidden is `many`"),
            ("shape=gpt", "shape is `gpt`; allowed: llama or mamba"),
            ("hidden=100,heads=3", "heads is `3`"),
            ("hidden=128,heads=4,kv_heads=3", "kv_heads is `3`; allowed: a divisor of heads = 4"),
        ] {
            let refused = text.parse::<AgentSpec>().unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
