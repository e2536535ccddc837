//! Bytes of tensors and documents, packed: chunk by chunk, alone or against a base (spec 65 §4).
//!
//! Weights are near a bell curve, so exponents are far from evenly spread and the last bits of a
//! mantissa are as good as random. [`Codec`] codes the former by their frequencies and stores the
//! latter as they are. Against a base, a float becomes the number of representable values that lie
//! between the two, coded by how coarse those values are where the base lies.

mod bits;
mod cost;
mod difference;
mod document;
mod error;
mod float;
mod frequencies;
mod plane;
mod planes;
mod rans;
#[cfg(test)]
mod tests;
mod varint;
mod word;

use std::ops::Range;

pub use self::error::CodecError;
use self::float::FloatLayout;
use crate::dtype::DType;

/// Most bytes of a chunk of elements.
pub const CHUNK: u64 = 1 << 20;
/// Bytes of a chunk of a document.
pub const DOCUMENT_CHUNK: u64 = 4 << 20;
/// What a chunk of a document sees of its base before and after its own place.
pub const DOCUMENT_MARGIN: u64 = 1 << 20;

/// What packed bytes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Elements of a tensor.
    Of(DType),
    /// A document: text, or anything else.
    Document,
}

/// How a chunk is packed: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mode {
    /// The bytes themselves.
    Stored = 0,
    /// Those of the base.
    Same = 1,
    /// Floats: exponents by their frequencies, the rest as it is.
    Float = 2,
    /// Floats, as steps from the base.
    Difference = 3,
    /// The bytes of each place in an element, by their frequencies.
    Planes = 4,
    /// As [`Mode::Planes`], of the exclusive or with the base.
    XorPlanes = 5,
    /// A zstd frame.
    Zstd = 6,
    /// A zstd frame that refers to the base.
    ZstdOfBase = 7,
}

impl Mode {
    const ALL: [Self; 8] = [
        Self::Stored,
        Self::Same,
        Self::Float,
        Self::Difference,
        Self::Planes,
        Self::XorPlanes,
        Self::Zstd,
        Self::ZstdOfBase,
    ];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Same => "same",
            Self::Float => "float",
            Self::Difference => "difference",
            Self::Planes => "planes",
            Self::XorPlanes => "xor_planes",
            Self::Zstd => "zstd",
            Self::ZstdOfBase => "zstd_of_base",
        }
    }

    /// The mode that a chunk's first byte names.
    ///
    /// # Errors
    /// There is none such.
    pub fn of(byte: u8) -> Result<Self, CodecError> {
        Self::ALL.get(usize::from(byte)).copied().ok_or(CodecError::Mode { found: byte })
    }
}

impl Elements {
    /// Bytes of a chunk, but for the last, which may be shorter.
    pub fn chunk_bytes(self) -> u64 {
        match self {
            Self::Of(dtype) => CHUNK / dtype.block_bytes() * dtype.block_bytes(),
            Self::Document => DOCUMENT_CHUNK,
        }
    }

    /// The chunks of so many bytes.
    pub fn chunks(self, len: u64) -> impl ExactSizeIterator<Item = Range<u64>> {
        let step = self.chunk_bytes();
        let count = len.div_ceil(step) as usize;
        (0..count).map(move |index| {
            let start = index as u64 * step;
            start..(start + step).min(len)
        })
    }

    /// The part of a base of so many bytes that a chunk refers to; none where it has none.
    pub fn base_of(self, chunk: &Range<u64>, base_len: u64) -> Option<Range<u64>> {
        match self {
            Self::Of(_) => (chunk.end <= base_len).then(|| chunk.clone()),
            Self::Document => {
                let start = chunk.start.saturating_sub(DOCUMENT_MARGIN).min(base_len);
                let end = (chunk.end + DOCUMENT_MARGIN).min(base_len);
                (start < end).then_some(start..end)
            }
        }
    }

    fn float(self) -> Option<FloatLayout> {
        match self {
            Self::Of(dtype) => FloatLayout::of(dtype),
            Self::Document => None,
        }
    }
}

/// Packs and unpacks chunks. It keeps its buffers; one for each thread.
#[derive(Debug, Default)]
pub struct Codec {
    float: float::Buffers,
    difference: difference::Buffers,
    planes: planes::Buffers,
}

impl Codec {
    /// Packs a chunk in the way that is smallest by estimate. The same bytes give the same.
    ///
    /// * `bytes`: whole elements
    /// * `base`: the part of the base that [`Elements::base_of`] says
    /// * `out`: is added to; at most a byte more than `bytes`
    pub fn pack(
        &mut self,
        elements: Elements,
        bytes: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Mode {
        let start = out.len();
        let mode = self.choose(elements, bytes, base, out);
        if out.len() - start > bytes.len() {
            out.truncate(start);
            out.push(Mode::Stored as u8);
            out.extend_from_slice(bytes);
            return Mode::Stored;
        }
        mode
    }

    fn choose(
        &mut self,
        elements: Elements,
        bytes: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Mode {
        let place = out.len();
        out.push(0);
        let mode = match (elements, elements.float()) {
            _ if base == Some(bytes) => Mode::Same,
            (Elements::Document, _) => {
                document::pack(bytes, base.unwrap_or_default(), out);
                if base.is_some() { Mode::ZstdOfBase } else { Mode::Zstd }
            }
            (_, Some(layout)) => {
                let alone = self.float.look(layout, bytes);
                match base.map(|base| (base, self.difference.look(layout, bytes, base))) {
                    Some((base, apart)) if apart < alone => {
                        self.difference.pack(layout, bytes, base, out);
                        Mode::Difference
                    }
                    _ => {
                        self.float.pack(layout, bytes, out);
                        Mode::Float
                    }
                }
            }
            (Elements::Of(dtype), None) => self.planes.pack(dtype, bytes, base, out),
        };
        out[place] = mode as u8;
        mode
    }

    /// Unpacks a chunk.
    ///
    /// * `packed`: what [`Codec::pack`] added
    /// * `base`: what was given there
    /// * `bytes`: as many as were packed; all are written
    ///
    /// # Errors
    /// The bytes are not those of such a chunk.
    pub fn unpack(
        &mut self,
        elements: Elements,
        packed: &[u8],
        base: Option<&[u8]>,
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        let (&mode, body) = packed.split_first().ok_or(CodecError::Cut)?;
        let mode = Mode::of(mode)?;
        let refuse = CodecError::Unfit { mode: mode as u8 };
        match (mode, elements, elements.float(), base) {
            (Mode::Stored, ..) => copy(body, bytes),
            (Mode::Same, .., Some(base)) => copy(base, bytes),
            (Mode::Float, _, Some(layout), _) => self.float.unpack(layout, body, bytes),
            (Mode::Difference, _, Some(layout), Some(base)) => {
                self.difference.unpack(layout, body, base, bytes)
            }
            (Mode::Planes, Elements::Of(dtype), None, _) => {
                self.planes.unpack(dtype, body, None, bytes)
            }
            (Mode::XorPlanes, Elements::Of(dtype), None, Some(base)) => {
                self.planes.unpack(dtype, body, Some(base), bytes)
            }
            (Mode::Zstd, Elements::Document, ..) => document::unpack(body, &[], bytes),
            (Mode::ZstdOfBase, Elements::Document, _, Some(base)) => {
                document::unpack(body, base, bytes)
            }
            _ => Err(refuse),
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> Result<(), CodecError> {
    if from.len() != to.len() {
        return Err(CodecError::Length { found: from.len(), expected: to.len() });
    }
    to.copy_from_slice(from);
    Ok(())
}
