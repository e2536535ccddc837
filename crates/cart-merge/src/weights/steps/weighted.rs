//! Methods that need nothing but the elements themselves.

use crate::weights::steps::Ready;

/// `Σ wᵢxᵢ`, divided by `Σ wᵢ` where it is normalized.
pub(super) fn linear<'a>(weights: &[f64], normalize: bool) -> Ready<'a> {
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let total = weights.iter().fold(0.0, |sum, weight| sum + weight);
    Ready::elements(move |chunk, out| {
        out.fill(0.0);
        for (input, weight) in chunk.inputs.iter().zip(&weights) {
            for (sum, value) in out.iter_mut().zip(input) {
                *sum += value * weight;
            }
        }
        if normalize {
            out.iter_mut().for_each(|sum| *sum /= total);
        }
    })
}

/// The only input, perhaps scaled.
pub(super) fn passthrough<'a>(scale: Option<f64>) -> Ready<'a> {
    let scale = scale.map_or(1.0, |scale| scale as f32);
    Ready::elements(move |chunk, out| {
        for (out, value) in out.iter_mut().zip(&chunk.inputs[0]) {
            *out = value * scale;
        }
    })
}

/// `w·b + (1 − w)·a` with `w = t / |a − b|`, at most 1.
pub(super) fn near_swap<'a>(t: f32) -> Ready<'a> {
    Ready::elements(move |chunk, out| {
        let [base, other] = chunk.inputs else { unreachable!("the step has two inputs") };
        for ((out, a), b) in out.iter_mut().zip(base).zip(other) {
            let weight = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
            *out = weight * b + (1.0 - weight) * a;
        }
    })
}
