//! Mamba's recurrence over the positions of sequences that nothing precedes.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::floats::{Floats, numbers, storage, tensor, total};
use crate::kernel::vector::{exp, multiply_add, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::Rows;
use crate::recurrent::LANES;
use crate::scan::softplus;

/// What a scan reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::graph) struct SelectiveInput<'a> {
    /// `[batch, n, channels]`.
    pub(in crate::graph) x: &'a Tensor,
    /// What `Δ = softplus(steps)` is made of, as `x`.
    pub(in crate::graph) steps: &'a Tensor,
    /// A, `[channels, state_size]`.
    pub(in crate::graph) decay: &'a Tensor,
    /// D, `[channels]`.
    pub(in crate::graph) skip: &'a Tensor,
    /// B, `[batch, n, state_size]`.
    pub(in crate::graph) b: &'a Tensor,
    /// C, as B.
    pub(in crate::graph) c: &'a Tensor,
}

/// `h ← e^(Δ·A) · h + Δ · x · B`, `y = C · h + D · x` (Gu and Dao, 2023, §3.2), `[batch, n, channels]`.
///
/// States are computed again on the way back, so that none is kept.
pub(in crate::graph) fn selective(of: &SelectiveInput<'_>) -> Result<Tensor> {
    let (batch, count, channels) = of.x.dims3()?;
    let (_channels, size) = of.decay.dims2()?;
    if of.b.dims() != [batch, count, size] || of.c.dims() != of.b.dims() {
        bail!("B and C are [{batch}, {count}, {size}], not {:?}, {:?}", of.b.dims(), of.c.dims());
    }
    let op = Selective { size: Size { batch, count, channels, states: size } };
    // An operation has three arguments.
    let flat = [of.decay, of.skip, of.b, of.c].map(Tensor::flatten_all);
    let rest = Tensor::cat(&flat.into_iter().collect::<Result<Vec<_>>>()?, 0)?;
    of.x.contiguous()?.apply_op3(&of.steps.contiguous()?, &rest, op)
}

#[derive(Clone, Copy)]
pub(crate) struct Size {
    batch: usize,
    count: usize,
    channels: usize,
    states: usize,
}

/// All numbers of a scan.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    size: Size,
    x: &'a [f32],
    steps: &'a [f32],
    decay: &'a [f32],
    skip: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
}

/// A sequence, and the first of up to [`LANES`] channels of it.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    sequence: usize,
    channel: usize,
    /// Channels.
    count: usize,
}

impl Size {
    fn blocks(self) -> usize {
        self.channels.div_ceil(LANES)
    }

    fn block(self, task: usize) -> Block {
        let channel = task % self.blocks() * LANES;
        let count = LANES.min(self.channels - channel);
        Block { sequence: task / self.blocks(), channel, count }
    }
}

pub(crate) type Lanes = [f32; LANES];

impl<'a> Numbers<'a> {
    fn new(size: Size, x: &'a [f32], steps: &'a [f32], rest: &'a [f32]) -> Self {
        let (decay, rest) = rest.split_at(size.channels * size.states);
        let (skip, rest) = rest.split_at(size.channels);
        let (b, c) = rest.split_at(rest.len() / 2);
        Self { size, x, steps, decay, skip, b, c }
    }

    /// The channels of a block at a position; zeros beyond them.
    #[inline(always)]
    fn lanes(&self, of: &[f32], block: Block, at: usize) -> Lanes {
        let row = block.sequence * self.size.count + at;
        self.row_lanes(of, block, row)
    }

    /// The channels of a block of row `row`; zeros beyond them.
    #[inline(always)]
    fn row_lanes(&self, of: &[f32], block: Block, row: usize) -> Lanes {
        let part = &of[row * self.size.channels + block.channel..][..block.count];
        match part.as_array() {
            Some(lanes) => *lanes,
            None => std::array::from_fn(|lane| part.get(lane).copied().unwrap_or(0.0)),
        }
    }

