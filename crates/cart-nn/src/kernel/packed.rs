//! Quantized weights as the products read them: tiles of sixteen rows side by side.
//!
//! A tile holds sixteen outputs; its codes stay in the bits of their format, cut into planes, so that
//! one vector instruction serves all sixteen. For a format of `BITS` bits a tile is
//!
//! | bytes | what |
//! |---|---|
//! | blocks · [`shared_bytes`] | for each block: scales, minimums, `[16]` 16-bit floats each; then for each part of its groups the factors |
//! | up to 63 | zeros, to a whole 64 bytes |
//! | groups · 64 · `BITS` | codes, group after group: the planes of [`put_codes`] |
//!
//! What is shared comes first, so that a product that asks for memory ahead in order has it in time.
//!
//! Codes of a group of 32 inputs are eight *quads*, `[16 outputs, 4 inputs]` bytes each.

use half::f16;

#[cfg(target_arch = "x86_64")]
use crate::kernel::KernelLevel;
use crate::kernel::Kernels;
use crate::kernel::format::{Factors, Format, GROUP};
use crate::kernel::memory::{Arena, Memory};

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
    /// Packs rows of whole blocks; `release(n)` is called when the first `n` bytes of them will not
    /// be read again.
    pub(crate) fn new<F: Format>(
        arena: &mut Arena,
        rows: &[u8],
        outputs: usize,
        release: &mut dyn FnMut(usize),
    ) -> Self {
        let kernels = Kernels::detect();
        let row_bytes = rows.len() / outputs;
        let groups = row_bytes / F::BYTES * F::GROUPS;
        let tiles = outputs.div_ceil(OUTPUTS);
        let size = tile_bytes::<F>(groups);
        let pack = |first: usize, part: &mut [u8]| {
            let sources = rows[first / size * OUTPUTS * row_bytes..].chunks(OUTPUTS * row_bytes);
            for (tile, rows) in part.chunks_exact_mut(size).zip(sources) {
                pack_tile::<F>(kernels, rows, row_bytes, tile);
            }
        };
        let bytes = arena.filled(tiles * size, size, &pack, &mut |done| {
            release((done / size * OUTPUTS * row_bytes).min(rows.len()));
        });
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
/// Codes of 2 bits are pairs, of 3 pairs and bits, of 4 nibbles, of 5 nibbles and bits, of 6 nibbles
/// and pairs, of 8 bytes; lower bits come first.
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

fn pack_tile<F: Format>(kernels: Kernels, rows: &[u8], row_bytes: usize, tile: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<F: Format>(rows: &[u8], row_bytes: usize, tile: &mut [u8]) {
        pack_tile_body::<F>(rows, row_bytes, tile);
    }
    match kernels.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni => unsafe { avx2::<F>(rows, row_bytes, tile) },
        _ => pack_tile_body::<F>(rows, row_bytes, tile),
    }
}

#[inline(always)]
fn pack_tile_body<F: Format>(rows: &[u8], row_bytes: usize, tile: &mut [u8]) {
    let blocks = row_bytes / F::BYTES;
    let (shared, codes) = tile.split_at_mut(codes_start::<F>(blocks * F::GROUPS));
    shared.fill(0);
    for block in 0..blocks {
        let mut sources: [Option<&[u8]>; OUTPUTS] = [None; OUTPUTS];
        for (source, row) in sources.iter_mut().zip(rows.chunks_exact(row_bytes)) {
            *source = Some(&row[block * F::BYTES..][..F::BYTES]);
        }
        let full = sources[OUTPUTS - 1].map(|_| sources.map(Option::unwrap_or_default));
        for index in 0..F::GROUPS {
            let group = block * F::GROUPS + index;
            if F::WORDS
                && let Some(sources) = &full
            {
                let codes = &mut codes[group * code_bytes::<F>()..][..code_bytes::<F>()];
                put_words::<F>(sources, index, codes);
                continue;
            }
            let mut quads: Quads = [[[F::ZERO as u8; 4]; OUTPUTS]; QUADS];
            for (output, source) in sources.iter().enumerate() {
                let Some(source) = source else { continue };
                let codes = F::codes(source, index);
                for (quad, four) in quads.iter_mut().zip(codes.as_chunks::<4>().0) {
                    quad[output] = *four;
                }
            }
            put_codes::<F>(&quads, &mut codes[group * code_bytes::<F>()..][..code_bytes::<F>()]);
        }
        let shared = &mut shared[block * shared_bytes::<F>()..][..shared_bytes::<F>()];
        for (output, source) in sources.iter().enumerate() {
            if let Some(source) = source {
                put_shared::<F>(source, output, shared);
            }
        }
    }
}

/// As [`put_codes`], for a format whose blocks have their codes in whole words, and sixteen blocks.
#[inline(always)]
fn put_words<F: Format>(blocks: &[&[u8]; OUTPUTS], index: usize, codes: &mut [u8]) {
    let (lines, _) = codes.as_chunks_mut::<LINE>();
    for (output, block) in blocks.iter().enumerate() {
        let words = F::words(block, index);
        for (line, word) in lines.iter_mut().zip(words) {
            line[output * 4..output * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    if F::BITS == 5 {
        for word in lines[4].as_chunks_mut::<4>().0 {
            *word = bits_of_quads(u32::from_le_bytes(*word)).to_le_bytes();
        }
    }
}

/// Moves bit `4q + i` to bit `8i + q`: what codes `i` of all quads have goes into one byte. The five bits
/// of the place are turned by two, which takes four exchanges of two of them.
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
    use super::*;
    use crate::kernel::format::with_format;

    #[test]
    fn bits_of_quads_are_where_the_planes_have_them() {
        for quad in 0..8 {
            for at in 0..4 {
                assert_eq!(bits_of_quads(1 << (4 * quad + at)), 1 << (8 * at + quad));
            }
        }
    }

    /// Full tiles, whose words are moved, hold what each row holds in a tile of its own, whose codes are
    /// put one by one.
    #[test]
    fn moved_words_are_the_codes() {
        fn check<F: Format>() {
            let width = 2 * F::GROUPS * GROUP;
            let row_bytes = 2 * F::BYTES;
            let rows: Vec<u8> =
                (0..OUTPUTS * row_bytes).map(|at| (at * at * 167 / 13) as u8 & 0x7b).collect();
            let pack = |rows: &[u8], outputs| {
                Packed::new::<F>(&mut Arena::default(), rows, outputs, &mut |_| ())
            };
            let together = pack(&rows, OUTPUTS);
            let (mut values, mut expected) = (vec![0.0; width], vec![0.0; width]);
            for (index, row) in rows.chunks_exact(row_bytes).enumerate() {
                together.read_row::<F>(index, &mut values);
                pack(row, 1).read_row::<F>(0, &mut expected);
                assert_eq!(values, expected, "{} row {index}", std::any::type_name::<F>());
            }
        }
        for &dtype in cart_format::DType::ALL {
            with_format!(dtype, F => check::<F>(), else ());
        }
    }
}
