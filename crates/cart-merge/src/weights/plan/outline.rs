//! Which tensors of which models each tensor of the result is made of, from models or slices.

use std::collections::{BTreeMap, BTreeSet};

use cart_format::arch::Global;
use cart_format::{ArchSpec, TensorName};

use crate::weights::config::{MergeConfig, Parameters};
use crate::weights::layers::{self, LayerName};
use crate::weights::plan::{Model, PlanError};

/// Some layers of the result.
pub(super) struct Slice<'a> {
    pub(super) sources: Vec<Source<'a>>,
    pub(super) base: Option<usize>,
    /// Settings for all sources, the nearest first.
    pub(super) shared: Vec<&'a Parameters>,
    layers: u64,
}

/// Layers of a model.
pub(super) struct Source<'a> {
    pub(super) model: usize,
    pub(super) own: Option<&'a Parameters>,
    first: u64,
}

/// A tensor of the result: which slice it is of, and its name in each source, where that has it.
pub(super) struct Slot {
    pub(super) name: TensorName,
    pub(super) slice: usize,
    /// How far along the layers of the slice, 0 to 1.
    pub(super) t: f64,
    pub(super) inputs: Vec<TensorName>,
}

/// The slices of a configuration.
///
/// * `three_way`: whether the sources are ours, theirs and perhaps a base
pub(super) fn slices<'a>(
    config: &'a MergeConfig,
    models: &[Model<'_>],
    three_way: bool,
) -> Result<Vec<Slice<'a>>, PlanError> {
    let base = config.base_model.as_deref().map(|name| index_of(models, name)).transpose()?;
    if let Some(slices) = &config.slices {
        return slices
            .iter()
            .enumerate()
            .map(|(index, slice)| {
                let own =
                    slice.base_model.as_deref().map(|name| index_of(models, name)).transpose()?;
                let mut sources = Vec::new();
                let mut layers = None;
                for source in &slice.sources {
                    let model = index_of(models, &source.model)?;
                    let [from, to] = source.layer_range;
                    let has = layers::count(models[model].manifest);
                    if from >= to || to > has {
                        let model = models[model].label.clone();
                        return Err(PlanError::LayerRange { model, from, to, layers: has });
                    }
                    let other = *layers.get_or_insert(to - from);
                    if other != to - from {
                        return Err(PlanError::SliceLength {
                            slice: index,
                            a: other,
                            b: to - from,
                        });
                    }
                    sources.push(Source { model, own: Some(&source.parameters), first: from });
                }
                let shared = vec![&slice.parameters, &config.parameters];
                Ok(Slice { sources, base: own.or(base), shared, layers: layers.unwrap_or(0) })
            })
            .collect();
    }
    let mut sources = Vec::new();
    for input in config.models.iter().flatten() {
        let model = index_of(models, &input.model)?;
        sources.push(Source { model, own: Some(&input.parameters), first: 0 });
    }
    let is_new = |base: &usize| sources.iter().all(|source| source.model != *base);
    // Of two sides the base is the third source, even where a side is the base itself.
    if let Some(base) = base.filter(|base| three_way || is_new(base)) {
        sources.push(Source { model: base, own: None, first: 0 });
    }
    let layers = sources.iter().map(|source| layers::count(models[source.model].manifest)).max();
    let shared = vec![&config.parameters];
    Ok(vec![Slice { sources, base, shared, layers: layers.unwrap_or(0) }])
}

pub(super) fn index_of(models: &[Model<'_>], name: &str) -> Result<usize, PlanError> {
    models.iter().position(|model| model.name == name).ok_or_else(|| PlanError::UnknownModel {
        name: name.to_owned(),
        models: models.iter().map(|model| model.name.clone()).collect(),
    })
}

/// The tensors of the result, in the order of names.
pub(super) fn slots(
    slices: &[Slice<'_>],
    models: &[Model<'_>],
    spec: Option<&ArchSpec>,
) -> Vec<Slot> {
    let mut slots = BTreeMap::new();
    let embedding = spec.map(|spec| format!("{}.weight", spec.naming.global(Global::Embedding)));
    let mut insert = |slot: Slot| slots.insert(slot.name.clone(), slot);
    for (slice, is_last) in [(0, slices.len() == 1), (slices.len() - 1, true)] {
        for name in globals(&slices[slice], models) {
            // What comes before the layers is of the first slice, the rest of the last.
            let is_first = embedding.as_deref() == Some(name.as_str());
            if is_first == (slice == 0) || (is_last && slices.len() == 1) {
                let inputs = vec![name.clone(); slices[slice].sources.len()];
                insert(Slot { name, slice, t: 0.0, inputs });
            }
        }
    }
    let mut out = 0;
    for (index, slice) in slices.iter().enumerate() {
        for offset in 0..slice.layers {
            let t = if slice.layers > 1 { offset as f64 / (slice.layers - 1) as f64 } else { 1.0 };
            for (name, input) in parts(slice, models, offset, out) {
                insert(Slot { name, slice: index, t, inputs: input });
            }
            out += 1;
        }
    }
    slots.into_values().collect()
}

/// Layers of the result, as `(slice, layer of its first source)`.
pub(super) fn layer_sources(slices: &[Slice<'_>]) -> Vec<(usize, u64)> {
    let of_slice = |slice: &Slice<'_>| {
        let source = &slice.sources[0];
        (source.first..source.first + slice.layers).map(|layer| (source.model, layer)).collect()
    };
    slices.iter().flat_map(|slice| -> Vec<_> { of_slice(slice) }).collect()
}

fn globals(slice: &Slice<'_>, models: &[Model<'_>]) -> BTreeSet<TensorName> {
    let names =
        slice.sources.iter().flat_map(|one| models[one.model].manifest.model.tensors.keys());
    names.filter(|name| LayerName::of(name).is_none()).cloned().collect()
}

/// The tensors of layer `offset` of a slice, which is layer `out` of the result: their names there
/// and in each source.
fn parts(
    slice: &Slice<'_>,
    models: &[Model<'_>],
    offset: u64,
    out: u64,
) -> BTreeMap<TensorName, Vec<TensorName>> {
    let mut parts = BTreeMap::new();
    for source in &slice.sources {
        for name in models[source.model].manifest.model.tensors.keys() {
            let Some(found) = LayerName::of(name).filter(|one| one.layer == source.first + offset)
            else {
                continue;
            };
            let inputs = slice.sources.iter().map(|one| found.in_layer(one.first + offset));
            parts.insert(found.in_layer(out), inputs.collect());
        }
    }
    parts
}
