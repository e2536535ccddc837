//! Settings that are about vectors, and fit a memory or don't: the parts of its keys, and the centres
//! of its filter.

use std::collections::BTreeSet;

use super::{Allowed, ConfigError, MemoryConfig, SettingValue};
use crate::Normalization;
use crate::fusion::Metric;

/// The normalization for keys of these parts, which fill a key and come centred.
pub(crate) fn with_parts(
    normalization: Normalization,
    config: &MemoryConfig,
) -> Result<Normalization, ConfigError> {
    if config.parts.is_empty() {
        return Ok(normalization);
    }
    let whole = |name, found: usize, allowed: usize| {
        let allowed = Allowed { least: allowed as f64, most: allowed as f64 };
        Err(ConfigError { name, found: SettingValue::Whole(found as u64), allowed })
    };
    let names: BTreeSet<&str> = config.parts.iter().map(|part| part.name.as_str()).collect();
    if names.len() != config.parts.len() || names.contains("") {
        return whole("parts (different names)", names.len(), config.parts.len());
    }
    let sum: usize = config.parts.iter().map(|part| part.dim as usize).sum();
    if sum != normalization.dim() {
        return whole("parts (values of all together)", sum, normalization.dim());
    }
    let moved = normalization.centre().iter().filter(|&&value| value != 0.0).count();
    if moved > 0 {
        return whole("parts (values of the centre that are not 0)", moved, 0);
    }
    Ok(normalization.with_metric(Metric::of(&config.parts)))
}

/// Refuses centres of the filter that can't be compared with keys.
pub(crate) fn check_centres(
    config: &MemoryConfig,
    normalization: &Normalization,
) -> Result<(), ConfigError> {
    let dim = normalization.dim() as f64;
    let centres = config.bias.iter().flat_map(|rules| &rules.centres);
    for centre in centres {
        if normalization.unit("bias.centres", centre).is_err() {
            return Err(ConfigError {
                name: "bias.centres (values that are finite and not all 0)",
                found: SettingValue::Whole(centre.len() as u64),
                allowed: Allowed { least: dim, most: dim },
            });
        }
    }
    Ok(())
}
