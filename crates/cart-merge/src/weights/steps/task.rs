//! Task arithmetic: the base and a sum of the others' differences from it, made sparse in one of four
//! ways, with or without elected signs.

use std::ops::{AddAssign, Div, Mul, Sub};

use crate::weights::chance::Chance;
use crate::weights::error::MergeError;
use crate::weights::method::Sparsify;
use crate::weights::select::{Band, Stretch, key};
use crate::weights::step::{TaskModel, TaskStep};
use crate::weights::steps::Ready;
use crate::weights::steps::gram::l1;
use crate::weights::steps::mask::Mask;
use crate::weights::steps::prune;
use crate::weights::view::{Chunk, Grain, View};

/// Sums under which a task vector is not rescaled (mergekit).
const RESCALE_FROM: f64 = 1e-7;

/// Which elements of a task vector stay.
enum Keep {
    All,
    None,
    /// Those of a stretch of magnitudes.
    Band(Band),
    /// Each by chance.
    Random(Chance, f32),
    /// Those that are marked, for each chunk.
    Marked(Vec<Mask>),
}

/// A task vector: what stays of it, and the factors on it.
struct Vector {
    keep: Keep,
    rescale: f64,
    weight: f64,
}

/// What sums are computed in: f32, or f64 where factors follow from sums over all elements.
trait Real:
    Copy
    + Default
    + PartialOrd
    + From<f32>
    + AddAssign
    + Mul<Output = Self>
    + Sub<Output = Self>
    + Div<Output = Self>
    + Sync
{
    fn of(value: f64) -> Self;
    fn rounded(self) -> f32;

    /// The differences of a model from the base, where they are kept, times a factor.
    ///
    /// * `kept`: the differences in f32, zero where they are not kept
    fn weighted(kept: &[f32], model: &[f32], base: &[f32], factor: Self) -> Vec<Self>;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }

    fn rounded(self) -> f32 {
        self
    }

    fn weighted(kept: &[f32], _model: &[f32], _base: &[f32], factor: Self) -> Vec<Self> {
        kept.iter().map(|kept| kept * factor).collect()
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn rounded(self) -> f32 {
        self as f32
    }

    fn weighted(kept: &[f32], model: &[f32], base: &[f32], factor: Self) -> Vec<Self> {
        let values = kept.iter().zip(model).zip(base);
        let weigh = |((kept, model), base): ((&f32, &f32), &f32)| {
            let delta = Self::from(*model) - Self::from(*base);
            (if *kept == 0.0 { 0.0 } else { delta }) * factor
        };
        values.map(weigh).collect()
    }
}

/// Input 0 is the base, the others are the models of the step.
pub(super) fn task<'a>(view: &View<'_>, step: &'a TaskStep) -> Result<Ready<'a>, MergeError> {
    let grain = match step.sparsify {
        Some(Sparsify::MagPrune) => prune::grain(view),
        _ => Grain::Elements,
    };
    let mut vectors: Vec<Vector> = keeps(view, grain, step)?
        .into_iter()
        .zip(&step.models)
        .map(|(keep, model)| Vector { keep, rescale: 1.0, weight: model.weight })
        .collect();
    if step.rescale {
        rescale(view, grain, &mut vectors)?;
    }
    if vectors.iter().any(|vector| vector.rescale != 1.0) {
        Ok(filled::<f64>(grain, vectors, step))
    } else {
        Ok(filled::<f32>(grain, vectors, step))
    }
}

