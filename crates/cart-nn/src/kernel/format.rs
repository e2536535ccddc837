//! The block formats of GGUF, as groups of 32 codes.
//!
//! Every format is seen as the same thing: `value = scale · (code − ZERO) + min` with unsigned codes
//! of up to 8 bits, where scale and minimum are 16-bit floats of the block, in k-quants times small
//! whole factors of the group or of each half of it. Layouts are those of `ggml-common.h` in
//! llama.cpp.

use cart_format::DType;

/// Codes of a group.
pub(crate) const GROUP: usize = 32;

/// How a block stores the factors of its groups' scales and minimums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    /// None: scale and minimum are the block's.
    One,
    /// A byte each when packed.
    Bytes,
    /// Four bits each when packed.
    Nibbles,
}

/// A block format.
pub(crate) trait Format: Copy + Send + Sync + 'static {
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
    /// How factors are packed.
    const FACTORS: Factors;

    /// Codes of group `index` of `block`; `index < GROUPS`, `block.len() == BYTES`.
    fn codes(block: &[u8], index: usize) -> [u8; GROUP];

    /// What an output has in each of the `BITS` lines of group `index` of a tile, by moving whole words.
    /// A fifth bit comes as a block of one group has it: bit `i` is that of code `i`.
    fn words(block: &[u8], index: usize) -> [u32; 8];

    /// Bits of the 16-bit floats that are the block's scale and minimum. The minimum is to be added.
    fn scale_min(block: &[u8]) -> [u16; 2];

    /// Factors of scale and minimum of part `part` of the block; `part < GROUPS · PARTS`.
    fn factors(block: &[u8], part: usize) -> [i8; 2];
}

