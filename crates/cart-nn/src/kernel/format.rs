//! What the kernels need of GGUF's block formats beyond their values: how codes get into tiles.

use cart_format::DType;
pub(crate) use cart_format::blocks::{
    BlockFormat, GROUP, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};

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

/// A block format that there are tiles of.
pub(crate) trait Format: BlockFormat {
    /// How factors are packed.
    const FACTORS: Factors;

    /// What an output has in each of the `BITS` lines of group `index` of a tile, by moving whole words.
    /// A fifth bit comes as a block of one group has it: bit `i` is that of code `i`.
    fn words(block: &[u8], index: usize) -> [u32; 8];
}

macro_rules! formats {
    ($($name:ident: $factors:ident, $words:expr;)*) => {
        $(
            impl Format for $name {
                const FACTORS: Factors = Factors::$factors;

                #[inline(always)]
                fn words(block: &[u8], index: usize) -> [u32; 8] {
                    $words(block, index)
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
    Q4_0: One, q4_words::<2>;
    Q4_1: One, q4_words::<4>;
    Q5_0: One, q5_words::<2>;
    Q5_1: One, q5_words::<4>;
    Q8_0: One, q8_words;
    Q2_K: Nibbles, q2_k_words;
    Q3_K: Bytes, q3_k_words;
    Q4_K: Bytes, q4_k_words;
    Q5_K: Bytes, q5_k_words;
    Q6_K: Bytes, q6_k_words;
}

/// Whether products with weights of this block type exist here.
pub(crate) fn is_supported(dtype: DType) -> bool {
    with_format!(dtype, F => F::BYTES > 0, else false)
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
