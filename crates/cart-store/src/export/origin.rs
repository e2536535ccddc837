//! Whether a cartridge still is what was imported.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cart_format::limits::HEADER_BYTES;
use cart_format::safetensors::{Parsed, TensorRange};
use cart_format::{BlobId, Origin, OriginFile, OriginKind, Piece, gguf, safetensors};

use crate::cartridge::Cartridge;
use crate::export::error::ExportError;

/// Compares the tensors with those that the heads of the imported files speak of.
///
/// # Errors
/// A tensor is another one, is new or is gone, or a head can't be read.
pub(crate) fn check_tensors(cartridge: &Cartridge, origin: &Origin) -> Result<(), ExportError> {
    let tensors = &cartridge.manifest().model.tensors;
    let mut seen = BTreeSet::new();
    for file in origin.files.iter().filter(|file| has_tensors(origin.kind, file)) {
        let blobs = blobs_by_range(cartridge, file);
        for tensor in head(cartridge, origin.kind, file)? {
            let original = blobs.get(&(tensor.range.start, tensor.range.end));
            let now = tensors.get(&tensor.name).map(|entry| &entry.blob);
            if original.is_none() || now != original {
                return Err(ExportError::TensorsChanged { tensor: tensor.name.to_string() });
            }
            seen.insert(tensor.name);
        }
    }
    match tensors.keys().find(|name| !seen.contains(*name)) {
        Some(new) => Err(ExportError::TensorsChanged { tensor: new.to_string() }),
        None => Ok(()),
    }
}

/// In a folder, other files are kept whole, as one piece.
fn has_tensors(kind: OriginKind, file: &OriginFile) -> bool {
    kind != OriginKind::Hf || (file.pieces.len() > 1 && file.path.ends_with(".safetensors"))
}

fn blobs_by_range(cartridge: &Cartridge, file: &OriginFile) -> BTreeMap<(u64, u64), BlobId> {
    let mut at = 0;
    let mut blobs = BTreeMap::new();
    for piece in &file.pieces {
        let Range { start, end } = at..at + length(cartridge, piece);
        if let Piece::Blob(blob) = piece {
            blobs.insert((start, end), *blob);
        }
        at = end;
    }
    blobs
}

/// Length of a piece. The manifest was checked, so that every blob is listed.
pub(crate) fn length(cartridge: &Cartridge, piece: &Piece) -> u64 {
    match piece {
        Piece::Zeros(zeros) => *zeros,
        Piece::Blob(blob) => cartridge.manifest().blobs[blob].size,
    }
}

fn head(
    cartridge: &Cartridge,
    kind: OriginKind,
    file: &OriginFile,
) -> Result<Vec<TensorRange>, ExportError> {
    let changed = || ExportError::TensorsChanged { tensor: file.path.clone() };
    let Some(Piece::Blob(first)) = file.pieces.first() else { return Err(changed()) };
    let bytes = cartridge.read(first, HEADER_BYTES + safetensors::LENGTH_BYTES)?;
    let name = || file.path.clone();
    let tensors = if kind == OriginKind::Gguf {
        let parsed = gguf::Head::parse(&bytes, file.size)
            .map_err(|source| ExportError::GgufHead { file: name(), source })?;
        if let Parsed::Head(head) = parsed { Some(head.tensors) } else { None }
    } else {
        let parsed = safetensors::Head::parse(&bytes, file.size)
            .map_err(|source| ExportError::SafetensorsHead { file: name(), source })?;
        if let Parsed::Head(head) = parsed { Some(head.tensors) } else { None }
    };
    // The first piece is the whole head, unless someone cut the pieces anew.
    tensors.ok_or_else(changed)
}