fn filled<'a, R: Real + 'a>(grain: Grain, vectors: Vec<Vector>, step: &TaskStep) -> Ready<'a> {
    let sum = Sum::<R> {
        // As mergekit, weights are of f32.
        weights: vectors.iter().map(|vector| (vector.weight as f32).into()).collect(),
        consensus: step.consensus,
        normalize: step.normalize,
        lambda: R::of(step.lambda),
    };
    Ready::grains(grain, move |chunk, out| {
        let base = &chunk.inputs[0];
        let delta = |(index, vector): (usize, &Vector)| -> Vec<R> {
            let mut kept = differences(chunk, index);
            vector.keep.apply(chunk, &mut kept);
            let factor = R::of(vector.rescale) * sum.weights[index];
            R::weighted(&kept, &chunk.inputs[index + 1], base, factor)
        };
        let deltas: Vec<Vec<R>> = vectors.iter().enumerate().map(delta).collect();
        sum.fill(base, &deltas, out);
    })
}

/// The differences of model `index` from the base.
fn differences(chunk: &Chunk<'_>, index: usize) -> Vec<f32> {
    let (base, model) = (&chunk.inputs[0], &chunk.inputs[index + 1]);
    model.iter().zip(base).map(|(model, base)| model - base).collect()
}

fn keeps(view: &View<'_>, grain: Grain, step: &TaskStep) -> Result<Vec<Keep>, MergeError> {
    let sparse = |model: &TaskModel| model.density < 1.0;
    let Some(sparsify) = step.sparsify.filter(|_| step.models.iter().any(sparse)) else {
        return Ok(step.models.iter().map(|_| Keep::All).collect());
    };
    match sparsify {
        Sparsify::Magnitude | Sparsify::Outliers => bands(view, grain, step, sparsify),
        Sparsify::Random => Ok(step
            .models
            .iter()
            .enumerate()
            .map(|(index, model)| match model.density {
                density if density < 1.0 => Keep::Random(view.chance(index), density as f32),
                _ => Keep::All,
            })
            .collect()),
        Sparsify::MagPrune => {
            let models = step.models.iter().enumerate();
            let keep = |(index, model): (usize, &TaskModel)| {
                if !sparse(model) {
                    return Ok(Keep::All);
                }
                prune::masks(view, index, model, |chunk| differences(chunk, index))
                    .map(Keep::Marked)
            };
            models.map(keep).collect()
        }
    }
}

fn bands(
    view: &View<'_>,
    grain: Grain,
    step: &TaskStep,
    sparsify: Sparsify,
) -> Result<Vec<Keep>, MergeError> {
    let len = view.len() as u64;
    let stretches: Vec<Option<Stretch>> =
        step.models.iter().map(|model| stretch(len, model, sparsify)).collect();
    let keys = |query: usize, chunk: &Chunk<'_>, keys: &mut Vec<u32>| {
        let (base, model) = (&chunk.inputs[0], &chunk.inputs[query + 1]);
        keys.clear();
        keys.extend(model.iter().zip(base).map(|(model, base)| key((model - base).abs())));
    };
    let found = Band::find(view, grain, &stretches, &keys)?;
    let keep = |(band, model): (Option<Band>, &TaskModel)| match band {
        Some(band) => Keep::Band(band),
        None if model.density >= 1.0 => Keep::All,
        None => Keep::None,
    };
    Ok(found.into_iter().zip(&step.models).map(keep).collect())
}

/// The places that stay, in the order of magnitudes; none where all or nothing stays.
fn stretch(len: u64, model: &TaskModel, sparsify: Sparsify) -> Option<Stretch> {
    if model.density >= 1.0 || len == 0 {
        return None;
    }
    let kept = (model.density * len as f64) as u64;
    if sparsify == Sparsify::Magnitude {
        return Some(Stretch { from: len - kept.max(1), to: len, descending: true });
    }
    let top = (model.gamma * len as f64) as u64;
    let bottom = len.saturating_sub(kept + top);
    (kept > 0).then_some(Stretch { from: bottom, to: bottom + kept, descending: false })
}

