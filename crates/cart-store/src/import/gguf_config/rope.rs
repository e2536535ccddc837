//! Rotary embedding as GGUF metadata have it.

use cart_format::arch::{RopeFactors, RopePairing, RopeScaling, RopeSpec};

use crate::import::error::ImportError;
use crate::import::gguf_config::keys::Keys;

/// Tensors of divisors.
const PER_PAIR: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Rotation of the layers that see everything, or why it can't be said.
pub(crate) fn global(
    keys: &Keys<'_>,
    head_dim: u64,
    pairing: RopePairing,
) -> Result<Result<RopeSpec, String>, ImportError> {
    let scaling = match scaling(keys)? {
        Ok(scaling) => scaling,
        Err(beyond) => return Ok(Err(beyond)),
    };
    Ok(Ok(RopeSpec {
        theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        dims: keys.number("rope.dimension_count")?.unwrap_or(head_dim),
        pairing,
        scaling,
    }))
}

/// Rotation of the layers with a window.
pub(crate) fn local(
    keys: &Keys<'_>,
    global: &RopeSpec,
    theta: Option<f64>,
) -> Result<RopeSpec, ImportError> {
    let stated = keys.float("rope.freq_base_swa")?;
    Ok(match stated.or(theta) {
        Some(theta) => RopeSpec { theta, scaling: None, ..global.clone() },
        None => global.clone(),
    })
}

fn scaling(keys: &Keys<'_>) -> Result<Result<Option<RopeScaling>, String>, ImportError> {
    let kind = keys.text("rope.scaling.type")?;
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float("rope.scale_linear")?,
    };
    let (short, long) = (keys.has_tensor(SHORT), keys.has_tensor(LONG));
    if short != long {
        let (there, absent) = if short { (SHORT, LONG) } else { (LONG, SHORT) };
        return Ok(Err(format!("the GGUF has `{there}` without `{absent}`")));
    }
    let per_pair = keys.has_tensor(PER_PAIR);
    Ok(match (kind.as_deref().unwrap_or("none"), factor) {
        ("none" | "longrope", _) if short && !per_pair => Ok(Some(longrope(keys)?)),
        ("none", None | Some(1.0)) if per_pair && !short => {
            Ok(Some(RopeScaling::PerPair { factors: RopeFactors::Tensor(PER_PAIR.to_owned()) }))
        }
        (kind, _) if short || per_pair => Err(format!(
            "the GGUF has both the RoPE scaling `{kind}` and tensors of RoPE factors; known: one \
             of them"
        )),
        ("none", None | Some(1.0)) => Ok(None),
        ("none" | "linear", Some(factor)) => Ok(Some(RopeScaling::Linear { factor })),
        ("yarn", Some(factor)) => yarn(keys, factor)?,
        ("linear" | "yarn", None) => return Err(keys.refuse("rope.scaling.factor", "a number")),
        (other, _) => Err(format!(
            "the RoPE scaling `{other}` is not known; known: none, linear, yarn, and longrope with \
             its tensors"
        )),
    })
}

fn longrope(keys: &Keys<'_>) -> Result<RopeScaling, ImportError> {
    Ok(RopeScaling::LongRope {
        short: RopeFactors::Tensor(SHORT.to_owned()),
        long: RopeFactors::Tensor(LONG.to_owned()),
        original_context: keys.need("rope.scaling.original_context_length")?,
        attention_factor: keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
    })
}

/// As `rope_yarn` of llama.cpp with its defaults.
fn yarn(keys: &Keys<'_>, factor: f64) -> Result<Result<Option<RopeScaling>, String>, ImportError> {
    let extrapolation = "rope.scaling.yarn_ext_factor";
    if let Some(found) = keys.float(extrapolation)?.filter(|found| *found != 1.0) {
        return Ok(Err(format!("{extrapolation} is {found}; known: 1")));
    }
    let original_context = match keys.number("rope.scaling.original_context_length")? {
        Some(original) => original,
        None => keys.need("context_length")?,
    };
    let stated = match keys.float("rope.scaling.yarn_attn_factor")? {
        Some(stated) => Some(stated),
        None => keys.float("rope.scaling.attn_factor")?,
    };
    Ok(Ok(Some(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        truncate: true,
        attention_factor: stated.unwrap_or(1.0) * (1.0 + 0.1 * factor.ln()),
    })))
}