    /// B or C at a position.
    #[inline(always)]
    fn shared(&self, of: &'a [f32], block: Block, at: usize) -> &'a [f32] {
        let row = block.sequence * self.size.count + at;
        &of[row * self.size.states..][..self.size.states]
    }

    /// A of a block, `[states][LANES]`.
    fn decays(&self, block: Block) -> Vec<Lanes> {
        let at = |lane: usize, state: usize| {
            let channel = block.channel + lane;
            if lane < block.count { self.decay[channel * self.size.states + state] } else { 0.0 }
        };
        (0..self.size.states).map(|state| std::array::from_fn(|lane| at(lane, state))).collect()
    }
}

/// `e^(Δ·A)` of a position, `[states][LANES]`.
#[inline(always)]
fn kept_parts<const FMA: bool>(decays: &[Lanes], step: &Lanes, kept: &mut [Lanes]) {
    for (kept, decay) in kept.iter_mut().zip(decays) {
        for lane in 0..LANES {
            kept[lane] = step[lane] * decay[lane];
        }
    }
    // In a pass of its own, it becomes vector instructions.
    kept.as_flattened_mut().iter_mut().for_each(|value| *value = exp::<FMA>(*value));
}

vectorized! {
    /// Shows the outputs of a block, position by position, and pushes its states to `states`.
    fn forward(
        of: &Numbers<'_>,
        block: Block,
        put: &mut dyn FnMut(usize, &Lanes),
        states: Option<&mut Vec<Lanes>>,
    ) {
        let mut states = states;
        let decays = of.decays(block);
        let skip = of.row_lanes(of.skip, block, 0);
        let mut kept = vec![[0.0_f32; LANES]; decays.len()];
        let mut state = vec![[0.0_f32; LANES]; decays.len()];
        for at in 0..of.size.count {
            let (x, raw) = (of.lanes(of.x, block, at), of.lanes(of.steps, block, at));
            let step = raw.map(softplus::<FMA>);
            let (b, c) = (of.shared(of.b, block, at), of.shared(of.c, block, at));
            kept_parts::<FMA>(&decays, &step, &mut kept);
            let mut sums: Lanes = std::array::from_fn(|lane| skip[lane] * x[lane]);
            for (((state, kept), b), c) in state.iter_mut().zip(&kept).zip(b).zip(c) {
                for lane in 0..LANES {
                    let driven = step[lane] * x[lane] * b;
                    state[lane] = multiply_add::<FMA>(kept[lane], state[lane], driven);
                    sums[lane] = multiply_add::<FMA>(state[lane], *c, sums[lane]);
                }
            }
            put(at, &sums);
            if let Some(states) = &mut states {
                states.extend_from_slice(&state);
            }
        }
    }
}

/// Where the gradients of a block go.
pub(crate) struct Slopes<'a> {
    /// Takes those of x and of what Δ is made of at a position.
    put: &'a mut dyn FnMut(usize, &Lanes, &Lanes),
    /// A, `[states][LANES]`, added to.
    decay: &'a mut [Lanes],
    /// D, added to.
    skip: &'a mut Lanes,
    /// B, `[n, states]`, this block's part of the sum over channels.
    b: &'a mut [f32],
    /// C, as B.
    c: &'a mut [f32],
}

vectorized! {
    /// * `slope`: of the outputs, `[batch, n, channels]`; `states`: of the forward
    fn backward(
        of: &Numbers<'_>,
        block: Block,
        slope: &[f32],
        states: &[Lanes],
        out: &mut Slopes<'_>,
    ) {
        let (decays, size) = (of.decays(block), of.size.states);
        let skip = of.row_lanes(of.skip, block, 0);
        let mut kept = vec![[0.0_f32; LANES]; size];
        // The gradient of the state after the position at hand.
        let mut carried = vec![[0.0_f32; LANES]; size];
        let zeros = vec![[0.0_f32; LANES]; size];
        for at in (0..of.size.count).rev() {
            let (x, raw) = (of.lanes(of.x, block, at), of.lanes(of.steps, block, at));
            let step = raw.map(softplus::<FMA>);
            let slope = of.lanes(slope, block, at);
            let (b, c) = (of.shared(of.b, block, at), of.shared(of.c, block, at));
            let now = &states[at * size..][..size];
            let before = if at == 0 { &zeros } else { &states[(at - 1) * size..][..size] };
            kept_parts::<FMA>(&decays, &step, &mut kept);
            let (mut of_driven, mut of_step) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for index in 0..size {
                let (mut of_b, mut of_c) = ([0.0_f32; LANES], [0.0_f32; LANES]);
                for lane in 0..LANES {
                    let of_state = multiply_add::<FMA>(slope[lane], c[index], carried[index][lane]);
                    of_c[lane] = slope[lane] * now[index][lane];
                    of_b[lane] = of_state * step[lane] * x[lane];
                    of_driven[lane] = multiply_add::<FMA>(of_state, b[index], of_driven[lane]);
                    let of_power = of_state * kept[index][lane] * before[index][lane];
                    of_step[lane] = multiply_add::<FMA>(of_power, decays[index][lane], of_step[lane]);
                    let decay = &mut out.decay[index][lane];
                    *decay = multiply_add::<FMA>(of_power, step[lane], *decay);
                    carried[index][lane] = of_state * kept[index][lane];
                }
                out.b[at * size + index] = of_b.iter().sum();
                out.c[at * size + index] = of_c.iter().sum();
            }
            let (mut of_x, mut of_raw) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for lane in 0..LANES {
                out.skip[lane] = multiply_add::<FMA>(slope[lane], x[lane], out.skip[lane]);
                of_x[lane] = of_driven[lane] * step[lane] + slope[lane] * skip[lane];
                let of_step = multiply_add::<FMA>(of_driven[lane], x[lane], of_step[lane]);
                // The slope of softplus is the sigmoid.
                of_raw[lane] = of_step / (1.0 + exp::<FMA>(-raw[lane]));
            }
            (out.put)(at, &of_x, &of_raw);
        }
    }
}

