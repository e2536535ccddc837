//! The recurrences of Mamba and Mamba-2 over the positions of a segment, for a block of channels.
//!
//! The channels of a block are lanes, so a state is `[state_size, LANES]` and nothing is summed
//! across lanes. Positions go one after the other, in the same operations however they are cut into
//! segments.

use crate::kernel::vector::{exp, multiply_add, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::recurrent::LANES;

type Lanes = [f32; LANES];

/// Rows of numbers of which a block takes part.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) data: &'a [f32],
    /// Numbers in a row.
    pub(crate) width: usize,
    /// Where the part begins.
    pub(crate) column: usize,
}

impl<'a> Columns<'a> {
    /// The `len` numbers of row `row`.
    #[inline(always)]
    fn part(&self, row: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.width + self.column..][..len]
    }

    /// The lanes of row `row`; zeros beyond `count`.
    #[inline(always)]
    fn lanes(&self, row: usize, count: usize) -> Lanes {
        lanes(self.part(row, count))
    }
}

#[inline(always)]
fn lanes(part: &[f32]) -> Lanes {
    match part.as_array() {
        Some(lanes) => *lanes,
        None => std::array::from_fn(|lane| part.get(lane).copied().unwrap_or(0.0)),
    }
}

/// What a block of Mamba's channels reads.
#[derive(Clone, Copy)]
pub(crate) struct Selective<'a> {
    /// Channels in the block, at most [`LANES`].
    pub(crate) count: usize,
    /// First row and the one after the last.
    pub(crate) rows: (usize, usize),
    /// The convolved inputs.
    pub(crate) x: Columns<'a>,
    /// Time steps Δ.
    pub(crate) step: Columns<'a>,
    /// B, the same for all channels.
    pub(crate) b: Columns<'a>,
    /// C, the same for all channels.
    pub(crate) c: Columns<'a>,
    /// A, `[state_size, LANES]`.
    pub(crate) decay: &'a [f32],
    /// D.
    pub(crate) skip: Lanes,
}

vectorized! {
    /// `h ← e^(Δ·A) · h + Δ · x · B`, `y = C · h + D · x` (Gu and Dao, 2023, section 3).
    ///
    /// * `state`: h, `[state_size, LANES]`
    /// * `put`: takes the outputs of each row
    fn selective_scan(
        of: Selective<'_>,
        state: &mut [f32],
        put: &mut dyn FnMut(usize, &[f32]),
    ) {
        let size = state.len() / LANES;
        let (states, _) = state.as_chunks_mut::<LANES>();
        let (decays, _) = of.decay.as_chunks::<LANES>();
        let mut kept = vec![[0.0_f32; LANES]; size];
        for row in of.rows.0..of.rows.1 {
            let x = of.x.lanes(row, of.count);
            let step = of.step.lanes(row, of.count);
            let (b, c) = (of.b.part(row, size), of.c.part(row, size));
            let driven: Lanes = std::array::from_fn(|lane| step[lane] * x[lane]);
            for (kept, decay) in kept.iter_mut().zip(decays) {
                for lane in 0..LANES {
                    kept[lane] = step[lane] * decay[lane];
                }
            }
            // In a pass of its own, it becomes vector instructions.
            for value in kept.as_flattened_mut() {
                *value = exp::<FMA>(*value);
            }
            let mut sums = [0.0_f32; LANES];
            for (((state, kept), b), c) in states.iter_mut().zip(&kept).zip(b).zip(c) {
                for lane in 0..LANES {
                    state[lane] = multiply_add::<FMA>(kept[lane], state[lane], driven[lane] * b);
                    sums[lane] = multiply_add::<FMA>(state[lane], *c, sums[lane]);
                }
            }
            let out: Lanes = std::array::from_fn(|lane| {
                multiply_add::<FMA>(of.skip[lane], x[lane], sums[lane])
            });
            put(row, &out[..of.count]);
        }
    }
}

