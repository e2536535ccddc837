//! Model stock: between the base and the mean of the others, by the angle of their differences.

use crate::weights::error::MergeError;
use crate::weights::steps::Ready;
use crate::weights::steps::gram::{Gram, vectors};
use crate::weights::view::{Chunk, Grain, View};

/// One angle for the tensor, or one for each row.
pub(super) fn model_stock<'a>(view: &View<'_>, filter_wise: bool) -> Result<Ready<'a>, MergeError> {
    let count = view.inputs.len() - 1;
    if !filter_wise {
        let ratio = ratio(&Gram::of(view, true)?, count);
        return Ok(Ready::elements(move |chunk, out| blend(chunk, out, &|_| ratio)));
    }
    let columns = view.columns().max(1);
    Ok(Ready::grains(Grain::Rows(columns), move |chunk, out| {
        let vectors = vectors(chunk.inputs, true);
        let ratios: Vec<f64> = (0..chunk.len())
            .step_by(columns)
            .map(|at| {
                let mut gram = Gram::zero(count);
                let rows: Vec<&[f32]> =
                    vectors.iter().map(|vector| &vector[at..][..columns]).collect();
                gram.add(&rows);
                ratio(&gram, count)
            })
            .collect();
        blend(chunk, out, &|index| ratios[index / columns]);
    }))
}

/// How far to go from the base to the mean: `n·cos θ / (1 + (n − 1)·cos θ)`, of the mean cosine of
/// all pairs of differences.
fn ratio(gram: &Gram, count: usize) -> f64 {
    let mut cosines = Vec::new();
    for i in 0..count {
        for j in i + 1..count {
            let norms = (gram.norm(i) * gram.norm(j)).max(1e-6);
            cosines.push((gram.get(i, j) / norms).clamp(-1.0, 1.0));
        }
    }
    let cosine = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let divisor = 1.0 + (count as f64 - 1.0) * cosine;
    if divisor.abs() < 1e-6 { 0.0 } else { count as f64 * cosine / divisor }
}

fn blend(chunk: &Chunk<'_>, out: &mut [f32], ratio: &dyn Fn(usize) -> f64) {
    let (base, others) = chunk.inputs.split_first().expect("the step has a base");
    let count = others.len() as f64;
    for (index, (out, base)) in out.iter_mut().zip(base).enumerate() {
        let ratio = ratio(index);
        let mean = others.iter().fold(0.0, |sum, other| sum + f64::from(other[index])) / count;
        *out = (ratio * mean + (1.0 - ratio) * f64::from(*base)) as f32;
    }
}
