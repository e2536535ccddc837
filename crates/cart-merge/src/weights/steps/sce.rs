//! Select, calculate, erase: where the task vectors vary most, weighed by their energy, in the
//! prevailing sign.

use crate::weights::error::MergeError;
use crate::weights::select::{Band, Stretch, key};
use crate::weights::steps::Ready;
use crate::weights::steps::gram::{dot, vectors};
use crate::weights::steps::mask::Mask;
use crate::weights::view::{Chunk, Grain, View};

const GRAIN: Grain = Grain::Elements;

/// Which elements are selected.
enum Selected {
    All,
    None,
    Band(Band),
}

/// Input 0 is the base.
pub(super) fn sce<'a>(view: &View<'_>, select_topk: f64) -> Result<Ready<'a>, MergeError> {
    let selected = select(view, select_topk)?;
    let weights = energies(view, &selected)?;
    Ok(Ready::grains(GRAIN, move |chunk, out| {
        let deltas = selected.deltas(chunk);
        for (index, (out, base)) in out.iter_mut().zip(&chunk.inputs[0]).enumerate() {
            let sum = deltas.iter().fold(0.0, |sum, delta| sum + delta[index]);
            let (mut mixed, mut divisor) = (0.0, 0.0);
            for (delta, weight) in deltas.iter().zip(&weights) {
                let delta = delta[index];
                if (sum >= 0.0 && delta > 0.0) || (sum < 0.0 && delta < 0.0) {
                    mixed += f64::from(delta) * weight;
                    divisor += weight;
                }
            }
            *out = (f64::from(*base) + mixed / f64::max(divisor, 1e-6)) as f32;
        }
    }))
}

fn select(view: &View<'_>, select_topk: f64) -> Result<Selected, MergeError> {
    if select_topk >= 1.0 {
        return Ok(Selected::All);
    }
    let varying = view.map(GRAIN, |chunk| {
        let varies = variances(chunk).into_iter().filter(|variance| *variance != 0.0);
        varies.count() as u64
    })?;
    let kept = (varying.iter().sum::<u64>() as f64 * select_topk) as u64;
    if kept == 0 {
        return Ok(Selected::None);
    }
    let len = view.len() as u64;
    let stretch = Stretch { from: len - kept, to: len, descending: true };
    let keys = |_: usize, chunk: &Chunk<'_>, keys: &mut Vec<u32>| {
        keys.clear();
        keys.extend(variances(chunk).into_iter().map(key));
    };
    let found = Band::find(view, GRAIN, &[Some(stretch)], &keys)?.swap_remove(0);
    Ok(found.map_or(Selected::None, Selected::Band))
}

/// The variance of the task vectors at each element, in f64, rounded.
fn variances(chunk: &Chunk<'_>) -> Vec<f32> {
    let deltas = vectors(chunk.inputs, true);
    let count = deltas.len() as f64;
    (0..chunk.len())
        .map(|index| {
            let of = |delta: &std::borrow::Cow<'_, [f32]>| f64::from(delta[index]);
            let mean = deltas.iter().map(of).sum::<f64>() / count;
            let squares = deltas.iter().map(|delta| (of(delta) - mean) * (of(delta) - mean));
            (squares.sum::<f64>() / count) as f32
        })
        .collect()
}

/// The mean square of each task vector, as a share of all.
fn energies(view: &View<'_>, selected: &Selected) -> Result<Vec<f64>, MergeError> {
    let count = view.inputs.len() - 1;
    let parts = view.map(GRAIN, |chunk| {
        selected.deltas(chunk).iter().map(|delta| dot(delta, delta)).collect::<Vec<_>>()
    })?;
    let mean = |index: usize| {
        parts.iter().map(|part| part[index]).sum::<f64>() / (view.len() as f64).max(1.0)
    };
    let means: Vec<f64> = (0..count).map(mean).collect();
    let total: f64 = means.iter().sum();
    if total.abs() < 1e-6 {
        return Ok(vec![1.0 / count as f64; count]);
    }
    Ok(means.iter().map(|mean| mean / total).collect())
}

impl Selected {
    /// The task vectors, zero where an element is not selected.
    fn deltas(&self, chunk: &Chunk<'_>) -> Vec<Vec<f32>> {
        let mut deltas: Vec<Vec<f32>> =
            vectors(chunk.inputs, true).into_iter().map(Into::into).collect();
        match self {
            Self::All => {}
            Self::None => deltas.iter_mut().for_each(|delta| delta.fill(0.0)),
            Self::Band(band) => {
                let keys: Vec<u32> = variances(chunk).into_iter().map(key).collect();
                let mut mask = Mask::none(keys.len());
                band.mark(chunk.index, &keys, |index, kept| mask.set(index, kept));
                for delta in &mut deltas {
                    for (index, delta) in delta.iter_mut().enumerate() {
                        *delta = if mask.has(index) { *delta } else { 0.0 };
                    }
                }
            }
        }
        deltas
    }
}
