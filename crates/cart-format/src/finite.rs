//! Whether the numbers of a tensor are finite, told from their bits.

use half::f16;

use crate::DType;

/// Elements that are looked at together before one is looked for.
const RUN: usize = 4096;

/// Blocks that are looked at together.
const BLOCKS: usize = 64;

/// The first element that is infinite or not a number; for a block type, the first element of the
/// first block that has such a scale or minimum. Integers are always finite.
///
/// * `bytes`: whole elements or blocks, little-endian
/// * returns the element's index in C order
pub fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<u64> {
    use DType::{BF16, C64, F8_E4M3, F8_E5M2, F8_E8M0, F16, F32, F64};
    match dtype {
        F64 => first(bytes, |b: [u8; 8]| u64::from_le_bytes(b) >> 52 & 0x7ff == 0x7ff),
        F32 => first(bytes, |b: [u8; 4]| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        F16 => first(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        BF16 => first(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        // All ones but the sign is the one pattern that is no number; there are no infinities.
        F8_E4M3 => first(bytes, |[b]: [u8; 1]| b & 0x7f == 0x7f),
        F8_E5M2 => first(bytes, |[b]: [u8; 1]| b & 0x7c == 0x7c),
        F8_E8M0 => first(bytes, |[b]: [u8; 1]| b == 0xff),
        C64 => first_not_finite(F32, bytes).map(|part| part / 2),
        _ => {
            let scales = Scales::of(dtype)?;
            let size = dtype.block_bytes() as usize;
            let start = match scales {
                Scales::F16(at) => runs_without(bytes, size, at),
                _ => 0,
            };
            let bytes = &bytes[start * size..];
            let mut blocks = bytes.chunks_exact(dtype.block_bytes() as usize);
            let found = blocks.position(|block| !scales.are_finite(block))?;
            Some((start + found) as u64 * dtype.block_elements())
        }
    }
}

fn first<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> Option<u64> {
    let (elements, _) = bytes.as_chunks::<N>();
    for (index, run) in elements.chunks(RUN).enumerate() {
        // Without a way out of the loop it is done for many elements at once.
        if run.iter().fold(false, |bad, &element| bad | is_bad(element)) {
            let at = run.iter().position(|&element| is_bad(element));
            return at.map(|at| (index * RUN + at) as u64);
        }
    }
    None
}

/// How many blocks at the start have finite scales, in whole runs: looking for the one that has not is
/// slower than seeing that there is one.
fn runs_without(bytes: &[u8], size: usize, [first, second]: [usize; 2]) -> usize {
    let is_bad = |block: &[u8], at: usize| block[at + 1] & 0x7c == 0x7c;
    let mut runs = bytes.chunks_exact(size * BLOCKS);
    let bad = runs.position(|run| {
        let blocks = run.chunks_exact(size);
        blocks.fold(false, |bad, block| bad | is_bad(block, first) | is_bad(block, second))
    });
    bad.unwrap_or(bytes.len() / (size * BLOCKS)) * BLOCKS
}

/// Where the scales of a block are. Layouts are those of `ggml-common.h` in llama.cpp.
enum Scales {
    /// 16-bit floats at these offsets; the same one twice where there is one.
    F16([usize; 2]),
    /// A 32-bit float at the start.
    F32,
    /// An 8-bit exponent at the start, of which 255 is no number.
    Exponent,
    /// A 16-bit float in the highest four bits of four 16-bit words.
    Spread(usize),
}

impl Scales {
    fn of(dtype: DType) -> Option<Self> {
        use DType::{
            IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, Q2_K,
            Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Q8_1, Q8_K, TQ1_0, TQ2_0,
        };
        Some(match dtype {
            Q4_0 | Q5_0 | Q8_0 | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ1_S | IQ4_NL
            | IQ4_XS => Self::F16([0, 0]),
            Q4_1 | Q5_1 | Q8_1 | Q4_K | Q5_K => Self::F16([0, 2]),
            Q2_K => Self::F16([80, 82]),
            Q3_K => Self::F16([108, 108]),
            Q6_K => Self::F16([208, 208]),
            TQ1_0 => Self::F16([52, 52]),
            TQ2_0 => Self::F16([64, 64]),
            Q8_K => Self::F32,
            MXFP4 => Self::Exponent,
            IQ1_M => Self::Spread(48),
            _ => return None,
        })
    }

    fn are_finite(&self, block: &[u8]) -> bool {
        let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        match *self {
            Self::F16(at) => at.into_iter().all(|at| f16::from_bits(word(at)).is_finite()),
            Self::F32 => first_not_finite(DType::F32, &block[..4]).is_none(),
            Self::Exponent => block[0] != 0xff,
            Self::Spread(at) => {
                let nibbles = (0..4).map(|part| (word(at + 2 * part) >> 12) << (4 * part));
                f16::from_bits(nibbles.fold(0, |bits, nibble| bits | nibble)).is_finite()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type that holds floats, with a block that is not finite made from a finite one.
    #[test]
    fn every_type_with_floats_is_looked_at() {
        for &dtype in DType::ALL {
            let block = dtype.block_bytes() as usize;
            let mut bytes = vec![0; 9000 * block];
            assert_eq!(first_not_finite(dtype, &bytes), None, "{dtype}");
            let integer = ["i", "u"].iter().any(|kind| dtype.name().starts_with(kind))
                && !dtype.is_quantized();
            let plain = integer || dtype == DType::Bool;
            bytes[5001 * block..5002 * block].fill(0xff);
            let at = 5001 * dtype.block_elements();
            assert_eq!(first_not_finite(dtype, &bytes), (!plain).then_some(at), "{dtype}");
        }
    }

    #[test]
    fn both_infinities_and_nan_are_found_and_the_largest_number_is_not() {
        let at = |value: f32| first_not_finite(DType::F32, &value.to_le_bytes());
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert_eq!(at(bad), Some(0), "{bad}");
        }
        for good in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45] {
            assert_eq!(at(good), None, "{good}");
        }
        let half = |value: f16| first_not_finite(DType::F16, &value.to_le_bytes());
        assert_eq!((half(f16::MAX), half(f16::INFINITY), half(f16::NAN)), (None, Some(0), Some(0)));
        let brain = |bits: u16| first_not_finite(DType::BF16, &bits.to_le_bytes());
        assert_eq!((brain(0x7f7f), brain(0xff80), brain(0x7fc0)), (None, Some(0), Some(0)));
        assert_eq!(first_not_finite(DType::F8_E4M3, &[0x7e, 0xfe, 0x7f]), Some(2));
        assert_eq!(first_not_finite(DType::F8_E5M2, &[0x7b, 0xfb, 0x7c]), Some(2));
    }

    /// A scale that is infinite is found at each of its places, and codes that look like one are
    /// not.
    #[test]
    fn scales_are_where_the_layouts_say() {
        let infinity = f16::INFINITY.to_le_bytes();
        for (dtype, places) in [
            (DType::Q4_0, vec![0]),
            (DType::Q4_1, vec![0, 2]),
            (DType::Q5_1, vec![0, 2]),
            (DType::Q8_0, vec![0]),
            (DType::Q2_K, vec![80, 82]),
            (DType::Q3_K, vec![108]),
            (DType::Q4_K, vec![0, 2]),
            (DType::Q5_K, vec![0, 2]),
            (DType::Q6_K, vec![208]),
        ] {
            for at in (0..dtype.block_bytes() as usize - 1).step_by(2) {
                let mut block = vec![0; dtype.block_bytes() as usize];
                block[at..at + 2].copy_from_slice(&infinity);
                let expected = places.contains(&at).then_some(0);
                assert_eq!(first_not_finite(dtype, &block), expected, "{dtype} at {at}");
            }
        }
    }
}
