//! Causal convolution along positions, each channel by itself.

use crate::activation::silu;
use crate::kernel::vector::{multiply_add, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};
use crate::recurrent::RecurrentSegment;

/// One filter for each channel.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    channels: usize,
    /// `[kernel, channels]`, the oldest position first.
    taps: Vec<f32>,
    /// `[channels]`.
    bias: Vec<f32>,
}

impl Conv {
    /// A convolution with weights `[channels, kernel]`.
    pub(crate) fn new(channels: usize, weight: &[f32], bias: Option<Vec<f32>>) -> Self {
        let kernel = weight.len() / channels;
        let tap = |tap| (0..channels).map(move |channel| weight[channel * kernel + tap]);
        Self {
            channels,
            taps: (0..kernel).flat_map(tap).collect(),
            bias: bias.unwrap_or_else(|| vec![0.0; channels]),
        }
    }

    /// Channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// Positions that it looks back.
    pub(crate) fn past(&self) -> usize {
        self.taps.len() / self.channels - 1
    }

    /// `silu(conv(x))`, and the segments' windows moved on.
    ///
    /// * `input`: `[rows, width]`, x being the columns from `column` on
    /// * returns `[rows, channels]`
    pub(crate) fn apply(
        &self,
        kernels: Kernels,
        input: &[f32],
        (width, column): (usize, usize),
        segments: &mut [RecurrentSegment<'_>],
    ) -> Vec<f32> {
        let (channels, past) = (self.channels, self.past());
        let mut out = vec![0.0; input.len() / width * channels];
        let target = Rows::new(&mut out, channels);
        for segment in segments {
            let first = segment.rows.start;
            let window = &segment.state.window;
            // The inputs of the segment, those before it included.
            let source = |index: usize| match index.checked_sub(past) {
                Some(row) => &input[(first + row) * width + column..][..channels],
                None => &window[index * channels..][..channels],
            };
            split(segment.rows.len(), 8, &|rows| {
                for row in rows {
                    // SAFETY: each row is in one range of the split, and segments do not overlap.
                    let out = unsafe { target.row(first + row) };
                    out.copy_from_slice(&self.bias);
                    for (tap, weights) in self.taps.chunks_exact(channels).enumerate() {
                        add_product(kernels, out, source(row + tap), weights);
                    }
                    silu(kernels, out);
                }
            });
            let new = segment.rows.len();
            let last: Vec<f32> = (new..new + past).flat_map(source).copied().collect();
            segment.state.window.copy_from_slice(&last);
        }
        out
    }
}

vectorized! {
    /// `into += a · b`.
    fn add_product(into: &mut [f32], a: &[f32], b: &[f32]) {
        for ((into, a), b) in into.iter_mut().zip(a).zip(b) {
            *into = multiply_add::<FMA>(*a, *b, *into);
        }
    }
}
