//! Quantized weights as the products read them: tiles of sixteen rows side by side.
//!
//! A tile holds sixteen outputs; its codes stay in the bits of their format, cut into planes, so
//! that one vector instruction serves all sixteen. For a format of `BITS` bits a tile is
//!
//! | bytes | what |
//! |---|---|
//! | blocks · [`shared_bytes`] | for each block: scales, minimums, `[16]` 16-bit floats each; then for each part of its groups the factors |
//! | up to 63 | zeros, to a whole 64 bytes |
//! | groups · 64 · `BITS` | codes, group after group: the planes of [`put_codes`] |
//!
//! What is shared comes first, so that a product that asks for memory ahead in order has it in
//! time.
//!
//! Codes of a group of 32 inputs are eight *quads*, `[16 outputs, 4 inputs]` bytes each.

use half::f16;

#[cfg(target_arch = "x86_64")]
use crate::kernel::KernelLevel;
use crate::kernel::Kernels;
use crate::kernel::format::{Factors, Format, GROUP};
use crate::kernel::memory::Memory;

/// Outputs of a tile.
pub(crate) const OUTPUTS: usize = 16;

/// Bytes of a vector: four inputs of sixteen outputs.
pub(crate) const LINE: usize = 64;

/// Quads of a group.
pub(crate) const QUADS: usize = GROUP / 4;

/// Codes of a group of a tile, a byte each.
type Quads = [[[u8; 4]; OUTPUTS]; QUADS];

/// A matrix in tiles. Clones share the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) outputs: usize,
    /// Groups of 32 inputs.
    pub(crate) groups: usize,
    bytes: Memory,
}

/// Bytes of a group's codes in a tile.
pub(crate) const fn code_bytes<F: Format>() -> usize {
    F::BITS * LINE
}

/// Bytes of what a block of a tile shares.
pub(crate) const fn shared_bytes<F: Format>() -> usize {
    let kinds = if F::MINS { 2 } else { 1 };
    kinds * 2 * OUTPUTS + F::GROUPS * F::PARTS * factor_bytes::<F>()
}

/// Bytes of the factors of a part.
pub(crate) const fn factor_bytes<F: Format>() -> usize {
    match F::FACTORS {
        Factors::One => 0,
        Factors::Bytes if F::MINS => 2 * OUTPUTS,
        Factors::Bytes | Factors::Nibbles => OUTPUTS,
    }
}

/// Where the codes of a tile begin.
pub(crate) const fn codes_start<F: Format>(groups: usize) -> usize {
    (groups / F::GROUPS * shared_bytes::<F>()).next_multiple_of(LINE)
}

/// Bytes of a tile.
pub(crate) const fn tile_bytes<F: Format>(groups: usize) -> usize {
    codes_start::<F>(groups) + groups * code_bytes::<F>()
}

impl Packed {
    /// Tiles that were written.
    pub(crate) fn of(bytes: Memory, outputs: usize, groups: usize) -> Self {
        Self { outputs, groups, bytes }
    }

    /// Tile `index`.
    #[inline(always)]
    pub(crate) fn tile<F: Format>(&self, index: usize) -> &[u8] {
        let size = tile_bytes::<F>(self.groups);
        &self.bytes[index * size..][..size]
    }

    /// Bytes of all tiles.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the values of row `row`.
    pub(crate) fn read_row<F: Format>(&self, row: usize, values: &mut [f32]) {
        let tile = self.tile::<F>(row / OUTPUTS);
        let output = row % OUTPUTS;
        let (shared, codes) = tile.split_at(codes_start::<F>(self.groups));
        for (group, values) in values.chunks_exact_mut(GROUP).enumerate() {
            let codes = &codes[group * code_bytes::<F>()..][..code_bytes::<F>()];
            let shared = &shared[group / F::GROUPS * shared_bytes::<F>()..];
            for (part, values) in values.chunks_exact_mut(GROUP / F::PARTS).enumerate() {
                let index = group % F::GROUPS * F::PARTS + part;
                let [scale, min] = scale_min::<F>(shared, index, output);
                let first = part * GROUP / F::PARTS;
                for (at, value) in values.iter_mut().enumerate() {
                    let code = i32::from(take_code::<F>(codes, first + at, output)) - F::ZERO;
                    *value = scale * code as f32 + min;
                }
            }
        }
    }
}

