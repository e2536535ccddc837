//! Reinforced agent merging: what one model changed is added whole, what several changed as their
//! mean.

use crate::weights::steps::Ready;

/// `base + Σ dᵢ / n` over the `n` inputs whose difference `dᵢ` is over `epsilon`.
pub(super) fn ram<'a>(epsilon: f32) -> Ready<'a> {
    Ready::elements(move |chunk, out| {
        let (base, others) = chunk.inputs.split_first().expect("the step has a base");
        for (index, (out, base)) in out.iter_mut().zip(base).enumerate() {
            let changes = others.iter().map(|other| other[index] - base);
            let changes = changes.filter(|change| change.abs() > epsilon);
            let count = changes.clone().count() as f32;
            let sum = changes
                .fold(0.0, |sum, change| sum + if count > 1.0 { change / count } else { change });
            *out = base + sum;
        }
    })
}
