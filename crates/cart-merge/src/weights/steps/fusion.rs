//! Arcee fusion: the other's values where they differ much and change what their row says.

use libm::{exp, log};

use crate::weights::error::MergeError;
use crate::weights::select::{key, places, value};
use crate::weights::steps::Ready;
use crate::weights::view::{Chunk, Grain, View};

/// Takes the other's values (input 1) where their importance is at least the median and one and a
/// half times the distance of the quartiles. Quartiles are exact, where mergekit samples a million
/// elements of a larger tensor.
pub(super) fn arcee_fusion<'a>(view: &View<'_>) -> Result<Ready<'a>, MergeError> {
    let columns = view.columns().max(1);
    let grain = Grain::Rows(columns);
    let divergences: Vec<f32> = view
        .map(grain, |chunk| {
            let rows = chunk.inputs[1].chunks(columns).zip(chunk.inputs[0].chunks(columns));
            rows.map(|(other, base)| divergence(other, base)).collect::<Vec<_>>()
        })?
        .concat();
    let last = view.len() as u64 - 1;
    let at = |quarter: u64| (last as f64 * quarter as f64 / 4.0) as u64;
    let keys = |_: usize, chunk: &Chunk<'_>, keys: &mut Vec<u32>| {
        keys.clear();
        keys.extend(
            (0..chunk.len()).map(|index| key(importance(chunk, index, columns, &divergences))),
        );
    };
    let found = places(view, grain, &[vec![at(1), at(2), at(3)]], &keys)?;
    let [low, median, high] = [0, 1, 2].map(|index| value(found[0][index].key));
    let threshold = median + 1.5 * (high - low);
    Ok(Ready::grains(grain, move |chunk, out| {
        for (index, out) in out.iter_mut().enumerate() {
            let (base, other) = (chunk.inputs[0][index], chunk.inputs[1][index]);
            let taken = importance(chunk, index, columns, &divergences) >= threshold;
            *out = base + (other - base) * if taken { 1.0 } else { 0.0 };
        }
    }))
}

fn importance(chunk: &Chunk<'_>, index: usize, columns: usize, divergences: &[f32]) -> f32 {
    let difference = (chunk.inputs[1][index] - chunk.inputs[0][index]).abs();
    difference * divergences[(chunk.first + index) / columns]
}

/// Kullback and Leibler's divergence of two rows' softmax, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f32 {
    let (p, q) = (Softmax::of(p), Softmax::of(q));
    let terms = (0..p.values.len()).map(|index| {
        let (p, q) = (p.at(index) + 1e-8, q.at(index) + 1e-8);
        p * log(p / q)
    });
    terms.sum::<f64>() as f32
}

struct Softmax<'a> {
    values: &'a [f32],
    largest: f64,
    sum: f64,
}

impl<'a> Softmax<'a> {
    fn of(values: &'a [f32]) -> Self {
        let largest = f64::from(values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum = values.iter().map(|value| exp(f64::from(*value) - largest)).sum();
        Self { values, largest, sum }
    }

    fn at(&self, index: usize) -> f64 {
        exp(f64::from(self.values[index]) - self.largest) / self.sum
    }
}