/// Scale and minimum of a part of a block's groups.
fn scale_min<F: Format>(shared: &[u8], part: usize, output: usize) -> [f32; 2] {
    let float = |kind: usize| {
        let at = (kind * OUTPUTS + output) * 2;
        f16::from_le_bytes([shared[at], shared[at + 1]]).to_f32()
    };
    let [scale, min] = [float(0), if F::MINS { float(1) } else { 0.0 }];
    let start = if F::MINS { 4 } else { 2 } * OUTPUTS + part * factor_bytes::<F>();
    let byte = |kind: usize| shared[start + kind * OUTPUTS + output];
    match F::FACTORS {
        Factors::One => [scale, min],
        Factors::Nibbles => [scale * f32::from(byte(0) & 15), min * f32::from(byte(0) >> 4)],
        Factors::Bytes => {
            let factor = |kind| f32::from(byte(kind) as i8);
            [scale * factor(0), if F::MINS { min * factor(1) } else { 0.0 }]
        }
    }
}

/// The code of input `input` of output `output`.
fn take_code<F: Format>(codes: &[u8], input: usize, output: usize) -> u8 {
    let (quad, at) = (input / 4, output * 4 + input % 4);
    let line = |line: usize| codes[line * LINE + at];
    let nibble = || line(quad % 4) >> (quad / 4 * 4) & 15;
    let pair = |first: usize| line(first + quad / 4) >> (quad % 4 * 2) & 3;
    let bit = |plane: usize| line(plane) >> quad & 1;
    match F::BITS {
        2 => pair(0),
        3 => pair(0) | bit(2) << 2,
        4 => nibble(),
        5 => nibble() | bit(4) << 4,
        6 => nibble() | pair(4) << 4,
        8 => line(quad),
        bits => unreachable!("no format has {bits} bits"),
    }
}

/// Writes codes as planes. Byte `j` of line `l` of
///
/// * *pairs*, two lines: two bits of byte `j` of quads `4l` to `4l + 3`, the first lowest;
/// * *bits*, one line: one bit of byte `j` of each quad, the first lowest;
/// * *nibbles*, four lines: four bits of byte `j` of quads `l` and `l + 4`;
/// * *bytes*, eight lines: byte `j` of quad `l`.
///
/// Codes of 2 bits are pairs, of 3 pairs and bits, of 4 nibbles, of 5 nibbles and bits, of 6
/// nibbles and pairs, of 8 bytes; lower bits come first.
#[inline(always)]
fn put_codes<F: Format>(quads: &Quads, codes: &mut [u8]) {
    let quads: [&[u8; LINE]; QUADS] =
        std::array::from_fn(|quad| quads[quad].as_flattened().try_into().expect("sixteen fours"));
    let (lines, _) = codes.as_chunks_mut::<LINE>();
    let (nibbles, pairs, bits) = match F::BITS {
        2 => (None, Some((0, 0)), None),
        3 => (None, Some((0, 0)), Some((2, 2))),
        4 => (Some(0), None, None),
        5 => (Some(0), None, Some((4, 4))),
        6 => (Some(0), Some((4, 4)), None),
        _ => (None, None, None),
    };
    for at in 0..LINE {
        if let Some(first) = nibbles {
            for line in 0..4 {
                lines[first + line][at] = quads[line][at] & 15 | quads[line + 4][at] << 4;
            }
        }
        if let Some((first, shift)) = pairs {
            for line in 0..2 {
                let pair = |quad: usize| (quads[line * 4 + quad][at] >> shift & 3) << (quad * 2);
                lines[first + line][at] = pair(0) | pair(1) | pair(2) | pair(3);
            }
        }
        if let Some((line, shift)) = bits {
            let bit = |quad: usize| (quads[quad][at] >> shift & 1) << quad;
            lines[line][at] = (0..QUADS).fold(0, |bits, quad| bits | bit(quad));
        }
    }
    if F::BITS == 8 {
        for (line, quad) in lines.iter_mut().zip(quads) {
            *line = *quad;
        }
    }
}