struct Selective {
    size: Size,
}

impl Selective {
    /// Gradients of x, of what Δ is made of, and of A, D, B and C one after the other.
    fn slopes(&self, of: &Numbers<'_>, slope: &[f32]) -> [Vec<f32>; 3] {
        let Size { batch, count, channels, states } = self.size;
        let (kernels, blocks, shared) = (Kernels::detect(), self.size.blocks(), count * states);
        let (mut of_x, mut of_steps) = (vec![0.0; of.x.len()], vec![0.0; of.x.len()]);
        // Of A, and D as one more row.
        let mut of_decay = vec![[0.0; LANES]; batch * blocks * (states + 1)];
        let mut of_shared = vec![0.0; batch * blocks * 2 * shared];
        let (x_rows, step_rows) =
            (Rows::new(&mut of_x, channels), Rows::new(&mut of_steps, channels));
        let parts = of_decay.par_chunks_mut(states + 1).zip(of_shared.par_chunks_mut(2 * shared));
        parts.enumerate().for_each(|(task, (decay, of_shared))| {
            let block = self.size.block(task);
            let mut kept = Vec::with_capacity(count * states);
            forward(kernels, of, block, &mut |_, _| {}, Some(&mut kept));
            let (b, c) = of_shared.split_at_mut(shared);
            let put = &mut |at: usize, x: &Lanes, step: &Lanes| {
                let row = block.sequence * count + at;
                // SAFETY: each channel of each row is in one block.
                unsafe {
                    x_rows.write(row, block.channel, &x[..block.count]);
                    step_rows.write(row, block.channel, &step[..block.count]);
                }
            };
            let (decay, skip) = decay.split_at_mut(states);
            let mut slopes = Slopes { put, decay, skip: &mut skip[0], b, c };
            backward(kernels, of, block, slope, &kept, &mut slopes);
        });
        let of_rest = self.join(&of_decay, &of_shared);
        [of_x, of_steps, of_rest]
    }

    /// Sums the parts of tasks: A and D over sequences, B and C over blocks of channels.
    fn join(&self, of_decay: &[Lanes], of_shared: &[f32]) -> Vec<f32> {
        let Size { count, channels, states, .. } = self.size;
        let (blocks, shared) = (self.size.blocks(), count * states);
        let decay = total(of_decay.as_flattened(), blocks * (states + 1) * LANES);
        let at = |channel: usize, state: usize| {
            decay[(channel / LANES * (states + 1) + state) * LANES + channel % LANES]
        };
        let mut rest: Vec<f32> = (0..channels)
            .flat_map(|channel| (0..states).map(move |state| (channel, state)))
            .map(|(channel, state)| at(channel, state))
            .collect();
        rest.extend((0..channels).map(|channel| at(channel, states)));
        let sequences: Vec<Vec<f32>> = of_shared
            .par_chunks(blocks * 2 * shared)
            .map(|parts| total(parts, 2 * shared))
            .collect();
        sequences.iter().for_each(|both| rest.extend_from_slice(&both[..shared]));
        sequences.iter().for_each(|both| rest.extend_from_slice(&both[shared..]));
        rest
    }
}

impl CustomOp3 for Selective {
    fn name(&self) -> &'static str {
        "selective-scan"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        steps: &CpuStorage,
        steps_layout: &Layout,
        rest: &CpuStorage,
        rest_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Size { batch, count, channels, .. } = self.size;
        let (x, steps) = (numbers(x, x_layout)?, numbers(steps, steps_layout)?);
        let of = Numbers::new(self.size, x, steps, numbers(rest, rest_layout)?);
        let mut out = vec![0.0; x.len()];
        let (rows, kernels) = (Rows::new(&mut out, channels), Kernels::detect());
        (0..batch * self.size.blocks()).into_par_iter().for_each(|task| {
            let block = self.size.block(task);
            let put = &mut |at: usize, y: &Lanes| {
                let row = block.sequence * count + at;
                // SAFETY: each channel of each row is in one block.
                unsafe { rows.write(row, block.channel, &y[..block.count]) };
            };
            forward(kernels, &of, block, put, None);
        });
        Ok(storage(out, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        steps: &Tensor,
        rest: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let slope = slope.contiguous()?;
        let (x_values, step_values, rest_values) =
            (Floats::of(x)?, Floats::of(steps)?, Floats::of(rest)?);
        let of = Numbers::new(self.size, &x_values, &step_values, &rest_values);
        let [of_x, of_steps, of_rest] = self.slopes(&of, &Floats::of(&slope)?);
        Ok((
            x.track_op().then(|| tensor(of_x, x.dims())).transpose()?,
            steps.track_op().then(|| tensor(of_steps, steps.dims())).transpose()?,
            rest.track_op().then(|| tensor(of_rest, rest.dims())).transpose()?,
        ))
    }
}
