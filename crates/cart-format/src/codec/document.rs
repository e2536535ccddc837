//! Documents: zstd frames, which may refer to a base.

use std::io::{Read as _, Write as _};

use zstd::stream::{Decoder, Encoder};

use super::error::CodecError;

/// Higher levels take far longer and gain little on documents of a few MB.
const LEVEL: i32 = 7;
/// A chunk and what it sees of its base fit into this window, which is 8 MiB.
const WINDOW_LOG: u32 = 23;

/// Packs a document.
///
/// * `base`: what the frame refers to; may be empty
pub(super) fn pack(bytes: &[u8], base: &[u8], out: &mut Vec<u8>) {
    let written = (|| {
        let mut encoder = Encoder::with_ref_prefix(&mut *out, LEVEL, base)?;
        encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
        encoder.include_contentsize(false)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.long_distance_matching(!base.is_empty())?;
        encoder.write_all(bytes)?;
        encoder.finish().map(drop)
    })();
    let written: std::io::Result<()> = written;
    written.expect("writing to memory does not fail");
}

/// Unpacks a document.
///
/// * `bytes`: as many as were packed
pub(super) fn unpack(packed: &[u8], base: &[u8], bytes: &mut [u8]) -> Result<(), CodecError> {
    let mut decoder =
        Decoder::with_ref_prefix(packed, base).map_err(CodecError::Zstd)?.single_frame();
    decoder.window_log_max(WINDOW_LOG).map_err(CodecError::Zstd)?;
    decoder.read_exact(bytes).map_err(CodecError::Zstd)?;
    if decoder.read(&mut [0]).map_err(CodecError::Zstd)? > 0 {
        return Err(CodecError::Length { found: bytes.len() + 1, expected: bytes.len() });
    }
    let rest = decoder.finish().len();
    if rest == 0 { Ok(()) } else { Err(CodecError::Rest { bytes: rest }) }
}
