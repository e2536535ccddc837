//! Rotary embedding as a configuration has it.

use cart_format::arch::{RopeFactors, RopePairing, RopeScaling, RopeSpec};

use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// What a configuration says of rotation, or why it can't be said here.
pub(crate) type Known<T> = Result<T, String>;

/// Rotations of the layers that see everything, and of those with a window.
#[derive(Clone, Debug)]
pub(crate) struct Rotations {
    pub(crate) global: RopeSpec,
    pub(crate) local: RopeSpec,
}

/// What the family says.
pub(crate) struct Defaults {
    pub(crate) head_dim: u64,
    pub(crate) theta: f64,
    pub(crate) local_theta: Option<f64>,
    pub(crate) context_length: u64,
}

/// Reads the form of transformers 4 (`rope_theta` and `rope_scaling`) or 5 (`rope_parameters`,
/// which may have one object for each kind of layer).
pub(crate) fn rotations(
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Result<Known<Rotations>, ImportError> {
    let inner = match fields.object("rope_parameters")? {
        Some(inner) => Some(inner),
        None => fields.object("rope_scaling")?,
    };
    let by_kind = match &inner {
        Some(inner) => (inner.object("full_attention")?, inner.object("sliding_attention")?),
        None => (None, None),
    };
    if let (Some(full), sliding) = by_kind {
        let global = one(fields, Some(&full), defaults.theta, defaults)?;
        let theta = defaults.local_theta.unwrap_or(defaults.theta);
        let local = match &sliding {
            Some(sliding) => one(fields, Some(sliding), theta, defaults)?,
            None => global.clone(),
        };
        return Ok(both(global, local));
    }
    let theta = fields.float("rope_theta")?.unwrap_or(defaults.theta);
    let global = one(fields, inner.as_ref(), theta, defaults)?;
    let local = match defaults.local_theta {
        // The scaling is of the layers that see everything.
        Some(theta) => {
            let theta = fields.float("rope_local_base_freq")?.unwrap_or(theta);
            one(fields, None, theta, defaults)?
        }
        None => global.clone(),
    };
    Ok(both(global, local))
}

fn both(global: Known<RopeSpec>, local: Known<RopeSpec>) -> Known<Rotations> {
    Ok(Rotations { global: global?, local: local? })
}

fn one(
    fields: &Fields<'_>,
    inner: Option<&Fields<'_>>,
    theta: f64,
    defaults: &Defaults,
) -> Result<Known<RopeSpec>, ImportError> {
    let stated = |name| match inner {
        Some(inner) => inner.float(name),
        None => Ok(None),
    };
    let theta = stated("rope_theta")?.unwrap_or(theta);
    let partial = match stated("partial_rotary_factor")? {
        Some(partial) => partial,
        None => fields.float("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let scaling = match inner {
        Some(inner) => Reader { fields, inner, context: defaults.context_length }.scaling()?,
        None => Ok(None),
    };
    let dims = (defaults.head_dim as f64 * partial) as u64;
    let rope = |scaling| RopeSpec { theta, dims, pairing: RopePairing::Halves, scaling };
    Ok(scaling.map(rope))
}

/// Reads one object of rotation.
struct Reader<'a> {
    fields: &'a Fields<'a>,
    inner: &'a Fields<'a>,
    /// `max_position_embeddings`.
    context: u64,
}

impl Reader<'_> {
    fn scaling(&self) -> Result<Known<Option<RopeScaling>>, ImportError> {
        let inner = self.inner;
        let kind = inner.text("rope_type")?.or(inner.text("type")?).unwrap_or("default");
        Ok(Ok(Some(match kind {
            // The dynamic stretching of transformers begins where the context ends.
            "default" | "dynamic" => return Ok(Ok(None)),
            "linear" => RopeScaling::Linear { factor: inner.need_float("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: inner.need_float("factor")?,
                low_freq_factor: inner.need_float("low_freq_factor")?,
                high_freq_factor: inner.need_float("high_freq_factor")?,
                original_context: inner.need("original_max_position_embeddings")?,
            },
            "yarn" => self.yarn()?,
            "longrope" | "su" => self.longrope()?,
            other => {
                return Ok(Err(format!(
                    "the RoPE scaling `{other}` is not known; known: default, linear, dynamic, \
                     llama3, yarn, longrope"
                )));
            }
        })))
    }

    /// As `_compute_yarn_parameters` of `transformers`.
    fn yarn(&self) -> Result<RopeScaling, ImportError> {
        let inner = self.inner;
        let original_context = self.original_context()?;
        let factor = match inner.float("factor")? {
            Some(factor) => factor,
            None => self.context as f64 / original_context as f64,
        };
        let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let attention_factor = match inner.float("attention_factor")? {
            Some(stated) => stated,
            None => match (inner.float("mscale")?, inner.float("mscale_all_dim")?) {
                (Some(some), Some(all)) if some != 0.0 && all != 0.0 => scale(some) / scale(all),
                _ => scale(1.0),
            },
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: inner.float("beta_fast")?.unwrap_or(32.0),
            beta_slow: inner.float("beta_slow")?.unwrap_or(1.0),
            truncate: inner.flag("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    /// As `_compute_longrope_parameters` of `transformers`.
    fn longrope(&self) -> Result<RopeScaling, ImportError> {
        let inner = self.inner;
        let original_context = self.original_context()?;
        let factor = match inner.float("factor")? {
            Some(factor) => factor,
            None => self.context as f64 / original_context as f64,
        };
        let attention_factor = match inner.float("attention_factor")? {
            Some(stated) => stated,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short: RopeFactors::Values(inner.need_floats("short_factor")?),
            long: RopeFactors::Values(inner.need_floats("long_factor")?),
            original_context,
            attention_factor,
        })
    }

    fn original_context(&self) -> Result<u64, ImportError> {
        let name = "original_max_position_embeddings";
        let stated = match self.inner.number(name)? {
            Some(stated) => Some(stated),
            None => self.fields.number(name)?,
        };
        let original = stated.unwrap_or(self.context);
        if original == 0 {
            return Err(self.inner.refuse(name, "1 or more"));
        }
        Ok(original)
    }
}