/// Writes a tile from up to sixteen rows.
pub(crate) fn pack_tile<F: Format>(
    kernels: Kernels,
    rows: &[u8],
    row_bytes: usize,
    tile: &mut [u8],
) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<F: Format>(rows: &[u8], row_bytes: usize, tile: &mut [u8]) {
        pack_tile_body::<F>(rows, row_bytes, tile, |words| x86::turned(words));
    }
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni | KernelLevel::Amx => unsafe {
            avx2::<F>(rows, row_bytes, tile);
        },
        _ => pack_tile_body::<F>(rows, row_bytes, tile, turned),
    }
}

/// * `turn`: words `[16 outputs, 8 lines]` into lines of sixteen words
#[inline(always)]
fn pack_tile_body<F: Format>(
    rows: &[u8],
    row_bytes: usize,
    tile: &mut [u8],
    turn: impl Fn(&[[u32; 8]; OUTPUTS]) -> [[u32; OUTPUTS]; 8],
) {
    let blocks = row_bytes / F::BYTES;
    let outputs = rows.len() / row_bytes;
    let (shared, codes) = tile.split_at_mut(codes_start::<F>(blocks * F::GROUPS));
    shared.fill(0);
    for block in 0..blocks {
        let source = |output: usize| &rows[output * row_bytes + block * F::BYTES..][..F::BYTES];
        for index in 0..F::GROUPS {
            let group = block * F::GROUPS + index;
            let codes = &mut codes[group * code_bytes::<F>()..][..code_bytes::<F>()];
            if outputs == OUTPUTS {
                let mut words = [[0; 8]; OUTPUTS];
                for (output, words) in words.iter_mut().enumerate() {
                    *words = F::words(source(output), index);
                }
                put_words::<F>(&turn(&words), codes);
                continue;
            }
            let mut quads: Quads = [[[F::ZERO as u8; 4]; OUTPUTS]; QUADS];
            for output in 0..outputs {
                let codes = F::codes(source(output), index);
                for (quad, four) in quads.iter_mut().zip(codes.as_chunks::<4>().0) {
                    quad[output] = *four;
                }
            }
            put_codes::<F>(&quads, codes);
        }
        let shared = &mut shared[block * shared_bytes::<F>()..][..shared_bytes::<F>()];
        for output in 0..outputs {
            put_shared::<F>(source(output), output, shared);
        }
    }
}

fn turned(words: &[[u32; 8]; OUTPUTS]) -> [[u32; OUTPUTS]; 8] {
    std::array::from_fn(|line| std::array::from_fn(|output| words[output][line]))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm256_permute2x128_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
        _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    };

    use super::OUTPUTS;

    /// As the portable one.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn turned(words: &[[u32; 8]; OUTPUTS]) -> [[u32; OUTPUTS]; 8] {
        // SAFETY: arrays of as many words, of which every pattern is valid.
        let halves: [[__m256i; 8]; 2] = unsafe { std::mem::transmute(*words) };
        let [left, right] = halves.map(|half| square(half));
        let mut lines = [[left[0]; 2]; 8];
        for (line, words) in lines.iter_mut().enumerate() {
            *words = [left[line], right[line]];
        }
        // SAFETY: as above.
        unsafe { std::mem::transmute(lines) }
    }

    /// Rows of eight words into columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn square(rows: [__m256i; 8]) -> [__m256i; 8] {
        let [a, b, c, d, e, f, g, h] = rows;
        let low = |a, b| _mm256_unpacklo_epi32(a, b);
        let high = |a, b| _mm256_unpackhi_epi32(a, b);
        let pairs = [low(a, b), high(a, b), low(c, d), high(c, d)];
        let others = [low(e, f), high(e, f), low(g, h), high(g, h)];
        let low = |a, b| _mm256_unpacklo_epi64(a, b);
        let high = |a, b| _mm256_unpackhi_epi64(a, b);
        let fours = |[a, b, c, d]: [__m256i; 4]| [low(a, c), high(a, c), low(b, d), high(b, d)];
        let ([a, b, c, d], [e, f, g, h]) = (fours(pairs), fours(others));
        [
            _mm256_permute2x128_si256::<0x20>(a, e),
            _mm256_permute2x128_si256::<0x20>(b, f),
            _mm256_permute2x128_si256::<0x20>(c, g),
            _mm256_permute2x128_si256::<0x20>(d, h),
            _mm256_permute2x128_si256::<0x31>(a, e),
            _mm256_permute2x128_si256::<0x31>(b, f),
            _mm256_permute2x128_si256::<0x31>(c, g),
            _mm256_permute2x128_si256::<0x31>(d, h),
        ]
    }
}

