//! Reading the single-file form, and taking it into a store.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::cartfile::{self, CartHead, CartPlan, Content};
use cart_format::safetensors::Parsed;
use cart_format::{BlobEntry, BlobId, CommitId, ManifestId};
use thiserror::Error;

use crate::audit::{Found, Part, Unit};
use crate::blob_source::{BlobError, BlobLocation, BlobSource};
use crate::cartridge::Cartridge;
use crate::file_error::{At as _, FileError};
use crate::ingest::{IngestError, Ingested};
use crate::objects::ObjectError;
use crate::progress::Progress;
use crate::source::{SourceRange, read_exact};
use crate::store::Store;
use crate::verify::{Damage, DamageKind, with_uses};

/// Bytes read first. Most heads are shorter.
const FIRST_READ: u64 = 64 << 10;

/// Why a file is not a usable `.cart` file, or was not taken in.
#[derive(Debug, Error)]
pub enum CartFileError {
    /// Its head or documents are damaged, foreign or edited.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<cartfile::CartFileError>,
    },
    /// Blobs in it are damaged; nothing was taken in.
    #[error("{} is damaged, nothing was taken in; get it again:{}", path.display(), listed(damage))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Each place of damage.
        damage: Vec<Damage>,
    },
    /// Taking in the blobs failed.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// Storing the manifest or the commit failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An open `.cart` file: where its blobs are.
#[derive(Debug)]
pub struct CartFile {
    file: Arc<File>,
    path: Arc<Path>,
    blobs: BTreeMap<BlobId, Range<u64>>,
}

/// What [`Store::import_cart`] took in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedCart {
    /// The cartridge.
    pub manifest: ManifestId,
    /// Its commit, if the file has one.
    pub commit: Option<CommitId>,
    /// Blobs in the file.
    pub blobs: u64,
    /// Bytes in the file's blobs.
    pub bytes: u64,
    /// Blobs that the store did not have.
    pub new_blobs: u64,
    /// Bytes of blobs that the store did not have.
    pub new_bytes: u64,
}

impl CartFile {
    /// Opens a `.cart` file: checks its header, its documents and its padding. The blobs are not
    /// looked at: [`Cartridge::verify`] does.
    ///
    /// # Errors
    /// It is not a `.cart` file, cut short, edited, saved again by another tool, or of a newer
    /// version.
    pub fn open(path: &Path) -> Result<Cartridge, CartFileError> {
        let file = File::open(path).at("open", path)?;
        let refuse = |source| CartFileError::Format { path: path.into(), source: Box::new(source) };
        let (head, header) = read_head(&file, path)?;
        let manifest_bytes = read_range(&file, path, &head.manifest_range())?;
        let commit_range = head.commit_range();
        let commit_bytes = commit_range.map(|range| read_range(&file, path, &range)).transpose()?;
        let header = &header[..head.data_start() as usize];
        let (manifest, commit, plan) =
            head.check(header, &manifest_bytes, commit_bytes.as_deref()).map_err(refuse)?;
        check_padding(&file, path, &plan)?;
        let blobs = plan.parts.iter().filter_map(|part| match part.content {
            Content::Blob(blob) => Some((blob, part.range.clone())),
            _ => None,
        });
        let source = Self { path: path.into(), blobs: blobs.collect(), file: Arc::new(file) };
        let id = ManifestId::of(&manifest_bytes);
        let commit = commit_bytes.map(|bytes| CommitId::of(&bytes)).zip(commit);
        Ok(Cartridge::new(manifest, id, commit, Arc::new(source)))
    }
}

