//! Element-wise work and short products on `f32`, written once and compiled for each level.

use crate::kernel::{KernelLevel, Kernels};

/// `a · b + c`, rounded once: by the processor's instruction where `FMA`, else by [`fused`].
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { fused(a, b, c) }
}

/// `a · b + c`, rounded once, on every processor.
///
/// In 64 bits the product is exact. The sum is rounded to odd there, so that rounding it again is
/// rounding once (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#[inline(always)]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return a.mul_add(b, c);
    }
    let (product, addend) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + addend;
    let added = sum - product;
    // What rounding left out (Knuth's two-sum); no number where the sum is not finite.
    let left = (product - (sum - added)) + (addend - added);
    let is_inexact = left.abs() > 0.0;
    let bits = sum.to_bits();
    // The neighbour towards what was left out has an odd last bit.
    let towards =
        if (left > 0.0) == (sum > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let odd = if is_inexact && bits & 1 == 0 { towards } else { bits };
    f64::from_bits(odd) as f32
}

/// Defines a function whose body is compiled once in plain Rust and once with AVX2, and chosen by
/// its first argument. `FMA` in the body says which.
macro_rules! vectorized {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name(kernels: Kernels, $($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body multiplies")]
            fn body<const FMA: bool>($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) $(-> $result)? {
                body::<true>($($arg),*)
            }

            match kernels.level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Kernels` says that the processor has these instructions.
                KernelLevel::Avx2 | KernelLevel::Avx512Vnni | KernelLevel::Amx => unsafe { avx2($($arg),*) },
                // NEON is part of every such processor.
                #[cfg(target_arch = "aarch64")]
                KernelLevel::Neon => body::<true>($($arg),*),
                _ => body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;

/// Sum of lanes, in pairs.
#[inline(always)]
pub(crate) fn lane_sum(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Dot product in four times eight lanes.
#[inline(always)]
pub(crate) fn dot_lanes<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [[0.0_f32; 8]; 4];
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (part, lanes) in lanes.iter_mut().enumerate() {
            for (index, lane) in lanes.iter_mut().enumerate() {
                let at = part * 8 + index;
                *lane = multiply_add::<FMA>(a[at], b[at], *lane);
            }
        }
    }
    let [first, second, third, fourth] = lanes;
    let lanes = std::array::from_fn(|index| {
        (first[index] + second[index]) + (third[index] + fourth[index])
    });
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lane_sum(lanes) + rest
}

/// `e^x` to within two units in the last place; 0 under −87.3 and capped over 88.3.
/// (Cephes `expf`.)
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LOW: f32 = -87.33;
    let clamped = if x < LOW { LOW } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = multiply_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = multiply_add::<FMA>(power, -0.693_359_4, clamped);
    let rest = multiply_add::<FMA>(power, 2.121_944_4e-4, rest);
    let mut series = 1.987_569_1e-4;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = multiply_add::<FMA>(series, rest, factor);
    }
    let value = multiply_add::<FMA>(series, rest * rest, rest + 1.0);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let scale = f32::from_bits(((exponent + 127) << 23) as u32);
    if x < LOW { 0.0 } else { value * scale }
}

/// `tanh x`, to within 3e-7.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let small = x.abs() < 0.05;
    // Near zero the quotient cancels; three terms of the series are exact to rounding there.
    let square = x * x;
    let series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0)));
    let quotient = 1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0);
    if small { series } else { quotient }
}

vectorized! {
    /// `into += from`.
    fn add(into: &mut [f32], from: &[f32]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into += from;
        }
    }
}

vectorized! {
    /// `c · tanh(x / c)`.
    fn soft_cap(values: &mut [f32], cap: f32) {
        for value in values {
            *value = cap * tanh::<FMA>(*value / cap);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the instruction of the processor, or by the library's function.
    fn exactly(a: f32, b: f32, c: f32) -> f32 {
        std::hint::black_box(a).mul_add(std::hint::black_box(b), std::hint::black_box(c))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn fused_rounds_once(
            a in proptest::num::f32::ANY,
            b in proptest::num::f32::ANY,
            c in proptest::num::f32::ANY,
            near in -60..60_i32,
        ) {
            // An addend of another size, and one that is near the product or half of its last bit.
            let close = -(a * b) * (1.0 + near as f32 * f32::EPSILON);
            for c in [c, close, close * f32::EPSILON, close * f32::EPSILON / 2.0] {
                let (found, expected) = (fused(a, b, c), exactly(a, b, c));
                prop_assert!(
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                    "{a:e} · {b:e} + {c:e}: {found:e}, exactly {expected:e}"
                );
            }
        }
    }

    #[test]
    fn exp_and_tanh_are_close_to_the_real_ones() {
        for step in -9000..9000 {
            let x = step as f32 / 100.0;
            let (exact, found) = (f64::from(x).exp(), f64::from(exp::<false>(x)));
            if x < 88.0 && x > -87.0 {
                assert!((found - exact).abs() <= exact * 3e-7, "exp {x}: {found} {exact}");
            }
            let (exact, found) = (f64::from(x).tanh(), f64::from(tanh::<false>(x)));
            assert!((found - exact).abs() <= 3e-7, "tanh {x}: {found} {exact}");
        }
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
    }
}
