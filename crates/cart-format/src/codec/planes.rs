//! Elements that are no floats, by the places of their bytes.

use std::ops::Range;

use super::Mode;
use super::error::CodecError;
use super::plane;
use crate::dtype::DType;

/// Bytes of an element or block that are alike, in order: scales apart from what they scale.
fn places(dtype: DType) -> Vec<Range<usize>> {
    let widths: &[usize] = match dtype {
        DType::Q4_0 | DType::IQ4_NL => &[1, 1, 16],
        DType::Q4_1 => &[1, 1, 1, 1, 16],
        DType::Q5_0 => &[1, 1, 4, 16],
        DType::Q5_1 => &[1, 1, 1, 1, 4, 16],
        DType::Q8_0 => &[1, 1, 32],
        DType::Q8_1 => &[1, 1, 1, 1, 32],
        DType::Q2_K => &[16, 64, 1, 1, 1, 1],
        DType::Q3_K => &[32, 64, 12, 1, 1],
        DType::Q4_K => &[1, 1, 1, 1, 12, 128],
        DType::Q5_K => &[1, 1, 1, 1, 12, 32, 128],
        DType::Q6_K => &[128, 64, 16, 1, 1],
        DType::MXFP4 => &[1, 16],
        other if other.block_bytes() <= 8 => &[1; 8][..other.block_bytes() as usize],
        other => &[other.block_bytes() as usize],
    };
    let range = |end: &mut usize, width: &usize| {
        *end += width;
        Some(*end - width..*end)
    };
    widths.iter().scan(0, range).collect()
}

/// Room to work in.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    plane: Vec<u8>,
    of_base: Vec<u8>,
    words: Vec<u16>,
    apart: Vec<u8>,
}

impl Buffers {
    /// Packs alone, or as the exclusive or with the base, by which is smaller.
    pub(super) fn pack(
        &mut self,
        dtype: DType,
        bytes: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Mode {
        let Some(base) = base else {
            self.pack_places(dtype, bytes, None, out);
            return Mode::Planes;
        };
        let start = out.len();
        self.pack_places(dtype, bytes, None, out);
        let alone = out.len() - start;
        let mut apart = std::mem::take(&mut self.apart);
        apart.clear();
        self.pack_places(dtype, bytes, Some(base), &mut apart);
        let is_smaller = apart.len() < alone;
        if is_smaller {
            out.truncate(start);
            out.extend_from_slice(&apart);
        }
        self.apart = apart;
        if is_smaller { Mode::XorPlanes } else { Mode::Planes }
    }

    fn pack_places(&mut self, dtype: DType, bytes: &[u8], base: Option<&[u8]>, out: &mut Vec<u8>) {
        let step = dtype.block_bytes() as usize;
        for place in places(dtype) {
            gather(bytes, step, &place, &mut self.plane);
            if let Some(base) = base {
                gather(base, step, &place, &mut self.of_base);
                let pairs = self.plane.iter_mut().zip(&self.of_base);
                pairs.for_each(|(byte, base)| *byte ^= base);
            }
            plane::pack(&self.plane, &mut self.words, out);
        }
    }

    /// Unpacks.
    pub(super) fn unpack(
        &mut self,
        dtype: DType,
        mut packed: &[u8],
        base: Option<&[u8]>,
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        let step = dtype.block_bytes() as usize;
        let blocks = bytes.len() / step;
        for place in places(dtype) {
            self.plane.resize(blocks * place.len(), 0);
            plane::unpack(&mut packed, &mut self.plane)?;
            let parts = self.plane.chunks_exact(place.len());
            for (block, part) in bytes.chunks_exact_mut(step).zip(parts) {
                block[place.clone()].copy_from_slice(part);
            }
        }
        if let Some(base) = base {
            bytes.iter_mut().zip(base).for_each(|(byte, base)| *byte ^= base);
        }
        if packed.is_empty() { Ok(()) } else { Err(CodecError::Rest { bytes: packed.len() }) }
    }
}

fn gather(bytes: &[u8], step: usize, place: &Range<usize>, plane: &mut Vec<u8>) {
    plane.clear();
    if place.len() == step {
        plane.extend_from_slice(bytes);
    } else if place.len() == 1 {
        plane.extend(bytes.chunks_exact(step).map(|block| block[place.start]));
    } else {
        for block in bytes.chunks_exact(step) {
            plane.extend_from_slice(&block[place.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_every_type_are_its_whole_block() {
        for &dtype in DType::ALL {
            let places = places(dtype);
            assert_eq!(places[0].start, 0, "{dtype}");
            assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start), "{dtype}");
            assert_eq!(places.last().unwrap().end as u64, dtype.block_bytes(), "{dtype}");
        }
    }

    #[test]
    fn the_spec_lists_the_places_of_blocks() {
        let spec = include_str!("../../../../spec/65-packed-file.md");
        let (_, rest) = spec.split_once("<!-- places").unwrap();
        let (table, _) = rest.split_once("<!-- /places -->").unwrap();
        for &dtype in DType::ALL {
            let widths: Vec<String> =
                places(dtype).iter().map(|place| place.len().to_string()).collect();
            let row = table.lines().find(|line| line.contains(&format!("`{dtype}`")));
            match row {
                Some(row) => assert!(row.ends_with(&format!("| {} |", widths.join(", "))), "{row}"),
                None => assert!(widths.len() == 1 || dtype.block_bytes() <= 8, "{dtype}"),
            }
        }
    }
}
