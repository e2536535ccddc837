//! Blocks of values, by the rules of `quantize_row_*_ref` in llama.cpp's `ggml-quants.c`.

use half::f16;

use super::GROUP;
use crate::DType;

/// Whether there is a rule here for a block type.
pub fn can_quantize(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0)
}

/// Writes blocks of values. Does nothing where [`can_quantize`] says no.
///
/// * `values`: of whole blocks of 32
/// * `bytes`: as many blocks
pub fn quantize(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    let quantize: fn(&[f32; GROUP], &mut [u8]) = match dtype {
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q5_0 => q5_0,
        DType::Q5_1 => q5_1,
        DType::Q8_0 => q8_0,
        _ => return,
    };
    let (groups, _) = values.as_chunks::<GROUP>();
    let blocks = bytes.chunks_exact_mut(dtype.block_bytes() as usize);
    groups.iter().zip(blocks).for_each(|(group, block)| quantize(group, block));
}

/// The value of largest magnitude, with its sign; the first of several.
fn extreme(values: &[f32; GROUP]) -> f32 {
    let larger = |found: f32, value: &f32| if value.abs() > found.abs() { *value } else { found };
    values.iter().fold(0.0, larger)
}

fn bounds(values: &[f32; GROUP]) -> [f32; 2] {
    let (low, high) = (f32::INFINITY, f32::NEG_INFINITY);
    let within = |[low, high]: [f32; 2], value: &f32| [low.min(*value), high.max(*value)];
    values.iter().fold([low, high], within)
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn put(bytes: &mut [u8], at: usize, value: f32) {
    bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Codes 0 to 15 in the low nibbles, 16 to 31 in the high ones.
fn put_nibbles(block: &mut [u8], codes: &[u8; GROUP]) {
    for (index, byte) in block.iter_mut().enumerate() {
        *byte = codes[index] & 15 | (codes[index + 16] & 15) << 4;
    }
}

fn put_fifth_bits(block: &mut [u8], codes: &[u8; GROUP]) {
    let bit = |bits: u32, (index, code): (usize, &u8)| bits | u32::from(code >> 4 & 1) << index;
    let bits = codes.iter().enumerate().fold(0, bit);
    block.copy_from_slice(&bits.to_le_bytes());
}

/// Codes of a symmetric format: the value of largest magnitude is the lowest code.
fn symmetric(values: &[f32; GROUP], half: f32) -> (f32, [u8; GROUP]) {
    let scale = extreme(values) / -half;
    let inverse = inverse(scale);
    let (offset, most) = (half + 0.5, 2 * half as i8 - 1);
    // As in C, where a conversion cuts off what is behind the point.
    let code = |value: f32| ((value * inverse + offset) as i8).min(most) as u8;
    (scale, values.map(code))
}

/// Codes from the least value to the largest.
fn affine(values: &[f32; GROUP], most: f32) -> ([f32; 2], [u8; GROUP]) {
    let [low, high] = bounds(values);
    let scale = (high - low) / most;
    let inverse = inverse(scale);
    let code = |value: f32| (((value - low) * inverse + 0.5) as i8).min(most as i8) as u8;
    ([scale, low], values.map(code))
}

fn q4_0(values: &[f32; GROUP], block: &mut [u8]) {
    let (scale, codes) = symmetric(values, 8.0);
    put(block, 0, scale);
    put_nibbles(&mut block[2..], &codes);
}

fn q4_1(values: &[f32; GROUP], block: &mut [u8]) {
    let ([scale, min], codes) = affine(values, 15.0);
    put(block, 0, scale);
    put(block, 2, min);
    put_nibbles(&mut block[4..], &codes);
}

fn q5_0(values: &[f32; GROUP], block: &mut [u8]) {
    let (scale, codes) = symmetric(values, 16.0);
    put(block, 0, scale);
    put_fifth_bits(&mut block[2..6], &codes);
    put_nibbles(&mut block[6..], &codes);
}

fn q5_1(values: &[f32; GROUP], block: &mut [u8]) {
    let ([scale, min], codes) = affine(values, 31.0);
    put(block, 0, scale);
    put(block, 2, min);
    put_fifth_bits(&mut block[4..8], &codes);
    put_nibbles(&mut block[8..], &codes);
}

fn q8_0(values: &[f32; GROUP], block: &mut [u8]) {
    let scale = extreme(values).abs() / 127.0;
    let inverse = inverse(scale);
    put(block, 0, scale);
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::blocks::dequantize;

    /// `fixtures/scripts/make_quantized.py` wrote what the package `gguf` makes of the same values.
    #[test]
    fn blocks_are_those_of_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/nn/quantized.json");
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(cases.len(), 5);
        let hex = |text: &Value| -> Vec<u8> {
            let digits = text.as_str().unwrap().as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            digits.map(|pair| byte(pair).unwrap()).collect()
        };
        for case in &cases {
            let dtype: DType = case["dtype"].as_str().unwrap().parse().unwrap();
            assert!(can_quantize(dtype));
            let values: Vec<f32> = hex(&case["values"])
                .chunks(4)
                .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
                .collect();
            let expected = hex(&case["bytes"]);
            let mut found = vec![0; expected.len()];
            quantize(dtype, &values, &mut found);
            assert_eq!(found, expected, "{dtype}");
            let mut back = vec![0.0; values.len()];
            dequantize(dtype, &found, &mut back);
            let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(worst > 0.0 && worst < largest * 0.15, "{dtype}: {worst} of {largest}");
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0] {
            let mut bytes = vec![1; dtype.block_bytes() as usize];
            quantize(dtype, &[0.0; GROUP], &mut bytes);
            let mut back = [1.0; GROUP];
            dequantize(dtype, &bytes, &mut back);
            assert_eq!(back, [0.0; GROUP], "{dtype}");
        }
    }
}
