//! Activation functions of MLPs.

use cart_format::arch::Activation;

use crate::kernel::vector::{exp, tanh, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};

/// `gate ← activation(gate) · up`, or `activation(gate)` without `up`.
pub(crate) fn activate(
    kernels: Kernels,
    activation: Activation,
    values: &mut [f32],
    up: Option<&[f32]>,
) {
    match activation {
        Activation::Silu => silu(kernels, values),
        Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
        Activation::GeluTanh => gelu_tanh(kernels, values),
        Activation::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
        Activation::ReluSquared => values.iter_mut().for_each(|x| *x = x.max(0.0) * x.max(0.0)),
    }
    if let Some(up) = up {
        values.iter_mut().zip(up).for_each(|(value, up)| *value *= up);
    }
}

/// `activation(gate) · up`, or `activation(up)` where not `gated`.
///
/// * `both`: `[rows, 2 · width]`, gate and up side by side, or `[rows, width]`
/// * returns `[rows, width]`
pub(crate) fn gate(
    kernels: Kernels,
    activation: Activation,
    gated: bool,
    both: &[f32],
    rows: usize,
) -> Vec<f32> {
    let width = both.len() / rows;
    let intermediate = if gated { width / 2 } else { width };
    let mut out = vec![0.0; rows * intermediate];
    let target = Rows::new(&mut out, intermediate);
    split(rows, 4, &|range| {
        for row in range {
            let (gate, up) = both[row * width..][..width].split_at(intermediate);
            // SAFETY: each row is in one range of the split.
            let out = unsafe { target.row(row) };
            out.copy_from_slice(gate);
            activate(kernels, activation, out, gated.then_some(up));
        }
    });
    out
}

vectorized! {
    /// `x · σ(x)`.
    fn silu(values: &mut [f32]) {
        for x in values {
            *x /= 1.0 + exp::<FMA>(-*x);
        }
    }
}

vectorized! {
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))` (Hendrycks and Gimpel, 2016).
    fn gelu_tanh(values: &mut [f32]) {
        for x in values {
            let inner = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            *x *= 0.5 * (1.0 + tanh::<FMA>(inner));
        }
    }
}

/// `x/2 · (1 + erf(x/√2))`.
fn gelu(x: f32) -> f32 {
    let erf = candle_core::cpu::erf::erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2);
    (0.5 * f64::from(x) * (1.0 + erf)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by `torch.nn.functional` at −3, −0.5, 0, 0.02 and 2.
    #[test]
    fn activations_have_their_known_values() {
        let inputs = [-3.0, -0.5, 0.0, 0.02, 2.0];
        let cases = [
            (Activation::Silu, [-0.142_277_6, -0.188_770_34, 0.0, 0.010_1, 1.761_594_2]),
            (Activation::Gelu, [-0.004_049_7, -0.154_268_77, 0.0, 0.010_159_567, 1.954_499_7]),
            (Activation::GeluTanh, [-0.003_637_4, -0.154_286, 0.0, 0.010_159_566, 1.954_597_7]),
            (Activation::Relu, [0.0, 0.0, 0.0, 0.02, 2.0]),
            (Activation::ReluSquared, [0.0, 0.0, 0.0, 0.000_4, 4.0]),
        ];
        for level in KernelLevel::ALL {
            let Ok(kernels) = Kernels::new(level) else { continue };
            for (activation, expected) in cases {
                let mut values = inputs;
                activate(kernels, activation, &mut values, None);
                for (value, expected) in values.iter().zip(expected) {
                    assert!((value - expected).abs() < 2e-6, "{activation:?}: {value} {expected}");
                }
            }
        }
    }
}
