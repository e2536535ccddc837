//! The block formats of GGUF, as groups of 32 codes: what their values are, and blocks of values.
//!
//! Every format is seen as the same thing: `value = scale · (code − ZERO) + min` with unsigned codes
//! of up to 8 bits, where scale and minimum are 16-bit floats of the block, in k-quants times small
//! whole factors of the group or of each half of it. Layouts are those of `ggml-common.h` in
//! llama.cpp.

mod quantize;
mod tables;

use half::f16;

use crate::DType;

pub use quantize::{can_quantize, quantize};

/// Codes of a group.
pub const GROUP: usize = 32;

/// A block format.
pub trait BlockFormat: Copy + Send + Sync + 'static {
    /// Bytes of a block.
    const BYTES: usize;
    /// Groups in a block.
    const GROUPS: usize;
    /// Bits of a code.
    const BITS: usize;
    /// The code of the value `min`.
    const ZERO: i32;
    /// Whether groups have a minimum that is not zero.
    const MINS: bool;
    /// Parts of a group with factors of their own: 1, or 2 for its halves.
    const PARTS: usize;

    /// Codes of group `index` of `block`; `index < GROUPS`, `block.len() == BYTES`.
    fn codes(block: &[u8], index: usize) -> [u8; GROUP];

    /// Bits of the 16-bit floats that are the block's scale and minimum. The minimum is to be added.
    fn scale_min(block: &[u8]) -> [u16; 2];

    /// Factors of scale and minimum of part `part` of the block; `part < GROUPS · PARTS`.
    fn factors(block: &[u8], part: usize) -> [i8; 2];
}

macro_rules! formats {
    ($($name:ident: bits $bits:literal, groups $groups:literal, zero $zero:literal, mins $mins:literal, parts $parts:literal, $codes:expr, $scale_min:expr, $part:expr;)*) => {
        $(
            #[doc = concat!("The format of [`DType::", stringify!($name), "`].")]
            #[derive(Clone, Copy, Debug)]
            #[allow(non_camel_case_types, reason = "the names of the field")]
            pub struct $name;

            impl BlockFormat for $name {
                const BYTES: usize = DType::$name.block_bytes() as usize;
                const GROUPS: usize = $groups;
                const BITS: usize = $bits;
                const ZERO: i32 = $zero;
                const MINS: bool = $mins;
                const PARTS: usize = $parts;

                #[inline(always)]
                fn codes(block: &[u8], index: usize) -> [u8; GROUP] {
                    $codes(block, index)
                }

                #[inline(always)]
                fn scale_min(block: &[u8]) -> [u16; 2] {
                    $scale_min(block)
                }

                #[inline(always)]
                fn factors(block: &[u8], part: usize) -> [i8; 2] {
                    $part(block, part)
                }
            }
        )*

        /// Whether the values of a block type are known here.
        pub fn has_values(dtype: DType) -> bool {
            matches!(dtype, $(DType::$name)|*) || tables::has_values(dtype)
        }

        /// Writes the values of blocks. Does nothing where [`has_values`] says no.
        ///
        /// * `bytes`: whole blocks
        /// * `values`: as many
        pub fn dequantize(dtype: DType, bytes: &[u8], values: &mut [f32]) {
            match dtype {
                $(DType::$name => fill::<$name>(bytes, values),)*
                other => tables::dequantize(other, bytes, values),
            }
        }
    };
}

formats! {
    Q4_0: bits 4, groups 1, zero 8, mins false, parts 1, q4::<2>, scale::<0>, one;
    Q4_1: bits 4, groups 1, zero 0, mins true, parts 1, q4::<4>, scale_and_min, one;
    Q5_0: bits 5, groups 1, zero 16, mins false, parts 1, q5::<2>, scale::<0>, one;
    Q5_1: bits 5, groups 1, zero 0, mins true, parts 1, q5::<4>, scale_and_min, one;
    Q8_0: bits 8, groups 1, zero 128, mins false, parts 1, q8, scale::<0>, one;
    Q2_K: bits 2, groups 8, zero 0, mins true, parts 2, q2_k, scale_less_min::<80>, q2_k_factors;
    Q3_K: bits 3, groups 8, zero 4, mins false, parts 2, q3_k, scale::<108>, q3_k_factors;
    Q4_K: bits 4, groups 8, zero 0, mins true, parts 1, q4_k, scale_less_min::<0>, k_factors;
    Q5_K: bits 5, groups 8, zero 0, mins true, parts 1, q5_k, scale_less_min::<0>, k_factors;
    Q6_K: bits 6, groups 8, zero 32, mins false, parts 2, q6_k, scale::<208>, q6_k_factors;
}

/// The values of blocks of one format.
pub fn values<F: BlockFormat>(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / F::BYTES * F::GROUPS * GROUP];
    fill::<F>(bytes, &mut values);
    values
}

