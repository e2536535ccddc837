//! What a recurrent layer keeps: a state of a size that does not grow with the text.

use std::fmt;
use std::ops::Range;

use crate::parallel::Rows;

/// Channels that are worked on together, side by side in memory.
pub(crate) const LANES: usize = 16;

/// Sizes of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentShape {
    /// Heads; 1 for Mamba.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Numbers that a channel keeps.
    pub state_size: usize,
    /// Channels of the convolution.
    pub conv_width: usize,
    /// Positions that the convolution looks back.
    pub conv_past: usize,
}

impl RecurrentShape {
    /// Blocks of [`LANES`] channels of one head, the last of each perhaps not full.
    pub(crate) fn blocks(&self) -> usize {
        self.heads * self.head_blocks()
    }

    /// Blocks of a head.
    pub(crate) fn head_blocks(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// The head of block `block`, and its channels among all.
    pub(crate) fn channels(&self, block: usize) -> (usize, Range<usize>) {
        let head = block / self.head_blocks();
        let first = block % self.head_blocks() * LANES;
        let end = self.head_dim.min(first + LANES);
        (head, head * self.head_dim + first..head * self.head_dim + end)
    }
}

impl fmt::Display for RecurrentShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, head_dim, state_size, conv_width, conv_past } = self;
        write!(
            f,
            "{heads} × {head_dim} channels of {state_size} numbers and {conv_past} inputs of a \
             convolution over {conv_width}"
        )
    }
}

/// The state of a recurrent layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecurrentState {
    pub(crate) shape: RecurrentShape,
    /// The last inputs of the convolution, `[conv_past, conv_width]`, oldest first.
    pub(crate) window: Vec<f32>,
    /// `[blocks, state_size, LANES]`.
    pub(crate) channels: Vec<f32>,
}

impl RecurrentState {
    /// The state before the first position: zeros.
    pub(crate) fn new(shape: RecurrentShape) -> Self {
        Self {
            shape,
            window: vec![0.0; shape.conv_past * shape.conv_width],
            channels: vec![0.0; shape.blocks() * shape.state_size * LANES],
        }
    }

    /// The channels' numbers, `[heads, head_dim, state_size]`.
    pub(crate) fn in_order(&self) -> Vec<f32> {
        let size = self.shape.state_size;
        let mut numbers = vec![0.0; self.shape.heads * self.shape.head_dim * size];
        self.each_number(|at, stored| numbers[at] = self.channels[stored]);
        numbers
    }

    /// The state with these inputs of the convolution and these channels' numbers.
    ///
    /// * `window`: `[conv_past, conv_width]`, `numbers`: `[heads, head_dim, state_size]`
    pub(crate) fn from_order(shape: RecurrentShape, window: Vec<f32>, numbers: &[f32]) -> Self {
        let mut state = Self { window, ..Self::new(shape) };
        let mut channels = std::mem::take(&mut state.channels);
        state.each_number(|at, stored| channels[stored] = numbers[at]);
        state.channels = channels;
        state
    }

    /// Shows where each number is: in order, and as stored.
    fn each_number(&self, mut see: impl FnMut(usize, usize)) {
        let size = self.shape.state_size;
        for block in 0..self.shape.blocks() {
            let (_head, channels) = self.shape.channels(block);
            for (lane, channel) in channels.enumerate() {
                for number in 0..size {
                    see(channel * size + number, (block * size + number) * LANES + lane);
                }
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.window.fill(0.0);
        self.channels.fill(0.0);
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        (self.window.len() + self.channels.len()) * size_of::<f32>()
    }
}

/// Rows of one run in a batch, and the state that they move on.
pub(crate) struct RecurrentSegment<'a> {
    /// The rows in the batch.
    pub(crate) rows: Range<usize>,
    pub(crate) state: &'a mut RecurrentState,
}

impl RecurrentSegment<'_> {
    /// The channels' states as one row for each block.
    pub(crate) fn blocks(&mut self) -> Rows<'_, f32> {
        let width = self.state.shape.state_size * LANES;
        Rows::new(&mut self.state.channels, width)
    }
}
