//! Which layer of a configuration is of which kind.

use cart_format::arch::BlockSpec;

use crate::import::config::family::{Experts, Windows};
use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// More layers than any model has; keeps a hostile number from being allocated.
pub(crate) const MAX_LAYERS: u64 = 10_000;

/// What layers differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerKind {
    pub(crate) window: Option<u64>,
    pub(crate) rotated: bool,
    pub(crate) experts: bool,
}

/// The kind of each layer.
pub(crate) fn kinds(
    fields: &Fields<'_>,
    windows: Windows,
    no_rope_every: Option<u64>,
    experts: Option<Experts>,
) -> Result<Vec<LayerKind>, ImportError> {
    let count = layer_count(fields)?;
    let rotated = rotated(fields, no_rope_every, count)?;
    let windows = self::windows(fields, windows, &rotated)?;
    let experts = with_experts(fields, experts, count)?;
    let kinds = windows.into_iter().zip(rotated).zip(experts);
    Ok(kinds.map(|((window, rotated), experts)| LayerKind { window, rotated, experts }).collect())
}

/// The distinct blocks of layers, and which layer has which.
pub(crate) fn distinct(layers: impl Iterator<Item = BlockSpec>) -> (Vec<BlockSpec>, Vec<u32>) {
    let mut blocks: Vec<BlockSpec> = Vec::new();
    let mut indices = Vec::new();
    for layer in layers {
        let known = blocks.iter().position(|block| *block == layer);
        let index = known.unwrap_or_else(|| {
            blocks.push(layer);
            blocks.len() - 1
        });
        indices.push(index as u32);
    }
    (blocks, indices)
}

/// `num_hidden_layers`.
pub(crate) fn layer_count(fields: &Fields<'_>) -> Result<u64, ImportError> {
    let count = fields.need("num_hidden_layers")?;
    if count > MAX_LAYERS {
        return Err(fields.refuse("num_hidden_layers", "1 to 10000"));
    }
    Ok(count)
}

fn windows(
    fields: &Fields<'_>,
    windows: Windows,
    rotated: &[bool],
) -> Result<Vec<Option<u64>>, ImportError> {
    let count = rotated.len() as u64;
    let mut window = fields.number("sliding_window")?.filter(|&window| window > 0);
    match windows {
        Windows::ButEvery { size, .. } => window = window.or(Some(size)),
        Windows::All(absent) if fields.lacks("sliding_window") => window = absent,
        _ => {}
    }
    if let Some(types) = fields.texts("layer_types")? {
        return by_type(fields, &types, window, count);
    }
    let used = fields.flag("use_sliding_window")?.unwrap_or(false);
    let windowed: Box<dyn Fn(u64) -> bool> = match windows {
        Windows::Never => Box::new(|_| false),
        Windows::All(_) => Box::new(|_| true),
        Windows::Used => Box::new(|_| used),
        Windows::From(from) => {
            let from = fields.number("max_window_layers")?.unwrap_or(from);
            Box::new(move |layer| used && layer >= from)
        }
        Windows::ButEvery { count, .. } => {
            let every = fields.number("sliding_window_pattern")?.unwrap_or(count);
            if every == 0 {
                return Err(fields.refuse("sliding_window_pattern", "1 or more"));
            }
            Box::new(move |layer| !(layer + 1).is_multiple_of(every))
        }
        Windows::WithoutRope => Box::new(|layer| used && !rotated[layer as usize]),
    };
    Ok((0..count).map(|layer| window.filter(|_| windowed(layer))).collect())
}

fn by_type(
    fields: &Fields<'_>,
    types: &[&str],
    window: Option<u64>,
    layers: u64,
) -> Result<Vec<Option<u64>>, ImportError> {
    if types.len() as u64 != layers {
        return Err(fields.refuse("layer_types", "one for each of the num_hidden_layers"));
    }
    let window = |kind: &&str| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        _ => Err(fields.refuse(
            "layer_types",
            "`full_attention`, and `sliding_attention` where there is a sliding_window",
        )),
    };
    types.iter().map(window).collect()
}

fn rotated(
    fields: &Fields<'_>,
    no_rope_every: Option<u64>,
    count: u64,
) -> Result<Vec<bool>, ImportError> {
    let Some(every) = no_rope_every else { return Ok(vec![true; count as usize]) };
    if let Some(stated) = fields.numbers("no_rope_layers")? {
        if stated.len() as u64 != count {
            return Err(fields.refuse("no_rope_layers", "one for each of the num_hidden_layers"));
        }
        return Ok(stated.into_iter().map(|rotated| rotated != 0).collect());
    }
    let every = fields.number("no_rope_layer_interval")?.unwrap_or(every);
    if every == 0 {
        return Err(fields.refuse("no_rope_layer_interval", "1 or more"));
    }
    Ok((1..=count).map(|number| !number.is_multiple_of(every)).collect())
}

fn with_experts(
    fields: &Fields<'_>,
    experts: Option<Experts>,
    count: u64,
) -> Result<Vec<bool>, ImportError> {
    let Some(experts) = experts else { return Ok(vec![false; count as usize]) };
    if !experts.sparse {
        return Ok(vec![true; count as usize]);
    }
    let step = fields.number("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(fields.refuse("decoder_sparse_step", "1 or more"));
    }
    let dense = fields.numbers("mlp_only_layers")?.unwrap_or_default();
    let sparse = |layer: u64| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    Ok((0..count).map(sparse).collect())
}
