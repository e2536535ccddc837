//! Bytes of tensors as f32 values, and back.

use cart_format::{DType, blocks};
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use half::{bf16, f16};

use crate::weights::float_type::FloatType;

/// Whether values of this type can be merged.
pub(crate) fn is_mergeable(dtype: DType) -> bool {
    FloatType::of(dtype).is_some() || blocks::has_values(dtype)
}

/// Whether values can be written as this type.
pub(crate) fn is_writable(dtype: DType) -> bool {
    FloatType::of(dtype).is_some() || blocks::can_quantize(dtype)
}

/// The sums of squares of what `bytes` lost of `values`, and of `values`.
pub(crate) fn squares_lost(dtype: DType, values: &[f32], bytes: &[u8]) -> [f64; 2] {
    let mut back = vec![0.0; values.len()];
    decode(dtype, bytes, &mut back, None);
    values.iter().zip(&back).fold([0.0; 2], |[lost, all], (value, back)| {
        let (value, back) = (f64::from(*value), f64::from(*back));
        [lost + (value - back) * (value - back), all + value * value]
    })
}

/// Bytes of `elements` elements, which are whole blocks.
pub(crate) fn bytes_of(dtype: DType, elements: usize) -> usize {
    elements / dtype.block_elements() as usize * dtype.block_bytes() as usize
}

/// Writes the values of `bytes` to `values`.
///
/// * `bytes`: whole elements or blocks, little-endian
/// * `values`: as many
/// * `rounded`: what they are rounded to
pub(crate) fn decode(dtype: DType, bytes: &[u8], values: &mut [f32], rounded: Option<FloatType>) {
    match dtype {
        DType::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            for (value, word) in values.iter_mut().zip(words) {
                *value = f32::from_le_bytes(*word);
            }
        }
        DType::F16 => halves(bytes, values, |words, values| {
            words.reinterpret_cast::<f16>().convert_to_f32_slice(values);
        }),
        DType::BF16 => halves(bytes, values, |words, values| {
            for (value, word) in values.iter_mut().zip(words) {
                *value = f32::from_bits(u32::from(*word) << 16);
            }
        }),
        block => blocks::dequantize(block, bytes, values),
    }
    if let Some(rounded) = rounded.filter(|rounded| rounded.dtype() != dtype) {
        round(values, rounded);
    }
}

/// Hands 16-bit words over in pieces.
fn halves(bytes: &[u8], values: &mut [f32], convert: impl Fn(&[u16], &mut [f32])) {
    const PIECE: usize = 1024;
    let mut words = [0; PIECE];
    for (bytes, values) in bytes.chunks(2 * PIECE).zip(values.chunks_mut(PIECE)) {
        let (pairs, _) = bytes.as_chunks::<2>();
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = u16::from_le_bytes(*pair);
        }
        convert(&words[..values.len()], values);
    }
}

/// Rounds values to those that a type has, ties to even.
fn round(values: &mut [f32], to: FloatType) {
    match to {
        FloatType::F32 => {}
        FloatType::F16 => {
            values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
        }
        FloatType::BF16 => {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
    }
}

/// Writes values as bytes, rounded to nearest, ties to even.
///
/// * `bytes`: is replaced
pub(crate) fn encode(dtype: DType, values: &[f32], bytes: &mut Vec<u8>) {
    bytes.resize(bytes_of(dtype, values.len()), 0);
    match dtype {
        DType::F32 => {
            let (words, _) = bytes.as_chunks_mut::<4>();
            for (word, value) in words.iter_mut().zip(values) {
                *word = value.to_le_bytes();
            }
        }
        DType::F16 => pairs(bytes, values, |value| f16::from_f32(value).to_bits()),
        DType::BF16 => pairs(bytes, values, |value| bf16::from_f32(value).to_bits()),
        block => blocks::quantize(block, values, bytes),
    }
}

fn pairs(bytes: &mut [u8], values: &[f32], bits: impl Fn(f32) -> u16) {
    let (words, _) = bytes.as_chunks_mut::<2>();
    for (word, value) in words.iter_mut().zip(values) {
        *word = bits(*value).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_far_as_the_type_has_them() {
        let values: Vec<f32> = (0..3000).map(|index| (index as f32 - 1500.0) * 0.37).collect();
        for (dtype, bits) in [(DType::F32, 24), (DType::F16, 11), (DType::BF16, 8)] {
            let mut bytes = vec![1; 7];
            encode(dtype, &values, &mut bytes);
            assert_eq!(bytes.len() as u64, dtype.size_of(&[3000]).unwrap());
            let mut back = vec![0.0; values.len()];
            decode(dtype, &bytes, &mut back, None);
            let error = 2.0_f32.powi(-bits);
            for (value, back) in values.iter().zip(&back) {
                assert!((value - back).abs() <= value.abs() * error, "{dtype}: {value} {back}");
            }
            let mut rounded = values.clone();
            round(&mut rounded, FloatType::of(dtype).unwrap());
            assert_eq!(rounded, back);
        }
    }
}