impl BlobSource for CartFile {
    fn locate(&self, blob: &BlobId) -> Result<BlobLocation, BlobError> {
        let Some(range) = self.blobs.get(blob) else {
            return Err(BlobError::Absent { blob: *blob, at: self.path.to_path_buf() });
        };
        let (file, path) = (Arc::clone(&self.file), Arc::clone(&self.path));
        Ok(BlobLocation { file, path, offset: range.start, len: range.end - range.start })
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Takes a `.cart` file in: blobs, manifest and commit. No name points to it yet. Every blob's
    /// id and segments are recomputed from what is written, and nothing enters unless all match.
    ///
    /// # Errors
    /// The file is damaged or not a `.cart` file, or the store can't be written.
    pub fn import_cart(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<ImportedCart, CartFileError> {
        let _guard = self.hold()?;
        let cartridge = CartFile::open(path)?;
        let manifest = cartridge.manifest();
        let wanted: Vec<(&BlobId, &BlobEntry)> = manifest.blobs.iter().collect();
        let mut sources = Vec::new();
        for (blob, _) in &wanted {
            let at = cartridge.locate(blob).expect("the plan has every blob of the manifest");
            sources.push(SourceRange::range(&at.file, &at.path, at.offset, at.len));
        }
        let matches = |index: usize, found: &Ingested| {
            let (blob, entry) = wanted[index];
            (&found.blob, &found.entry) == (blob, entry)
        };
        let taken = match self.ingest_if(&sources, progress, matches) {
            Err(IngestError::Differs { differing }) => {
                let found =
                    differing.iter().flat_map(|(at, found)| differences(wanted[*at], found));
                let damage = with_uses(manifest, found.collect());
                return Err(CartFileError::Damaged { path: path.to_path_buf(), damage });
            }
            taken => taken?,
        };
        let id = self.put_manifest(manifest)?;
        let commit = cartridge.commit().map(|(_, commit)| self.put_commit(commit)).transpose()?;
        Ok(ImportedCart {
            manifest: id,
            commit,
            blobs: wanted.len() as u64,
            bytes: manifest.total_bytes(),
            new_blobs: taken.iter().filter(|blob| blob.new_bytes > 0).count() as u64,
            new_bytes: taken.iter().map(|blob| blob.new_bytes).sum(),
        })
    }
}

/// What differs between a blob of the manifest and what was read: its segments, if it has them.
fn differences((&blob, entry): (&BlobId, &BlobEntry), found: &Ingested) -> Vec<Found> {
    let digests = found.entry.segments.iter();
    let pairs = Unit::segments(blob, entry).zip(digests);
    let segments: Vec<Found> =
        pairs.filter_map(|(unit, digest)| unit.compare(*digest.as_bytes())).collect();
    if segments.is_empty() {
        let kind = DamageKind::Digest { found: found.blob.hex() };
        return vec![(blob, Part::Whole, kind)];
    }
    segments
}

/// The head, and the bytes that it was read from.
fn read_head(file: &File, path: &Path) -> Result<(CartHead, Vec<u8>), CartFileError> {
    let len = file.metadata().at("read", path)?.len();
    let mut wanted = len.min(FIRST_READ);
    loop {
        let prefix = read_range(file, path, &(0..wanted))?;
        match CartHead::parse(&prefix, len) {
            Ok(Parsed::Head(head)) => return Ok((head, prefix)),
            Ok(Parsed::NeedMore(bytes)) => wanted = bytes,
            Err(source) => {
                let (path, source) = (path.to_path_buf(), Box::new(source));
                return Err(CartFileError::Format { path, source });
            }
        }
    }
}

/// Reads a range whose length was checked against a limit.
fn read_range(file: &File, path: &Path, range: &Range<u64>) -> Result<Vec<u8>, FileError> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    read_exact(file, path, &mut bytes, range.start)?;
    Ok(bytes)
}

/// Padding is under 64 bytes a piece.
fn check_padding(file: &File, path: &Path, plan: &CartPlan) -> Result<(), CartFileError> {
    for part in plan.parts.iter().filter(|part| part.content == Content::Padding) {
        if read_range(file, path, &part.range)?.iter().any(|&byte| byte != 0) {
            let source = Box::new(cartfile::CartFileError::Padding { name: part.name.clone() });
            return Err(CartFileError::Format { path: path.to_path_buf(), source });
        }
    }
    Ok(())
}

fn listed(damage: &[Damage]) -> String {
    let lines: Vec<String> = damage.iter().map(ToString::to_string).collect();
    format!("\n  {}", lines.join("\n  "))
}