/// As [`put_codes`], from what the outputs have in each line.
#[inline(always)]
fn put_words<F: Format>(words: &[[u32; OUTPUTS]; 8], codes: &mut [u8]) {
    let (lines, _) = codes.as_chunks_mut::<LINE>();
    for (index, (line, words)) in lines.iter_mut().zip(words).enumerate() {
        // Blocks of one group have the fifth bits of all codes in one word.
        let gathered = F::BITS == 5 && F::GROUPS == 1 && index == 4;
        for (bytes, &word) in line.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = if gathered { bits_of_quads(word) } else { word }.to_le_bytes();
        }
    }
}

/// Moves bit `4q + i` to bit `8i + q`: what codes `i` of all quads have goes into one byte. The
/// five bits of the place are turned by two, which takes four exchanges of two of them.
#[inline(always)]
fn bits_of_quads(bits: u32) -> u32 {
    let exchange = |bits: u32, mask: u32, distance: u32| {
        let moved = (bits ^ bits >> distance) & mask;
        bits ^ moved ^ moved << distance
    };
    let bits = exchange(bits, 0x0a0a_0a0a, 3);
    let bits = exchange(bits, 0x00cc_00cc, 6);
    let bits = exchange(bits, 0x0000_f0f0, 12);
    exchange(bits, 0x0000_ff00, 8)
}

/// Writes what the groups of a block share.
#[inline(always)]
fn put_shared<F: Format>(block: &[u8], output: usize, shared: &mut [u8]) {
    let kinds = if F::MINS { 2 } else { 1 };
    let (floats, factors) = shared.split_at_mut(kinds * 2 * OUTPUTS);
    for (value, floats) in F::scale_min(block).iter().zip(floats.chunks_exact_mut(2 * OUTPUTS)) {
        floats[output * 2..][..2].copy_from_slice(&value.to_le_bytes());
    }
    if F::FACTORS == Factors::One {
        return;
    }
    for (part, factors) in factors.chunks_exact_mut(factor_bytes::<F>()).enumerate() {
        let [scale, min] = F::factors(block, part).map(|factor| factor as u8);
        if F::FACTORS == Factors::Nibbles {
            factors[output] = scale | min << 4;
            continue;
        }
        factors[output] = scale;
        if F::MINS {
            factors[OUTPUTS + output] = min;
        }
    }
}

#[cfg(test)]
mod tests {
    use cart_format::DType;

    use super::*;
    use crate::kernel::format::with_format;
    use crate::kernel::memory::Arena;
    use crate::kernel::tiles::Tiles;

    #[test]
    fn bits_of_quads_are_where_the_planes_have_them() {
        for quad in 0..8 {
            for at in 0..4 {
                assert_eq!(bits_of_quads(1 << (4 * quad + at)), 1 << (8 * at + quad));
            }
        }
    }

    /// Full tiles, whose words are moved, hold what each row holds in a tile of its own, whose
    /// codes are put one by one.
    #[test]
    fn moved_words_are_the_codes() {
        fn check<F: Format>(dtype: DType) {
            let width = 2 * F::GROUPS * GROUP;
            let row_bytes = 2 * F::BYTES;
            let rows: Vec<u8> =
                (0..OUTPUTS * row_bytes).map(|at| (at * at * 167 / 13) as u8 & 0x7b).collect();
            let pack = |rows: &[u8], outputs| {
                let tiles = Tiles::new(&mut Arena::default(), dtype, [outputs, width]);
                tiles.finish(rows, &mut |_| ())
            };
            let together = pack(&rows, OUTPUTS);
            let (mut values, mut expected) = (vec![0.0; width], vec![0.0; width]);
            for (index, row) in rows.chunks_exact(row_bytes).enumerate() {
                together.read_row::<F>(index, &mut values);
                pack(row, 1).read_row::<F>(0, &mut expected);
                assert_eq!(values, expected, "{} row {index}", std::any::type_name::<F>());
            }
        }
        for &dtype in DType::ALL {
            with_format!(dtype, F => check::<F>(dtype), else ());
        }
    }
}
