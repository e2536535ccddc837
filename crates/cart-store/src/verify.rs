//! Recomputing every digest of a cartridge, on all cores.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use cart_format::{BlobId, DType, Manifest, ManifestId};
use serde::Serialize;
use thiserror::Error;

use crate::audit::{Audit, Found, Unit, audit};
use crate::blob_source::{BlobError, MappedBlob};
use crate::cartridge::Cartridge;
use crate::finite::{self, FiniteScan, NotFinite};
use crate::hashing::Cancelled;
use crate::progress::Progress;
use crate::witness::{Nobody, Witness};

/// How to verify.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Threads that hash; every core if absent.
    pub threads: Option<usize>,
    /// Whether to recompute the ids of blobs over 16 MiB as well. Their segments, which the
    /// manifest's id covers, are always checked.
    pub whole: bool,
}

/// Why there is no [`Verified`] cartridge.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Blobs are damaged or missing: all of them are listed.
    #[error("{}", damaged_text(manifest, place, damage))]
    Damaged {
        /// The cartridge.
        manifest: ManifestId,
        /// The store or file.
        place: PathBuf,
        /// Each place of damage, in the order of blob ids and segments.
        damage: Vec<Damage>,
        /// What was looked at.
        report: Box<VerifyReport>,
    },
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; the cartridge is not verified")]
    Cancelled,
}

/// One place of damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The blob.
    pub blob: BlobId,
    /// What it is for: ``tensor `x` ``, `tokenizer document`, …
    pub uses: Vec<String>,
    /// What is wrong.
    #[serde(flatten)]
    pub kind: DamageKind,
}

/// What is wrong with a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DamageKind {
    /// It is not there.
    Missing,
    /// It has another length.
    Size {
        /// Its length.
        found: u64,
        /// The length by the manifest.
        expected: u64,
    },
    /// Its bytes have another digest.
    Digest {
        /// The digest of its bytes.
        found: String,
    },
    /// One of its segments has another digest.
    Segment {
        /// Which, from 0.
        segment: u64,
        /// Where it begins in the blob.
        start: u64,
        /// Where it ends.
        end: u64,
        /// The digest of its bytes.
        found: String,
    },
    /// A chunk of a packed file has another digest.
    Chunk {
        /// Which of the blob, from 0.
        chunk: u64,
        /// Where it begins in the file.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The system could not read it.
    Unreadable {
        /// What the system said.
        reason: String,
    },
}

/// What was verified, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Blobs of the cartridge; each was looked for.
    pub blobs: u64,
    /// Segments of blobs over 16 MiB among them.
    pub segments: u64,
    /// Bytes hashed; none of a blob that is missing or could not be read.
    pub bytes: u64,
    /// Whether the weights are numbers. Weights that are not are no damage: they are what was
    /// packed.
    pub finite: FiniteScan,
    /// How long it took.
    pub seconds: f64,
    /// Threads that hashed.
    pub threads: usize,
}

/// A cartridge whose every blob was hashed and matched. [`Cartridge::verify`] is its only maker.
#[derive(Clone, Debug)]
pub struct Verified {
    cartridge: Cartridge,
    report: VerifyReport,
}

impl Verified {
    /// The cartridge.
    pub fn cartridge(&self) -> &Cartridge {
        &self.cartridge
    }

    /// What was verified.
    pub fn report(&self) -> &VerifyReport {
        &self.report
    }

    /// What the cartridge is.
    pub fn manifest(&self) -> &Manifest {
        self.cartridge.manifest()
    }

    /// The cartridge's id.
    pub fn manifest_id(&self) -> ManifestId {
        self.cartridge.manifest_id()
    }

    /// Refuses weights that can't be computed with: those with a value that is infinite or not a
    /// number.
    ///
    /// # Errors
    /// The first such value.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        self.report.finite.first.clone().map_or(Ok(()), |first| Err(*first))
    }

    /// As [`Cartridge::map`].
    ///
    /// # Errors
    /// As [`Cartridge::map`].
    pub fn map(&self, blob: &BlobId) -> Result<MappedBlob, BlobError> {
        self.cartridge.map(blob)
    }

    /// As [`Cartridge::read`].
    ///
    /// # Errors
    /// As [`Cartridge::read`].
    pub fn read(&self, blob: &BlobId, limit: u64) -> Result<Vec<u8>, BlobError> {
        self.cartridge.read(blob, limit)
    }
}

impl Cartridge {
    /// Hashes every blob: up to 16 MiB by its id, longer ones by their segments, which the manifest
    /// holds. All damage is collected, not only the first.
    ///
    /// # Errors
    /// A blob is missing or damaged, or `progress` cancelled.
    pub fn verify(
        self,
        options: &VerifyOptions,
        progress: &dyn Progress,
    ) -> Result<Verified, VerifyError> {
        self.verify_before(options, progress, &Nobody)
    }

