//! Pieces of two tensors as numbers, whatever their types.

use cart_format::DType;
use half::f16;

use crate::diff::error::DiffError;
use crate::diff::plan::Pair;
use crate::weights::elements;
use crate::weights::{TensorBytes, Tensors};

/// In what two element types are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// As f32 values, which both have without loss.
    Narrow,
    /// As f64 values: integers (over 2^53 rounded), f64, 8-bit floats.
    Wide,
    /// As bytes of blocks: the values of this type are not known here.
    Blocks,
    /// Not at all: types of unknown values, and not the same.
    Nothing,
}

impl Means {
    pub(crate) fn of([a, b]: [DType; 2]) -> Self {
        if elements::is_mergeable(a) && elements::is_mergeable(b) {
            Self::Narrow
        } else if has_numbers(a) && has_numbers(b) && ((a == DType::C64) == (b == DType::C64)) {
            Self::Wide
        } else if a == b {
            Self::Blocks
        } else {
            Self::Nothing
        }
    }
}

fn has_numbers(dtype: DType) -> bool {
    !dtype.is_quantized() || elements::is_mergeable(dtype)
}

/// Numbers of an element.
pub(crate) fn parts(dtype: DType) -> usize {
    if dtype == DType::C64 { 2 } else { 1 }
}

/// Both tensors of a pair, open.
pub(crate) struct Opened<'p> {
    pub(crate) pair: &'p Pair,
    bytes: [Box<dyn TensorBytes>; 2],
}

/// Bytes of a piece, read or borrowed.
pub(crate) struct Buffers {
    bytes: [Vec<u8>; 2],
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { bytes: [Vec::new(), Vec::new()] }
    }
}

impl<'p> Opened<'p> {
    pub(crate) fn new(pair: &'p Pair, tensors: &dyn Tensors) -> Result<Self, DiffError> {
        let open = |side: usize| {
            tensors.open(side, &pair.name).map_err(|source| unread(pair, side, source))
        };
        Ok(Self { pair, bytes: [open(0)?, open(1)?] })
    }

    /// Hands over the bytes of elements of both sides.
    ///
    /// * `first`: a multiple of both types' blocks, as `len` is
    pub(crate) fn with<T>(
        &self,
        (first, len): (usize, usize),
        buffers: &mut Buffers,
        work: impl FnOnce([&[u8]; 2]) -> T,
    ) -> Result<T, DiffError> {
        let range = |side: usize| {
            let dtype = self.pair.dtypes[side];
            (elements::bytes_of(dtype, first) as u64, elements::bytes_of(dtype, len))
        };
        let [buffer_a, buffer_b] = &mut buffers.bytes;
        let a = self.side(0, range(0), buffer_a)?;
        let b = self.side(1, range(1), buffer_b)?;
        Ok(work([a, b]))
    }

    fn side<'b>(
        &'b self,
        side: usize,
        (at, len): (u64, usize),
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], DiffError> {
        if let Some(bytes) = self.bytes[side].bytes(at, len) {
            return Ok(bytes);
        }
        buffer.resize(len, 0);
        let read = self.bytes[side].read_at(at, buffer);
        read.map_err(|source| unread(self.pair, side, source))?;
        Ok(buffer)
    }

    /// These elements are not needed for now.
    pub(crate) fn release(&self, first: usize, len: usize) {
        for (bytes, dtype) in self.bytes.iter().zip(self.pair.dtypes) {
            bytes.release(elements::bytes_of(dtype, first) as u64, elements::bytes_of(dtype, len));
        }
    }
}

fn unread(pair: &Pair, side: usize, source: crate::weights::Trouble) -> DiffError {
    let tensor = pair.name.to_string();
    DiffError::Source { side: if side == 0 { 'A' } else { 'B' }, tensor, source }
}

/// Writes the numbers of `bytes` to `values`.
///
/// * `values`: [`parts`] for each element
pub(crate) fn widen(dtype: DType, bytes: &[u8], values: &mut [f64]) {
    match dtype {
        DType::F64 => each(bytes, values, f64::from_le_bytes),
        DType::C64 => each(bytes, values, |b| f64::from(f32::from_le_bytes(b))),
        DType::I64 => each(bytes, values, |b| i64::from_le_bytes(b) as f64),
        DType::I32 => each(bytes, values, |b| f64::from(i32::from_le_bytes(b))),
        DType::I16 => each(bytes, values, |b| f64::from(i16::from_le_bytes(b))),
        DType::I8 => each(bytes, values, |b| f64::from(i8::from_le_bytes(b))),
        DType::U64 => each(bytes, values, |b| u64::from_le_bytes(b) as f64),
        DType::U32 => each(bytes, values, |b| f64::from(u32::from_le_bytes(b))),
        DType::U16 => each(bytes, values, |b| f64::from(u16::from_le_bytes(b))),
        DType::U8 | DType::Bool => each(bytes, values, |[b]: [u8; 1]| f64::from(b)),
        DType::F8_E4M3 => each(bytes, values, |[b]: [u8; 1]| e4m3(b)),
        // The upper byte of an f16.
        DType::F8_E5M2 => {
            each(bytes, values, |[b]: [u8; 1]| f16::from_bits(u16::from(b) << 8).to_f64());
        }
        // A power of two without a sign; all ones is no number.
        DType::F8_E8M0 => each(bytes, values, |[b]: [u8; 1]| match b {
            0xff => f64::NAN,
            _ => libm::exp2(f64::from(b) - 127.0),
        }),
        narrow => {
            let mut floats = vec![0.0; values.len()];
            elements::decode(narrow, bytes, &mut floats, None);
            values.iter_mut().zip(&floats).for_each(|(value, float)| *value = f64::from(*float));
        }
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f64], value: impl Fn([u8; N]) -> f64) {
    let (words, _) = bytes.as_chunks::<N>();
    values.iter_mut().zip(words).for_each(|(out, word)| *out = value(*word));
}

/// Four bits of exponent, three of fraction, no infinities (OCP 8-bit floating point, 2023).
fn e4m3(bits: u8) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
    let size = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => libm::ldexp(fraction, -6),
        _ => libm::ldexp(1.0 + fraction, exponent - 7),
    };
    if bits & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_have_their_values() {
        for (bits, value) in
            [(0x38, 1.0), (0xb8, -1.0), (0x7e, 448.0), (0x01, 1.0 / 512.0), (0x3c, 1.5)]
        {
            assert_eq!(e4m3(bits), value);
        }
        assert!(e4m3(0xff).is_nan());
        let mut values = [0.0; 2];
        widen(DType::F8_E5M2, &[0x3c, 0xc0], &mut values);
        assert_eq!(values, [1.0, -2.0]);
        widen(DType::F8_E8M0, &[127, 130], &mut values);
        assert_eq!(values, [1.0, 8.0]);
        widen(DType::I16, &[0xff, 0xff, 2, 1], &mut values);
        assert_eq!(values, [-1.0, 258.0]);
    }
}
