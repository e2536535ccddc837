//! The block formats of GGUF, as groups of 32 codes.
//!
//! Every format is seen as the same thing: `value = scale · (code − ZERO) + min` with unsigned
//! 8-bit codes, a scale for each half of the group (equal in most formats) and a minimum for the
//! group (zero in many). Layouts are those of `ggml-common.h` in llama.cpp.

use cart_format::DType;
use half::f16;

/// Codes of a group.
pub(crate) const GROUP: usize = 32;

/// A group of a weight row, unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) codes: [u8; GROUP],
    /// Scale of the first and of the second 16 codes.
    pub(crate) scales: [f32; 2],
    pub(crate) min: f32,
}

/// A block format.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// Bytes of a block.
    const BYTES: usize;
    /// Groups in a block.
    const GROUPS: usize;
    /// The code of the value `min`.
    const ZERO: i32;
    /// Whether groups have a minimum that is not zero.
    const MINS: bool;
    /// Whether the halves of a group have scales of their own.
    const SPLIT: bool;

    /// Group `index` of `block`; `index < GROUPS`, `block.len() == BYTES`.
    fn group(block: &[u8], index: usize) -> Group;
}

macro_rules! formats {
    ($($name:ident $dtype:ident: groups $groups:literal, zero $zero:literal, mins $mins:literal, split $split:literal, $group:ident;)*) => {
        $(
            #[derive(Clone, Copy, Debug)]
            #[allow(non_camel_case_types, reason = "the names of the field")]
            pub(crate) struct $name;

            impl Format for $name {
                const BYTES: usize = DType::$dtype.block_bytes() as usize;
                const GROUPS: usize = $groups;
                const ZERO: i32 = $zero;
                const MINS: bool = $mins;
                const SPLIT: bool = $split;

                #[inline(always)]
                fn group(block: &[u8], index: usize) -> Group {
                    $group(block, index)
                }
            }
        )*

        /// Calls `$body` with `$format` as the format of `$dtype_value`, else gives `$otherwise`.
        macro_rules! with_format {
            ($dtype_value:expr, $format:ident => $body:expr, else $otherwise:expr) => {
                match $dtype_value {
                    $(cart_format::DType::$dtype => {
                        type $format = $crate::kernel::format::$name;
                        $body
                    })*
                    _ => $otherwise,
                }
            };
        }
        pub(crate) use with_format;
    };
}

formats! {
    Q4_0 Q4_0: groups 1, zero 8, mins false, split false, q4_0;
    Q4_1 Q4_1: groups 1, zero 0, mins true, split false, q4_1;
    Q5_0 Q5_0: groups 1, zero 16, mins false, split false, q5_0;
    Q5_1 Q5_1: groups 1, zero 0, mins true, split false, q5_1;
    Q8_0 Q8_0: groups 1, zero 128, mins false, split false, q8_0;
    Q4_K Q4_K: groups 8, zero 0, mins true, split false, q4_k;
    Q5_K Q5_K: groups 8, zero 0, mins true, split false, q5_k;
    Q6_K Q6_K: groups 8, zero 32, mins false, split true, q6_k;
}

/// Whether products with weights of this block type exist here.
pub(crate) fn is_supported(dtype: DType) -> bool {
    with_format!(dtype, F => F::BYTES > 0, else false)
}

/// Writes the values of a row of blocks of type `F`.
pub(crate) fn dequantize<F: Format>(row: &[u8], values: &mut [f32]) {
    let groups = row
        .chunks_exact(F::BYTES)
        .flat_map(|block| (0..F::GROUPS).map(move |index| F::group(block, index)));
    for (group, values) in groups.zip(values.chunks_exact_mut(GROUP)) {
        for (index, (value, code)) in values.iter_mut().zip(group.codes).enumerate() {
            let code = i32::from(code) - F::ZERO;
            *value = group.scales[index / 16] * code as f32 + group.min;
        }
    }
}

#[inline(always)]
fn float(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low nibbles are codes 0 to 15, high nibbles 16 to 31.
#[inline(always)]
fn nibbles(packed: &[u8]) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for index in 0..16 {
        codes[index] = packed[index] & 15;
        codes[index + 16] = packed[index] >> 4;
    }
    codes
}

/// Adds bit `i` of `high` to code `i` as its fifth bit.
#[inline(always)]
fn fifth_bits(mut codes: [u8; GROUP], high: &[u8]) -> [u8; GROUP] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= ((high >> index & 1) as u8) << 4;
    }
    codes
}

#[inline(always)]
fn q4_0(block: &[u8], _index: usize) -> Group {
    let scale = float(block, 0);
    Group { codes: nibbles(&block[2..18]), scales: [scale; 2], min: 0.0 }
}

#[inline(always)]
fn q4_1(block: &[u8], _index: usize) -> Group {
    let scale = float(block, 0);
    Group { codes: nibbles(&block[4..20]), scales: [scale; 2], min: float(block, 2) }
}

#[inline(always)]
fn q5_0(block: &[u8], _index: usize) -> Group {
    let scale = float(block, 0);
    let codes = fifth_bits(nibbles(&block[6..22]), &block[2..6]);
    Group { codes, scales: [scale; 2], min: 0.0 }
}

#[inline(always)]
fn q5_1(block: &[u8], _index: usize) -> Group {
    let scale = float(block, 0);
    let codes = fifth_bits(nibbles(&block[8..24]), &block[4..8]);
    Group { codes, scales: [scale; 2], min: float(block, 2) }
}

#[inline(always)]
fn q8_0(block: &[u8], _index: usize) -> Group {
    let scale = float(block, 0);
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&block[2..34]) {
        *code = byte ^ 0x80;
    }
    Group { codes, scales: [scale; 2], min: 0.0 }
}

/// The 6-bit scale and minimum of group `index`, packed in 12 bytes (`get_scale_min_k4`).
#[inline(always)]
pub(crate) fn k_scale_min(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (packed[index] & 63, packed[index + 4] & 63);
    }
    let scale = packed[index + 4] & 15 | packed[index - 4] >> 6 << 4;
    let min = packed[index + 4] >> 4 | packed[index] >> 6 << 4;
    (scale, min)
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

#[inline(always)]
fn k_group(block: &[u8], index: usize, codes: [u8; GROUP]) -> Group {
    let (scale, min) = k_scale_min(&block[4..16], index);
    let scale = float(block, 0) * f32::from(scale);
    Group { codes, scales: [scale; 2], min: -(float(block, 2) * f32::from(min)) }
}

#[inline(always)]
fn q4_k(block: &[u8], index: usize) -> Group {
    k_group(block, index, k_nibbles(&block[16..144], index))
}

#[inline(always)]
fn q5_k(block: &[u8], index: usize) -> Group {
    let mut codes = k_nibbles(&block[48..176], index);
    for (code, high) in codes.iter_mut().zip(&block[16..48]) {
        *code |= (high >> index & 1) << 4;
    }
    k_group(block, index, codes)
}

#[inline(always)]
fn q6_k(block: &[u8], index: usize) -> Group {
    let (part, quarter) = (index / 4, index % 4);
    let low = &block[part * 64 + quarter % 2 * 32..][..32];
    let high = &block[128 + part * 32..][..32];
    let mut codes = [0; GROUP];
    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
        *code = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
    }
    let scale = float(block, 208);
    let scales =
        [0, 1].map(|half| scale * f32::from(i8::from_le_bytes([block[192 + index * 2 + half]])));
    Group { codes, scales, min: 0.0 }
}
