//! Verifying packed files.

use std::time::Instant;

use cart_format::codec::Codec;
use cart_format::limits::SEGMENT;
use cart_format::packed::PackedBlob;
use cart_format::{BlobEntry, BlobId, Hasher, SegmentId};
use rayon::prelude::*;
use serde::Serialize;

use super::file::PackedFile;
use super::source::BaseBlob;
use super::unpack::UnpackError;
use crate::audit::{Found, Part};
use crate::progress::Progress;
use crate::verify::{Damage, DamageKind, Verified, with_uses};

/// What was verified of a packed file, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PackedAudit {
    /// Chunks; each was compared with its digest.
    pub chunks: u64,
    /// Their bytes.
    pub packed_bytes: u64,
    /// Blobs that were unpacked and compared with their ids: all of the file, or none where the base is not
    /// at hand.
    pub unpacked_blobs: u64,
    /// Their bytes.
    pub unpacked_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl PackedFile {
    /// Compares every chunk with its digest and, if the base is given or none is needed, unpacks every blob
    /// and compares it with its id. All damage is collected.
    ///
    /// # Errors
    /// The base is another, it can't be read, or `progress` cancelled.
    pub fn audit(
        &self,
        base: Option<&Verified>,
        progress: &dyn Progress,
    ) -> Result<(Vec<Damage>, PackedAudit), UnpackError> {
        let began = Instant::now();
        let packed = self.packed();
        let unpacks = packed.base.is_none() || base.is_some();
        if unpacks {
            self.check_base(base)?;
        }
        progress.total(packed.blobs.iter().map(PackedBlob::packed).sum());
        let mut blobs: Vec<&PackedBlob> = packed.blobs.iter().collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        let look = |blob: &&PackedBlob| self.look(blob, base, unpacks, progress);
        let found = blobs.par_iter().with_max_len(1).map(look).collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<Found> = found.into_iter().flatten().collect();
        found.sort_by_key(|(blob, part, _)| (*blob, *part));
        let counted = |count: u64| if unpacks { count } else { 0 };
        let audit = PackedAudit {
            chunks: blobs.iter().map(|blob| blob.chunks.len() as u64).sum(),
            packed_bytes: blobs.iter().map(|blob| blob.packed()).sum(),
            unpacked_blobs: counted(blobs.len() as u64),
            unpacked_bytes: counted(blobs.iter().map(|blob| blob.size).sum()),
            seconds: began.elapsed().as_secs_f64(),
        };
        Ok((with_uses(&packed.manifest, found), audit))
    }

    fn look(
        &self,
        blob: &PackedBlob,
        base: Option<&Verified>,
        unpacks: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<Found>, UnpackError> {
        let (mut packed, mut of_base, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        let mut codec = Codec::default();
        let mut found = Vec::new();
        let mut digests = Digests::default();
        let base = BaseBlob::of(blob, base)?;
        for (number, range) in blob.elements.chunks(blob.size).enumerate() {
            if progress.cancelled() {
                return Err(UnpackError::Cancelled);
            }
            if !self.chunk(&blob.chunks[number], &mut packed)? {
                found.push(chunk_damage(blob, number));
            }
            progress.add(packed.len() as u64);
            if !unpacks || !found.is_empty() {
                continue;
            }
            let of_base = base.read(&range, &mut of_base)?;
            bytes.resize((range.end - range.start) as usize, 0);
            if let Err(error) = codec.unpack(blob.elements, &packed, of_base, &mut bytes) {
                let kind = DamageKind::Unreadable { reason: error.to_string() };
                found.push((blob.blob, Part::Whole, kind));
                continue;
            }
            digests.update(&bytes);
        }
        if unpacks && found.is_empty() {
            found.extend(digests.compare(blob, &self.packed().manifest.blobs[&blob.blob]));
        }
        Ok(found)
    }
}

/// A chunk that has not its digest.
pub(super) fn chunk_damage(blob: &PackedBlob, number: usize) -> Found {
    let (range, _) = &blob.chunks[number];
    let kind = DamageKind::Chunk { chunk: number as u64, start: range.start, end: range.end };
    (blob.blob, Part::Whole, kind)
}

/// What a blob is for, for people.
pub(super) fn use_of(file: &PackedFile, blob: &BlobId) -> String {
    let uses = file.packed().manifest.uses();
    uses.into_iter().find(|(_, used)| used == blob).map_or_else(|| blob.hex(), |(what, _)| what)
}

/// The digest of a blob and those of its segments.
#[derive(Default)]
struct Digests {
    whole: Hasher,
    segment: Hasher,
    segments: Vec<SegmentId>,
    len: u64,
}

impl Digests {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (SEGMENT - self.len % SEGMENT).min(bytes.len() as u64);
            let (now, rest) = bytes.split_at(room as usize);
            self.whole.update_pair(now, &mut self.segment, now);
            self.len += room;
            if self.len.is_multiple_of(SEGMENT) {
                self.end_segment();
            }
            bytes = rest;
        }
    }

    fn end_segment(&mut self) {
        let done = std::mem::take(&mut self.segment).finish();
        self.segments.push(SegmentId::from_bytes(done));
    }

    fn compare(mut self, blob: &PackedBlob, entry: &BlobEntry) -> Option<Found> {
        if !self.len.is_multiple_of(SEGMENT) {
            self.end_segment();
        }
        let segments = if self.len > SEGMENT { self.segments } else { Vec::new() };
        let found = BlobId::from_bytes(self.whole.finish());
        let matches = found == blob.blob && segments == entry.segments;
        let kind = DamageKind::Digest { found: found.hex() };
        (!matches).then_some((blob.blob, Part::Whole, kind))
    }
}