    /// As [`Cartridge::verify`], before a witness that sees what is read.
    ///
    /// # Errors
    /// As [`Cartridge::verify`].
    pub fn verify_before(
        self,
        options: &VerifyOptions,
        progress: &dyn Progress,
        witness: &dyn Witness,
    ) -> Result<Verified, VerifyError> {
        let (damage, report) = examine(&self, options, progress, witness)
            .map_err(|Cancelled| VerifyError::Cancelled)?;
        if damage.is_empty() {
            return Ok(Verified { cartridge: self, report });
        }
        let place = self.place().to_path_buf();
        let (manifest, report) = (self.manifest_id(), Box::new(report));
        Err(VerifyError::Damaged { manifest, place, damage, report })
    }
}

/// Looks at every blob.
fn examine(
    cartridge: &Cartridge,
    options: &VerifyOptions,
    progress: &dyn Progress,
    witness: &dyn Witness,
) -> Result<(Vec<Damage>, VerifyReport), Cancelled> {
    let began = Instant::now();
    let manifest = cartridge.manifest();
    let mut units = Vec::new();
    let types = types(manifest);
    for (&blob, entry) in &manifest.blobs {
        let types = types.get(&blob).map_or(&[][..], Vec::as_slice);
        let interest = witness.interest(&blob);
        let looked_at = |unit: Unit| unit.of_types(types).shown(interest);
        units.extend(Unit::segments(blob, entry).map(looked_at));
        if entry.segments.is_empty() {
            units.push(looked_at(Unit::whole(blob, entry.size)));
        } else if options.whole {
            units.push(Unit::whole(blob, entry.size));
        }
    }
    let segments = units.iter().filter(|unit| unit.is_segment()).count() as u64;
    let locate = |blob: &BlobId| cartridge.locate(blob);
    let Audit { found, not_finite, bytes, threads } =
        audit(units, options.threads, &locate, progress, witness)?;
    let blobs = manifest.blobs.len() as u64;
    let seconds = began.elapsed().as_secs_f64();
    let damaged = found.iter().map(|(blob, ..)| *blob).collect();
    let finite = finite::scanned(manifest, &not_finite, &damaged);
    let report = VerifyReport { blobs, segments, bytes, finite, seconds, threads };
    Ok((with_uses(manifest, found), report))
}

/// The element types of each blob of weights.
fn types(manifest: &Manifest) -> BTreeMap<BlobId, Vec<DType>> {
    let mut types: BTreeMap<BlobId, Vec<DType>> = BTreeMap::new();
    for entry in manifest.model.tensors.values() {
        let types = types.entry(entry.blob).or_default();
        if !types.contains(&entry.dtype) {
            types.push(entry.dtype);
        }
    }
    types
}

impl From<BlobError> for DamageKind {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Absent { .. } => Self::Missing,
            BlobError::Size { found, expected, .. } => Self::Size { found, expected },
            other => Self::Unreadable { reason: other.to_string() },
        }
    }
}

pub(crate) fn with_uses(manifest: &Manifest, found: Vec<Found>) -> Vec<Damage> {
    if found.is_empty() {
        return Vec::new();
    }
    let mut uses: BTreeMap<BlobId, Vec<String>> = BTreeMap::new();
    for (what, blob) in manifest.uses() {
        uses.entry(blob).or_default().push(what);
    }
    let of = |blob: &BlobId| uses.get(blob).cloned().unwrap_or_default();
    found.into_iter().map(|(blob, _, kind)| Damage { blob, uses: of(&blob), kind }).collect()
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (blob {}): {}", self.uses.join(", "), self.blob, self.kind)
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Size { found, expected } => {
                write!(f, "has {found} bytes; the manifest says {expected}")
            }
            Self::Digest { found } => write!(f, "bytes differ: their digest is {found}"),
            Self::Segment { segment, start, end, .. } => {
                write!(f, "segment {segment} (bytes {start}..{end}) differs")
            }
            Self::Chunk { chunk, start, end } => {
                write!(f, "packed chunk {chunk} (bytes {start}..{end} of the file) differs")
            }
            Self::Unreadable { reason } => f.write_str(reason),
        }
    }
}

fn damaged_text(manifest: &ManifestId, place: &std::path::Path, damage: &[Damage]) -> String {
    use fmt::Write as _;
    let places = if damage.len() == 1 { "place" } else { "places" };
    let mut text = format!(
        "cartridge {manifest} in {} is damaged in {} {places}; restore it from a copy, or pack it again:",
        place.display(),
        damage.len()
    );
    for one in damage {
        write!(text, "\n  {one}").expect("writing to a string does not fail");
    }
    text
}