/// Finds the factors that give sparse task vectors their former l1 norms.
fn rescale(view: &View<'_>, grain: Grain, vectors: &mut [Vector]) -> Result<(), MergeError> {
    if vectors.iter().all(|vector| matches!(vector.keep, Keep::All)) {
        return Ok(());
    }
    let parts = view.map(grain, |chunk| {
        let sums = vectors.iter().enumerate().map(|(index, vector)| {
            let mut delta = differences(chunk, index);
            let before = l1(&delta);
            vector.keep.apply(chunk, &mut delta);
            [before, l1(&delta)]
        });
        sums.collect::<Vec<_>>()
    })?;
    for (index, vector) in vectors.iter_mut().enumerate() {
        let sum = |which: usize| parts.iter().map(|part| part[index][which]).sum::<f64>();
        let [before, after] = [sum(0), sum(1)];
        if !matches!(vector.keep, Keep::All) && before >= RESCALE_FROM && after >= RESCALE_FROM {
            vector.rescale = before / after;
        }
    }
    Ok(())
}

impl Keep {
    /// Sets what does not stay to zero.
    fn apply(&self, chunk: &Chunk<'_>, delta: &mut [f32]) {
        match self {
            Self::All => {}
            Self::None => delta.fill(0.0),
            Self::Band(band) => {
                if let Some([low, high]) = band.whole() {
                    for delta in delta {
                        let key = key(delta.abs());
                        *delta = if key >= low && key <= high { *delta } else { 0.0 };
                    }
                    return;
                }
                let keys: Vec<u32> = delta.iter().map(|delta| key(delta.abs())).collect();
                band.mark(chunk.index, &keys, |index, kept| {
                    delta[index] = if kept { delta[index] } else { 0.0 };
                });
            }
            Self::Random(chance, density) => {
                for (index, delta) in delta.iter_mut().enumerate() {
                    let kept = chance.keeps((chunk.first + index) as u64, *density);
                    *delta = if kept { *delta } else { 0.0 };
                }
            }
            Self::Marked(masks) => {
                let mask = &masks[chunk.index];
                for (index, delta) in delta.iter_mut().enumerate() {
                    *delta = if mask.has(index) { *delta } else { 0.0 };
                }
            }
        }
    }
}

/// How weighted task vectors become the result.
struct Sum<R> {
    weights: Vec<R>,
    consensus: bool,
    normalize: bool,
    lambda: R,
}

impl<R: Real> Sum<R> {
    /// * `deltas`: times their weights
    fn fill(&self, base: &[f32], deltas: &[Vec<R>], out: &mut [f32]) {
        let mut sums = vec![R::default(); out.len()];
        for delta in deltas {
            sums.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += *delta);
        }
        if self.consensus {
            self.elect(deltas, &mut sums);
        } else if self.normalize {
            let mut total = R::default();
            self.weights.iter().for_each(|weight| total += *weight);
            let small = total < R::of(1e-8) && total > R::of(-1e-8);
            let divisor = if small { R::of(1.0) } else { total };
            sums.iter_mut().for_each(|sum| *sum = *sum / divisor);
        }
        for ((out, sum), base) in out.iter_mut().zip(sums).zip(base) {
            let mut value = R::from(*base);
            value += sum * self.lambda;
            *out = value.rounded();
        }
    }

    /// Adds up again what has the sign of the sum.
    fn elect(&self, deltas: &[Vec<R>], sums: &mut [R]) {
        let zero = R::default();
        let mut mixed = vec![zero; sums.len()];
        let mut divisors = vec![zero; sums.len()];
        for (delta, &weight) in deltas.iter().zip(&self.weights) {
            let parts = mixed.iter_mut().zip(&mut divisors).zip(delta.iter().zip(&*sums));
            for ((mixed, divisor), (&delta, &sum)) in parts {
                let agrees = (sum >= zero && delta > zero) || (sum < zero && delta < zero);
                *mixed += if agrees { delta } else { zero };
                *divisor += if agrees { weight } else { zero };
            }
        }
        for ((sum, mixed), divisor) in sums.iter_mut().zip(mixed).zip(divisors) {
            let divides = self.normalize && divisor != zero;
            *sum = mixed / if divides { divisor } else { R::of(1.0) };
        }
    }
}
