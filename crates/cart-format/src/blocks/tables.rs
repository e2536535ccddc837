//! Block formats whose codes stand for values in a table: 4-bit codes that are not evenly spaced, microscaling floats,
//! and ternary digits. Layouts are those of `ggml-common.h` in llama.cpp.

use half::f16;

use crate::DType;

/// What the codes of `iq4_nl` and `iq4_xs` stand for.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// What those of `mxfp4` stand for: floats of 4 bits, doubled.
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// By which powers of three the digits of a byte are shifted up.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Whether a type is one of these.
pub(super) fn has_values(dtype: DType) -> bool {
    block_of(dtype).is_some()
}

/// Writes the values of blocks; does nothing where [`has_values`] says no.
pub(super) fn dequantize(dtype: DType, bytes: &[u8], values: &mut [f32]) {
    let Some(block_of) = block_of(dtype) else { return };
    let blocks = bytes.chunks_exact(dtype.block_bytes() as usize);
    for (block, values) in blocks.zip(values.chunks_exact_mut(dtype.block_elements() as usize)) {
        block_of(block, values);
    }
}

/// Writes the values of one block.
type Fill = fn(&[u8], &mut [f32]);

fn block_of(dtype: DType) -> Option<Fill> {
    match dtype {
        DType::IQ4_NL => Some(iq4_nl),
        DType::IQ4_XS => Some(iq4_xs),
        DType::MXFP4 => Some(mxfp4),
        DType::TQ1_0 => Some(tq1_0),
        DType::TQ2_0 => Some(tq2_0),
        _ => None,
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 codes of 4 bits: the lower halves of 16 bytes, then the upper ones.
fn fours(bytes: &[u8], table: &[i8; 16], scale: f32, values: &mut [f32]) {
    let (low, high) = values.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = scale * f32::from(table[usize::from(byte & 15)]);
        *high = scale * f32::from(table[usize::from(byte >> 4)]);
    }
}

fn iq4_nl(block: &[u8], values: &mut [f32]) {
    fours(&block[2..], &UNEVEN, half_at(block, 0), values);
}

/// Scale, the upper two bits of eight factors, their lower four, codes.
fn iq4_xs(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (group, (codes, values)) in
        block[8..].chunks_exact(16).zip(values.chunks_exact_mut(32)).enumerate()
    {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let upper = (high >> (2 * group) & 3) as u8;
        let factor = i16::from(low | upper << 4) - 32;
        fours(codes, &UNEVEN, scale * f32::from(factor), values);
    }
}

/// A power of two, and codes. Codes are doubled, so the power is half of what the byte says.
fn mxfp4(block: &[u8], values: &mut [f32]) {
    let exponent = u32::from(block[0]);
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
    fours(&block[1..], &FLOATS, f32::from_bits(bits), values);
}

/// Five ternary digits a byte, of the last four bytes four; scale at the end.
fn tq1_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 52);
    let digit = |byte: u8, power: u8| {
        let shifted = u16::from(byte.wrapping_mul(power));
        scale * f32::from(((shifted * 3) >> 8) as i16 - 1)
    };
    let parts: [(&[u8], &[u8]); 3] =
        [(&block[..32], &POWERS), (&block[32..48], &POWERS), (&block[48..52], &POWERS[..4])];
    let mut values = values.iter_mut();
    for (bytes, powers) in parts {
        for power in powers {
            for (byte, value) in bytes.iter().zip(values.by_ref()) {
                *value = digit(*byte, *power);
            }
        }
    }
}

/// Codes of 2 bits, less one; scale at the end.
fn tq2_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 64);
    for (bytes, values) in block[..64].chunks_exact(32).zip(values.chunks_exact_mut(128)) {
        for (shift, values) in values.chunks_exact_mut(32).enumerate() {
            for (byte, value) in bytes.iter().zip(values) {
                *value = scale * f32::from(i16::from(byte >> (2 * shift) & 3) - 1);
            }
        }
    }
}