macro_rules! formats {
    ($($name:ident: bits $bits:literal, groups $groups:literal, zero $zero:literal, mins $mins:literal, parts $parts:literal, $factors:ident, $codes:expr, $words:expr, $scale_min:expr, $part:expr;)*) => {
        $(
            #[derive(Clone, Copy, Debug)]
            #[allow(non_camel_case_types, reason = "the names of the field")]
            pub(crate) struct $name;

            impl Format for $name {
                const BYTES: usize = DType::$name.block_bytes() as usize;
                const GROUPS: usize = $groups;
                const BITS: usize = $bits;
                const ZERO: i32 = $zero;
                const MINS: bool = $mins;
                const PARTS: usize = $parts;
                const FACTORS: Factors = Factors::$factors;

                #[inline(always)]
                fn codes(block: &[u8], index: usize) -> [u8; GROUP] {
                    $codes(block, index)
                }

                #[inline(always)]
                fn words(block: &[u8], index: usize) -> [u32; 8] {
                    $words(block, index)
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

        /// Calls `$body` with `$format` as the format of `$dtype_value`, else gives `$otherwise`.
        macro_rules! with_format {
            ($dtype_value:expr, $format:ident => $body:expr, else $otherwise:expr) => {
                match $dtype_value {
                    $(cart_format::DType::$name => {
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
    Q4_0: bits 4, groups 1, zero 8, mins false, parts 1, One, q4::<2>, q4_words::<2>, scale::<0>, one;
    Q4_1: bits 4, groups 1, zero 0, mins true, parts 1, One, q4::<4>, q4_words::<4>, scale_and_min, one;
    Q5_0: bits 5, groups 1, zero 16, mins false, parts 1, One, q5::<2>, q5_words::<2>, scale::<0>, one;
    Q5_1: bits 5, groups 1, zero 0, mins true, parts 1, One, q5::<4>, q5_words::<4>, scale_and_min, one;
    Q8_0: bits 8, groups 1, zero 128, mins false, parts 1, One, q8, q8_words, scale::<0>, one;
    Q2_K: bits 2, groups 8, zero 0, mins true, parts 2, Nibbles, q2_k, q2_k_words, scale_less_min::<80>, q2_k_factors;
    Q3_K: bits 3, groups 8, zero 4, mins false, parts 2, Bytes, q3_k, q3_k_words, scale::<108>, q3_k_factors;
    Q4_K: bits 4, groups 8, zero 0, mins true, parts 1, Bytes, q4_k, q4_k_words, scale_less_min::<0>, k_factors;
    Q5_K: bits 5, groups 8, zero 0, mins true, parts 1, Bytes, q5_k, q5_k_words, scale_less_min::<0>, k_factors;
    Q6_K: bits 6, groups 8, zero 32, mins false, parts 2, Bytes, q6_k, q6_k_words, scale::<208>, q6_k_factors;
}

/// Whether products with weights of this block type exist here.
pub(crate) fn is_supported(dtype: DType) -> bool {
    with_format!(dtype, F => F::BYTES > 0, else false)
}

#[inline(always)]
fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn scale<const AT: usize>(block: &[u8]) -> [u16; 2] {
    [half(block, AT), 0]
}

#[inline(always)]
fn scale_and_min(block: &[u8]) -> [u16; 2] {
    [half(block, 0), half(block, 2)]
}

/// A minimum that the format subtracts, with its sign turned.
#[inline(always)]
fn scale_less_min<const AT: usize>(block: &[u8]) -> [u16; 2] {
    [half(block, AT), half(block, AT + 2) ^ 0x8000]
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

#[inline(always)]
fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A tile has nibbles as these blocks have them.
#[inline(always)]
fn q4_words<const AT: usize>(block: &[u8], _index: usize) -> [u32; 8] {
    let packed = &block[AT..AT + 16];
    [word(packed, 0), word(packed, 1), word(packed, 2), word(packed, 3), 0, 0, 0, 0]
}

#[inline(always)]
fn q5_words<const AT: usize>(block: &[u8], _index: usize) -> [u32; 8] {
    let packed = &block[AT..AT + 20];
    let nibble = |index: usize| word(packed, index + 1);
    [nibble(0), nibble(1), nibble(2), nibble(3), word(packed, 0), 0, 0, 0]
}

#[inline(always)]
fn q8_words(block: &[u8], _index: usize) -> [u32; 8] {
    let packed = &block[2..34];
    std::array::from_fn(|index| word(packed, index) ^ 0x8080_8080)
}

/// The four lines of the nibbles of 32 bytes, those at `shift`.
#[inline(always)]
fn nibble_lines(packed: &[u8], shift: usize) -> [u32; 4] {
    let nibbles = |at: usize| word(packed, at) >> shift & 0x0f0f_0f0f;
    let line = |at: usize| nibbles(at) | nibbles(at + 4) << 4;
    [line(0), line(1), line(2), line(3)]
}

/// The two lines of pairs of bits of 32 bytes, those at `shift`.
#[inline(always)]
fn pair_lines(packed: &[u8], shift: usize) -> [u32; 2] {
    let pairs = |at: usize| word(packed, at) >> shift & 0x0303_0303;
    let line = |at: usize| pairs(at) | pairs(at + 1) << 2 | pairs(at + 2) << 4 | pairs(at + 3) << 6;
    [line(0), line(4)]
}

/// The line of bits of 32 bytes, those at `shift`.
#[inline(always)]
fn bit_line(packed: &[u8], shift: usize) -> u32 {
    (0..8).fold(0, |line, at| line | (word(packed, at) >> shift & 0x0101_0101) << at)
}

/// A group's codes are the low or the high nibbles of 32 bytes.
#[inline(always)]
fn q4_k_words(block: &[u8], index: usize) -> [u32; 8] {
    let packed = &block[16 + index / 2 * 32..][..32];
    let [a, b, c, d] = nibble_lines(packed, index % 2 * 4);
    [a, b, c, d, 0, 0, 0, 0]
}

#[inline(always)]
fn q5_k_words(block: &[u8], index: usize) -> [u32; 8] {
    let packed = &block[48 + index / 2 * 32..][..32];
    let [a, b, c, d] = nibble_lines(packed, index % 2 * 4);
    [a, b, c, d, bit_line(&block[16..48], index), 0, 0, 0]
}

#[inline(always)]
fn q6_k_words(block: &[u8], index: usize) -> [u32; 8] {
    let (part, quarter) = (index / 4, index % 4);
    let low = &block[part * 64 + quarter % 2 * 32..][..32];
    let [a, b, c, d] = nibble_lines(low, quarter / 2 * 4);
    let [e, f] = pair_lines(&block[128 + part * 32..][..32], quarter * 2);
    [a, b, c, d, e, f, 0, 0]
}

#[inline(always)]
fn q2_k_words(block: &[u8], index: usize) -> [u32; 8] {
    let [a, b] = pair_lines(&block[16 + index / 4 * 32..][..32], index % 4 * 2);
    [a, b, 0, 0, 0, 0, 0, 0]
}

#[inline(always)]
fn q3_k_words(block: &[u8], index: usize) -> [u32; 8] {
    let [a, b] = pair_lines(&block[32 + index / 4 * 32..][..32], index % 4 * 2);
    [a, b, bit_line(&block[..32], index), 0, 0, 0, 0, 0]
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
