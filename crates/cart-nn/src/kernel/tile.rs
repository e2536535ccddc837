//! Sixteen weight rows, unpacked so that one vector instruction serves all sixteen outputs.
//!
//! A product of many activation rows unpacks sixteen weight rows once and then uses them for every
//! row. The layout is the same at every kernel level.

use crate::kernel::activations::Quantized;
use crate::kernel::format::{Format, GROUP, Group};

/// Outputs of a tile.
pub(crate) const OUTPUTS: usize = 16;

/// Codes of a group of 32 inputs, `[8, outputs, 4]`: input `4i + j` of output `o` is at `i, o, j`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileCodes(pub(crate) [[[u8; 4]; OUTPUTS]; GROUP / 4]);

/// Scales of a group, for each half, and minimums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileScales {
    pub(crate) scales: [[f32; OUTPUTS]; 2],
    pub(crate) mins: [f32; OUTPUTS],
}

/// Sixteen weight rows.
pub(crate) struct Tile {
    pub(crate) codes: Vec<TileCodes>,
    pub(crate) scales: Vec<TileScales>,
}

impl Tile {
    /// Room for rows of `groups` groups.
    pub(crate) fn new(groups: usize) -> Self {
        let scales = TileScales { scales: [[0.0; OUTPUTS]; 2], mins: [0.0; OUTPUTS] };
        let codes = TileCodes([[[0; 4]; OUTPUTS]; GROUP / 4]);
        Self { codes: vec![codes; groups], scales: vec![scales; groups] }
    }

    /// Unpacks up to sixteen rows of `row_bytes`; missing rows become zero.
    #[inline(always)]
    pub(crate) fn pack<F: Format>(&mut self, weights: &[u8], row_bytes: usize) {
        let mut rows = 0;
        for (output, row) in weights.chunks_exact(row_bytes).enumerate() {
            rows = output + 1;
            for (number, block) in row.chunks_exact(F::BYTES).enumerate() {
                for index in 0..F::GROUPS {
                    self.put(number * F::GROUPS + index, output, &F::group(block, index));
                }
            }
        }
        let none = Group { codes: [F::ZERO as u8; GROUP], scales: [0.0; 2], min: 0.0 };
        for output in rows..OUTPUTS {
            for group in 0..self.codes.len() {
                self.put(group, output, &none);
            }
        }
    }

    #[inline(always)]
    fn put(&mut self, at: usize, output: usize, group: &Group) {
        let codes = &mut self.codes[at].0;
        for (four, codes) in group.codes.as_chunks::<4>().0.iter().zip(codes) {
            codes[output] = *four;
        }
        let shared = &mut self.scales[at];
        shared.scales[0][output] = group.scales[0];
        shared.scales[1][output] = group.scales[1];
        shared.mins[output] = group.min;
    }

    /// Products of `R` activation rows from `first` with the tile: the portable twin.
    #[inline(always)]
    pub(crate) fn product<F: Format, const R: usize>(
        &self,
        input: &Quantized,
        first: usize,
        out: &mut [[f32; OUTPUTS]; R],
    ) {
        *out = [[0.0; OUTPUTS]; R];
        for (row, out) in out.iter_mut().enumerate() {
            let codes = input.row_codes(first + row);
            for (group, shared) in input.row_scales(first + row).iter().enumerate() {
                let weights = &self.scales[group];
                let mut dots = [[0_i32; OUTPUTS]; 2];
                for (index, four) in self.codes[group].0.iter().enumerate() {
                    let dots = &mut dots[index / 4];
                    for (dot, four) in dots.iter_mut().zip(four) {
                        for (at, code) in four.iter().enumerate() {
                            let x = codes[group].code(index * 4 + at);
                            *dot += (i32::from(*code) - F::ZERO) * x;
                        }
                    }
                }
                for output in 0..OUTPUTS {
                    let [low, high] = dots.map(|dots| dots[output] as f32);
                    let [first, second] = weights.scales.map(|scales| scales[output]);
                    out[output] += shared.scale * (low * first + high * second)
                        + weights.mins[output] * shared.sum;
                }
            }
        }
    }
}