fn fill<F: BlockFormat>(bytes: &[u8], values: &mut [f32]) {
    let len = GROUP / F::PARTS;
    for (block, values) in
        bytes.chunks_exact(F::BYTES).zip(values.chunks_exact_mut(F::GROUPS * GROUP))
    {
        let [scale, min] = F::scale_min(block).map(|bits| f16::from_bits(bits).to_f32());
        for (group, values) in values.chunks_exact_mut(GROUP).enumerate() {
            let codes = F::codes(block, group);
            let parts = codes.chunks_exact(len).zip(values.chunks_exact_mut(len));
            for (part, (codes, values)) in parts.enumerate() {
                let factors = F::factors(block, group * F::PARTS + part);
                let [scale, min] = [scale * f32::from(factors[0]), min * f32::from(factors[1])];
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = scale * (i32::from(*code) - F::ZERO) as f32 + min;
                }
            }
        }
    }
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn scale<const AT: usize>(block: &[u8]) -> [u16; 2] {
    [half_at(block, AT), 0]
}

#[inline(always)]
fn scale_and_min(block: &[u8]) -> [u16; 2] {
    [half_at(block, 0), half_at(block, 2)]
}

/// A minimum that the format subtracts, with its sign turned.
#[inline(always)]
fn scale_less_min<const AT: usize>(block: &[u8]) -> [u16; 2] {
    [half_at(block, AT), half_at(block, AT + 2) ^ 0x8000]
}

#[inline(always)]
fn one(_block: &[u8], _part: usize) -> [i8; 2] {
    [1, 1]
}

/// Low nibbles are codes 0 to 15, high nibbles 16 to 31.
#[inline(always)]
fn q4<const AT: usize>(block: &[u8], _index: usize) -> [u8; GROUP] {
    let packed = &block[AT..AT + 16];
    let mut codes = [0; GROUP];
    for index in 0..16 {
        codes[index] = packed[index] & 15;
        codes[index + 16] = packed[index] >> 4;
    }
    codes
}

/// Nibbles after four bytes with the fifth bit of each code.
#[inline(always)]
fn q5<const AT: usize>(block: &[u8], _index: usize) -> [u8; GROUP] {
    let mut codes = q4::<0>(&block[AT + 4..], 0);
    let high = u32::from_le_bytes([block[AT], block[AT + 1], block[AT + 2], block[AT + 3]]);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= ((high >> index & 1) as u8) << 4;
    }
    codes
}

#[inline(always)]
fn q8(block: &[u8], _index: usize) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&block[2..34]) {
        *code = byte ^ 0x80;
    }
    codes
}

/// Two bits of each of 32 bytes: 32 bytes hold four groups.
#[inline(always)]
fn k_pairs(packed: &[u8], index: usize) -> [u8; GROUP] {
    let shift = index % 4 * 2;
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&packed[index / 4 * 32..][..32]) {
        *code = byte >> shift & 3;
    }
    codes
}

#[inline(always)]
fn q2_k(block: &[u8], index: usize) -> [u8; GROUP] {
    k_pairs(&block[16..80], index)
}

#[inline(always)]
fn q2_k_factors(block: &[u8], part: usize) -> [i8; 2] {
    [(block[part] & 15) as i8, (block[part] >> 4) as i8]
}

#[inline(always)]
fn q3_k(block: &[u8], index: usize) -> [u8; GROUP] {
    let mut codes = k_pairs(&block[32..96], index);
    for (code, high) in codes.iter_mut().zip(&block[..32]) {
        *code |= (high >> index & 1) << 2;
    }
    codes
}

/// Six bits less 32: four low bits in 8 bytes, two high bits in 4 bytes.
#[inline(always)]
fn q3_k_factors(block: &[u8], part: usize) -> [i8; 2] {
    let packed = &block[96..108];
    let low = packed[part % 8] >> (part / 8 * 4) & 15;
    let high = packed[8 + part % 4] >> (part / 4 * 2) & 3;
    [(low | high << 4) as i8 - 32, 0]
}

/// Nibbles of a k-quant: 32 bytes hold two groups, low and high.
#[inline(always)]
fn k_nibbles(packed: &[u8], index: usize) -> [u8; GROUP] {
    let shift = index % 2 * 4;
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&packed[index / 2 * 32..][..32]) {
        *code = byte >> shift & 15;
    }
    codes
}

/// The 6-bit factors of scale and minimum, packed in 12 bytes (`get_scale_min_k4`).
#[inline(always)]
fn k_factors(block: &[u8], part: usize) -> [i8; 2] {
    let packed = &block[4..16];
    if part < 4 {
        return [(packed[part] & 63) as i8, (packed[part + 4] & 63) as i8];
    }
    let scale = packed[part + 4] & 15 | packed[part - 4] >> 6 << 4;
    let min = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
    [scale as i8, min as i8]
}

#[inline(always)]
fn q4_k(block: &[u8], index: usize) -> [u8; GROUP] {
    k_nibbles(&block[16..144], index)
}

#[inline(always)]
fn q5_k(block: &[u8], index: usize) -> [u8; GROUP] {
    let mut codes = k_nibbles(&block[48..176], index);
    for (code, high) in codes.iter_mut().zip(&block[16..48]) {
        *code |= (high >> index & 1) << 4;
    }
    codes
}

#[inline(always)]
fn q6_k(block: &[u8], index: usize) -> [u8; GROUP] {
    let (part, quarter) = (index / 4, index % 4);
    let low = &block[part * 64 + quarter % 2 * 32..][..32];
    let high = &block[128 + part * 32..][..32];
    let mut codes = [0; GROUP];
    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
        *code = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
    }
    codes
}

#[inline(always)]
fn q6_k_factors(block: &[u8], part: usize) -> [i8; 2] {
    [block[192 + part] as i8, 0]
}