/// What a block of Mamba-2's channels, all of one head, reads.
#[derive(Clone, Copy)]
pub(crate) struct Dual<'a> {
    /// Channels in the block, at most [`LANES`].
    pub(crate) count: usize,
    /// First row and the one after the last.
    pub(crate) rows: (usize, usize),
    /// The convolved inputs.
    pub(crate) x: Columns<'a>,
    /// The head's time step Δ and what is kept of the state, `e^(Δ·A)`.
    pub(crate) step: Columns<'a>,
    /// B of the head's group.
    pub(crate) b: Columns<'a>,
    /// C of the head's group.
    pub(crate) c: Columns<'a>,
    /// D of the head.
    pub(crate) skip: f32,
}

vectorized! {
    /// `h ← e^(Δ·A) · h + Δ · x ⊗ B`, `y = h · C + D · x` (Dao and Gu, 2024, section 5).
    ///
    /// * `state`: h, `[state_size, LANES]`
    /// * `put`: takes the outputs of each row
    fn dual_scan(
        of: Dual<'_>,
        state: &mut [f32],
        put: &mut dyn FnMut(usize, &[f32]),
    ) {
        let size = state.len() / LANES;
        let (states, _) = state.as_chunks_mut::<LANES>();
        for row in of.rows.0..of.rows.1 {
            let x = of.x.lanes(row, of.count);
            let step = of.step.part(row, 2);
            let (step, kept) = (step[0], step[1]);
            let (b, c) = (of.b.part(row, size), of.c.part(row, size));
            let driven = x.map(|x| step * x);
            let mut sums = [0.0_f32; LANES];
            for ((state, b), c) in states.iter_mut().zip(b).zip(c) {
                for lane in 0..LANES {
                    state[lane] = multiply_add::<FMA>(kept, state[lane], driven[lane] * b);
                    sums[lane] = multiply_add::<FMA>(state[lane], *c, sums[lane]);
                }
            }
            let out: Lanes = std::array::from_fn(|lane| {
                multiply_add::<FMA>(of.skip, x[lane], sums[lane])
            });
            put(row, &out[..of.count]);
        }
    }
}

vectorized! {
    /// Time steps of heads and what they keep: `Δ = softplus(d + bias)` inside `limits`, `e^(Δ·A)`.
    ///
    /// * `steps`: d on entry, `[heads]`
    /// * `out`: Δ and `e^(Δ·A)` of each head, `[heads, 2]`
    fn head_steps(
        steps: &[f32],
        bias: &[f32],
        decay: &[f32],
        limits: (f32, f32),
        out: &mut [f32],
    ) {
        let (out, _) = out.as_chunks_mut::<2>();
        for (((step, bias), decay), out) in steps.iter().zip(bias).zip(decay).zip(out) {
            let step = softplus::<FMA>(step + bias).clamp(limits.0, limits.1);
            *out = [step, exp::<FMA>(step * decay)];
        }
    }
}

vectorized! {
    /// `ln(1 + e^x)` of each.
    fn softplus_all(values: &mut [f32]) {
        for value in values {
            *value = softplus::<FMA>(*value);
        }
    }
}

vectorized! {
    /// `y ← y · silu(z)`.
    fn gate(values: &mut [f32], gates: &[f32]) {
        for (value, gate) in values.iter_mut().zip(gates) {
            *value *= gate / (1.0 + exp::<FMA>(-gate));
        }
    }
}

/// `ln(1 + e^x)`, to within 3e-7 of itself.
///
/// `max(x, 0) + ln(1 + u)` with `u = e^−|x|`, and `ln(1 + u) = 2 · artanh(u / (2 + u))` by its
/// series, whose argument is at most a third.
#[inline(always)]
pub(crate) fn softplus<const FMA: bool>(x: f32) -> f32 {
    let small = exp::<FMA>(-x.abs());
    let ratio = small / (2.0 + small);
    let square = ratio * ratio;
    let mut series = 1.0 / 15.0;
    for factor in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        series = multiply_add::<FMA>(series, square, factor);
    }
    let above = if x > 0.0 { x } else { 0.0 };
    above + 2.0 * ratio * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_is_close_to_the_real_one() {
        for step in -8700..9000 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp().ln_1p();
            for found in [softplus::<false>(x), softplus::<true>(x)] {
                assert!((f64::from(found) - exact).abs() <= exact * 4e-7, "{x}: {found} {exact}");
            }
        }
    }
}
