//! Methods that need nothing but the elements themselves.

use crate::weights::steps::Ready;

/// `Σ wᵢxᵢ`, divided by `Σ wᵢ` where it is normalized.
pub(super) fn linear<'a>(weights: &[f64], normalize: bool) -> Ready<'a> {
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let total = weights.iter().fold(0.0, |sum, weight| sum + weight);
    Ready::elements(move |chunk, out| {
        out.fill(0.0);
        for (input, weight) in chunk.inputs.iter().zip(&weights) {
            add_weighted(out, input, *weight);
        }
        if normalize {
            out.iter_mut().for_each(|sum| *sum /= total);
        }
    })
}

/// Adds values times a weight, rounded once each, as PyTorch's `addcmul` does with fused instructions.
fn add_weighted(sums: &mut [f32], values: &[f32], weight: f32) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe { add_weighted_fma(sums, values, weight) };
        return;
    }
    add_weighted_portable(sums, values, weight);
}

/// The same bits with or without the instructions: a fused operation has one right result.
#[inline(always)]
fn add_weighted_portable(sums: &mut [f32], values: &[f32], weight: f32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = value.mul_add(weight, *sum);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_weighted_fma(sums: &mut [f32], values: &[f32], weight: f32) {
    add_weighted_portable(sums, values, weight);
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

/// `w·b + (1 − w)·a` with `w = t / |a − b|`, at most 1. The division is by the reciprocal, rounded twice, as
/// PyTorch divides a number by a tensor.
pub(super) fn near_swap<'a>(t: f32) -> Ready<'a> {
    Ready::elements(move |chunk, out| {
        let [base, other] = chunk.inputs else { unreachable!("the step has two inputs") };
        for ((out, a), b) in out.iter_mut().zip(base).zip(other) {
            let weight = ((1.0 / (a - b).abs().max(1e-6)) * t).clamp(0.0, 1.0);
            *out = weight * b + (1.0 - weight) * a;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_and_without_instructions_the_same() {
        let values: Vec<f32> = (0..1000).map(|index| (index as f32 * 0.37).sin() * 3.0).collect();
        let start: Vec<f32> = values.iter().map(|value| -0.6 * value).collect();
        let (mut fused, mut portable) = (start.clone(), start);
        add_weighted(&mut fused, &values, 0.6);
        add_weighted_portable(&mut portable, &values, 0.6);
        assert_eq!(fused, portable);
        assert!(
            fused.iter().any(|sum| *sum != 0.0),
            "rounded once, the products do not cancel out"
        );
    }
}
