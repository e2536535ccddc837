//! What chunks refer to.

use std::ops::Range;

use cart_format::codec::Elements;
use cart_format::packed::PackedBlob;

use crate::blob_source::{BlobError, BlobLocation};
use crate::file_error::FileError;
use crate::verify::Verified;

/// The blob of a base that a packed blob refers to, if it refers to one.
pub(super) struct BaseBlob {
    elements: Elements,
    from: Option<BlobLocation>,
}

impl BaseBlob {
    pub(super) fn new(elements: Elements, from: Option<BlobLocation>) -> Self {
        Self { elements, from }
    }

    pub(super) fn of(blob: &PackedBlob, base: Option<&Verified>) -> Result<Self, BlobError> {
        let from = blob.base.zip(base).map(|(twin, base)| base.cartridge().locate(&twin));
        Ok(Self::new(blob.elements, from.transpose()?))
    }

    /// Reads what a chunk refers to.
    ///
    /// * `bytes`: is replaced
    pub(super) fn read<'b>(
        &self,
        chunk: &Range<u64>,
        bytes: &'b mut Vec<u8>,
    ) -> Result<Option<&'b [u8]>, FileError> {
        let Some(from) = &self.from else { return Ok(None) };
        let Some(range) = self.elements.base_of(chunk, from.len) else { return Ok(None) };
        read(from, &range, bytes)?;
        Ok(Some(bytes))
    }
}

/// Reads a part of a blob.
///
/// * `bytes`: is replaced
pub(super) fn read(
    from: &BlobLocation,
    range: &Range<u64>,
    bytes: &mut Vec<u8>,
) -> Result<(), FileError> {
    bytes.resize((range.end - range.start) as usize, 0);
    from.read_at(bytes, range.start)
}
